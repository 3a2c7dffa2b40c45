"""The MTP head that a source has of its own: whether it is whole, and what shall become of it."""

from collections.abc import Iterable
from typing import Literal

from scion.architectures.families import in_head
from scion.architectures.inventory import Inventory
from scion.architectures.sound_names import SoundNames
from scion.common.errors import ScionError

OwnHead = Literal["absent", "kept", "removed"]
"""What is asked of a source: to have no head, to have a whole one that stays, or either, and none
stays."""


def own_head(names: Iterable[str], expected: Inventory) -> set[str]:
    """The tensors of its MTP head that a checkpoint has, by the names that config.json implies.

    Args:
        names: Of all its tensors; prefixes may be wrong, experts stacked.
        expected: The tensors that its config.json implies.
    """
    of_head = [name for name in names if in_head(name)]
    if not of_head:
        return set()
    sound = SoundNames([*expected.tensors, *expected.stacked], expected.family)
    meant = {name for key in of_head if (name := sound.of(key)) is not None}
    for stack in meant & expected.stacked.keys():
        meant.update(expected.stacked[stack].members)
    return expected.mtp.keys() & meant


def require_own_head(
    wanted: OwnHead, found: set[str], expected: Inventory, *, where: object
) -> None:
    """Hold a source against what the configuration says of its own head.

    Args:
        wanted: What shall become of it.
        found: What `own_head` gives.
        expected: The tensors that its config.json implies.
        where: The source, to name in errors.

    Raises:
        ScionError: It has a head, and the release's comes from elsewhere; or its own shall stay,
            and is not there as a whole.
    """
    if wanted == "absent" and found:
        raise ScionError(
            "the source has an MTP head of its own, and the release is to have another or none",
            where=where,
            expected="one head to take, or a word that the source's is given up",
            found=f"{len(found)} of the {len(expected.mtp)} tensors of its own, such as "
            f"{min(found)}",
            hint="mtp.origin: source (with donor: null) keeps the source's; "
            "mtp.replaces_own: true gives it up for the donor's, or for none",
        )
    if wanted == "kept" and (not expected.mtp or len(found) < len(expected.mtp)):
        missing = sorted(expected.mtp.keys() - found)
        raise ScionError(
            "the source has no whole MTP head to keep",
            where=where,
            expected=f"{len(expected.mtp)} tensors: {', '.join(sorted(expected.mtp)[:3])}, …"
            if expected.mtp
            else "a config.json that declares one",
            found=f"{len(found)} of them, without {', '.join(missing[:3])}"
            if missing
            else f"none in config.json ({expected.family.title})",
            hint="set mtp.origin: donor and name the base model as donor, or mtp.origin: none",
        )
