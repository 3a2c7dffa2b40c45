"""Which tensor a key with a wrong prefix means: the names that config.json implies decide.

Exports that save a wrapped model repeat a module's prefix in every key, or leave one out. Each key
belongs to the expected name with which it shares the longest run of trailing parts, if whatever
stands before that is made of the model's own prefixes. What PEFT puts around a model and
its layers is taken off first.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from scion.architectures.families import in_head
from scion.architectures.family import Family
from scion.architectures.inventory import Inventory
from scion.architectures.stacks import taken_apart
from scion.common.errors import ScionError

# https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/tuners_utils.py
_PEFT_MODEL, _PEFT_LAYER = "base_model.model.", ".base_layer."


class SoundNames:
    """Finds the expected name of a key.

    Args:
        wanted: Every name that config.json implies.
        family: The row that it follows from.
    """

    def __init__(self, wanted: Iterable[str], family: Family) -> None:
        self._wanted = frozenset(wanted)
        head = [family.head.prefix] if family.head else []
        self._prefixes = (family.prefix, family.vision_prefix, *head)
        self._parts = {part for name in self._wanted for part in name.split(".")}
        self._by_suffix: dict[str, list[str]] = {}
        for name in self._wanted:
            pieces = name.split(".")
            for start in range(len(pieces)):
                self._by_suffix.setdefault(".".join(pieces[start:]), []).append(name)

    def of(self, key: str) -> str | None:
        """The expected name that a key means; None where it fits none, or more than one."""
        key = without_peft(key)
        if key in self._wanted:
            return key
        pieces = key.split(".")
        for start in range(len(pieces)):
            suffix = ".".join(pieces[start:])
            names = self._by_suffix.get(suffix)
            if names is not None:
                names = names if len(names) == 1 else self._whole(names, suffix, key)
                # Whatever stands before must be the model's own prefixes over again.
                repeated = all(piece in self._parts for piece in pieces[:start])
                return names[0] if len(names) == 1 and repeated else None
        return None

    def _whole(self, names: list[str], suffix: str, key: str) -> list[str]:
        """Those of which a suffix is all that stands behind a prefix of the model's.

        Layers of the head end like those of the decoder; a key that means them has the head's
        prefix.
        """
        candidates = {prefix + suffix for prefix in self._prefixes}.intersection(names)
        return [name for name in candidates if in_head(name) == in_head(key)]


def without_peft(key: str) -> str:
    """A tensor's name without what PEFT has put around the model and its adapted layers."""
    return key.removeprefix(_PEFT_MODEL).replace(_PEFT_LAYER, ".")


def prefix_rules(names: Mapping[str, str]) -> Counter[tuple[str, str]]:
    """How often each wrong prefix stands for which right one; PEFT's stands for none.

    Args:
        names: Expected name by key; keys that are right count for nothing.
    """
    rules = Counter[tuple[str, str]]()
    for key, new in names.items():
        old = without_peft(key)
        rules.update([(_PEFT_MODEL, "")] * (old != key))
        rules.update([_rule(old, new)] * (old != new))
    return rules


def _rule(old: str, new: str) -> tuple[str, str]:
    """What stands before the part that old and new name share, the repeated module included."""
    olds, news = old.split("."), new.split(".")
    shared = 0
    while shared < len(news) and olds[-1 - shared :] == news[-1 - shared :]:
        shared += 1
    extra = set(olds[: len(olds) - shared])
    while shared and olds[len(olds) - shared] in extra:
        shared -= 1
    return (
        "".join(f"{part}." for part in olds[: len(olds) - shared]),
        "".join(f"{part}." for part in news[: len(news) - shared]),
    )


def sound_names(keys: Iterable[str], expected: Inventory, *, where: object) -> dict[str, str]:
    """The expected name of each key.

    Args:
        keys: The checkpoint's tensor names.
        expected: The tensors that its config.json implies. The MTP head and the vision tower may
            each be missing as a whole; the experts of a layer may be stacked.
        where: The folder to name in errors.

    Raises:
        ScionError: A key fits no expected name, two keys fit the same, or an expected tensor has
            no key.
    """
    wanted = expected.tensors
    sound = SoundNames(expected.storable, expected.family)
    names = {key: sound.of(key) for key in keys}
    unknown = [key for key, name in names.items() if name is None]
    stored = [name for name in names.values() if name is not None]
    counts = Counter(taken_apart(stored, expected.stacked))
    twice = [name for name, count in counts.items() if count > 1]
    absent = [part for part in (expected.vision, expected.mtp) if part.keys().isdisjoint(counts)]
    left_out = {name for part in absent for name in part}
    missing = [name for name in wanted if name not in counts and name not in left_out]
    if unknown or twice or missing:
        raise ScionError(
            "the checkpoint's tensors are not those that config.json implies",
            where=where,
            expected=f"{len(wanted)} tensors, of which the {len(expected.vision)} of the tower and "
            f"the {len(expected.mtp)} of the MTP head may be absent",
            found="; ".join(
                f"{len(group)} {label}, first {group[0]}"
                for label, group in (
                    ("unexpected", unknown),
                    ("claimed by two keys", twice),
                    ("missing", missing),
                )
                if group
            ),
            hint="check that config.json and the shards are of the same model and revision",
        )
    return {key: name for key, name in names.items() if name is not None}
