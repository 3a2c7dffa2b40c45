"""What each tensor of a release is: of a quantized module, or stored as it was; by sound names."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from scion.architectures.sound_names import SoundNames
from scion.audit.weights import Extent, Extents, RangedCheckpoint
from scion.common.errors import ScionError
from scion.formats.modelopt import FP8, NVFP4, W4A16
from scion.formats.spellings import SPELLINGS, SpelledTensor, declared_spelling

_PACKED = {NVFP4: "U8", W4A16: "U8", FP8: "F8_E4M3"}


@dataclass(frozen=True)
class StoredModule:
    """A quantized module.

    Attributes:
        name: Its sound name.
        algorithm: NVFP4, W4A16 or FP8, by the tensors that it has.
        parts: Its tensors by suffix, as `scion.formats.stored_modules.layout` calls them.
        spelled: How each of them is stored.
    """

    name: str
    algorithm: str
    parts: Mapping[str, Extent]
    spelled: Mapping[str, SpelledTensor]

    @property
    def stored_name(self) -> str:
        """The name that its tensors have in the release, without their suffixes."""
        return self.parts["weight"].tensor.name.rpartition(".")[0]

    def number(self, suffix: str) -> float:
        """The scale that a scalar of it means.

        Raises:
            ScionError: It is no positive number.
        """
        stored = self.parts[suffix].number()
        if not 0 < stored < math.inf:
            raise ScionError(
                "a scale is no positive number",
                where=f"{self.name}: {self.spelled[suffix].name}",
                expected="a finite number above zero",
                found=stored,
                hint="the release is broken: ask its publisher",
            )
        return self.spelled[suffix].meant(stored)


@dataclass(frozen=True)
class StoredTensors:
    """All tensors of a release.

    Attributes:
        modules: The quantized ones, by sound name.
        plain: Tensors that are stored as they were, by sound name.
        strange: Tensors that are neither: no name of the source's, and of no quantized module.
        twice: Sound names that two tensors or modules mean.
    """

    modules: dict[str, StoredModule] = field(default_factory=dict[str, StoredModule])
    plain: Extents = field(default_factory=dict[str, Extent])
    strange: list[str] = field(default_factory=list[str])
    twice: list[str] = field(default_factory=list[str])


def stored_tensors(release: RangedCheckpoint, sound: SoundNames) -> StoredTensors:
    """Sort the tensors of a release.

    Args:
        release: The release.
        sound: The names that the source's config.json implies.
    """
    found = StoredTensors()
    by_module: dict[str, Extents] = {}
    for key, extent in release.extents.items():
        module, _, suffix = key.rpartition(".")
        by_module.setdefault(module, {})[suffix] = extent
    # ModelOpt's names stand for all that declares none that is known.
    spelling = declared_spelling(release.config) or SPELLINGS["modelopt"]
    for module, tensors in by_module.items():
        for algorithm in (NVFP4, W4A16, FP8):
            spelled = spelling.tensors[algorithm]
            stored = {s: tensors[t.name] for s, t in spelled.items() if t.name in tensors}
            whole = stored.keys() == spelled.keys()
            name = sound.of(f"{module}.weight") if whole else None
            if name is None or stored["weight"].tensor.dtype != _PACKED[algorithm]:
                continue
            name = name.removesuffix(".weight")
            if name in found.modules:
                found.twice.append(name)
            found.modules[name] = StoredModule(name, algorithm, stored, spelled)
            tensors = {
                suffix: extent
                for suffix, extent in tensors.items()
                if suffix not in {tensor.name for tensor in spelled.values()}
            }
            break
        for suffix, extent in tensors.items():
            key = f"{module}.{suffix}" if module else suffix
            name = sound.of(key)
            if name is None:
                found.strange.append(key)
            elif name in found.plain:
                found.twice.append(name)
            else:
                found.plain[name] = extent
    return found
