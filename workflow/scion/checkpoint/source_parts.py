"""The parts of a source beside its language model, and which of them a release keeps.

The language model is what is quantized. An MTP head of the source's own and the vision tower stay
in bf16: they go around the quantizer, and into the release as they are.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from scion.architectures.families import in_head
from scion.architectures.inventory import Inventory
from scion.architectures.sound_names import SoundNames
from scion.architectures.text_only import text_config
from scion.checkpoint.own_head import OwnHead, own_head, require_own_head
from scion.checkpoint.release_files import PROCESSOR_FILES, without_code
from scion.common.errors import ScionError


@dataclass(frozen=True)
class Kept:
    """What a release keeps of its source beside the language model.

    Attributes:
        tower: Whether its vision tower.
        head: What becomes of its own MTP head; it stays where this is "kept".
    """

    tower: bool
    head: OwnHead

    def __post_init__(self) -> None:
        """Refuse a word that is none of them."""
        if self.head not in get_args(OwnHead):
            raise ValueError(self.head)

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """config.json of the release, from the source's, but for its quantization."""
        keep_head = self.head == "kept"
        return without_code(text_config(config, text_only=not self.tower, keep_head=keep_head))

    def files(self, names: Collection[str]) -> list[str]:
        """Those of the source's files that only a vision tower has a use for, and that stay."""
        return sorted(name for name in names if name in PROCESSOR_FILES) if self.tower else []


LANGUAGE_MODEL = Kept(tower=False, head="removed")
"""Nothing, whatever there is."""
NO_PARTS = Kept(tower=False, head="absent")
"""Nothing, of a source that has no head which would be lost."""


@dataclass(frozen=True)
class SourceParts:
    """The tensors of a source beside those of its language model, by part.

    Attributes:
        tower: Of the vision tower.
        head: Of its own MTP head, whether that is whole or not.
    """

    tower: tuple[str, ...]
    head: tuple[str, ...]

    @classmethod
    def of(cls, names: Collection[str], expected: Inventory) -> "SourceParts":
        """Find them.

        Args:
            names: Of all tensors of a checkpoint with sound keys.
            expected: The tensors that its config.json implies.
        """
        tower = tuple(name for name in expected.vision if name in names)
        return cls(tower, tuple(sorted(filter(in_head, names))))

    @property
    def beside(self) -> set[str]:
        """All of them: none is of the language model."""
        return {*self.tower, *self.head}

    def kept(self, kept: Kept) -> dict[str, tuple[str, ...]]:
        """Those that stay, by what their part is called in names of shards."""
        parts = {
            "mtp": self.head if kept.head == "kept" else (),
            "vision": self.tower if kept.tower else (),
        }
        return {part: names for part, names in parts.items() if names}


def require_parts(
    kept: Kept, names: Collection[str], expected: Inventory, *, where: object
) -> None:
    """Hold a source against what is asked for.

    Args:
        kept: What is asked for.
        names: Of all its tensors; prefixes may be wrong, experts stacked.
        expected: The tensors that its config.json implies.
        where: The source, to name in errors.

    Raises:
        ScionError: Tower or head shall stay, and is not there; or there is a head, and nothing
            says that it may go.
    """
    if kept.tower and expected.vision and not _has_tower(names, expected):
        raise ScionError(
            "the source has no vision tower to keep",
            where=where,
            expected=f"{len(expected.vision)} tensors such as {next(iter(expected.vision))}",
            found="none of them, and a vision_config",
            hint="set text_only: true, or name a source that has its tower",
        )
    require_own_head(kept.head, own_head(names, expected), expected, where=where)


def _has_tower(names: Collection[str], expected: Inventory) -> bool:
    sound = SoundNames([*expected.tensors, *expected.stacked], expected.family)
    return any(sound.of(name) in expected.vision for name in names)
