"""How an engine builds a model class: the names of its layers, what it fuses and renames.

An exclusion list is written in a checkpoint's names and matched against an engine's, so both must
be known. Each engine's folder has the classes that it builds in its module `class_builds`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from scion.architectures.families import FAMILIES, fused_layers, head_prefixes, vision_prefixes
from scion.architectures.family import Family, Fused
from scion.engines.releases import Affected, EngineRelease

_EXPERTS = re.compile(r"(?P<layer>.*\.experts)\..+")
# Modules that are no linear layers, or that engines build without asking for a quantization.
_PLAIN = re.compile(
    r"(.*\.)?(conv1d|embed_tokens|pos_embed|patch_embed\.proj|shared_expert_gate|A_log|dt_bias"
    r"|[a-z_]*norm[a-z0-9_]*)"
)
_ROUTER = re.compile(r".*\.mlp\.gate")


@dataclass(frozen=True)
class Layer:
    """The engine's layer that holds a checkpoint's module.

    Attributes:
        name: Its name in the engine, less what the engine calls the fused one.
        kind: `linear`, `experts`, `head`, or `plain` where no quantization is ever asked for.
        draft: Whether it belongs to the MTP draft model.
        vision: Whether it belongs to the vision tower.
    """

    name: str
    kind: str
    draft: bool
    vision: bool


@dataclass(frozen=True)
class ClassBuild:
    """How one engine builds one model class.

    Attributes:
        known: The releases that have the class.
        fused: The fused layers that the matcher expands, by fused name.
        draft_fused: Those of the MTP draft model.
        other_draft_fused: Releases that describe the draft model otherwise, and how.
        renames: Prefixes of a checkpoint's modules and what the engine calls them.
        maps_lists: The releases that rename the entries of an exclusion list alike; None where the
            engine leaves the list as it is written.
        quantized_head: The releases that ask for a quantization of the head; None for all.
        quantized_router: Whether the experts' router asks for a quantization.
        kept_in_nvfp4: Layers that are built unquantized in NVFP4 checkpoints, whatever is listed:
            the releases by a layer's name or the last part of it.
        kept_draft: Whether the draft model is built unquantized in NVFP4 checkpoints, and in
            mixed ones that don't list it.
        unmodelled_keys: Keys of config.json with which the class is built in ways that are not
            modelled.
    """

    known: Affected
    fused: Fused
    draft_fused: Fused = field(default_factory=dict)
    other_draft_fused: tuple[Affected, Fused] | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    maps_lists: Affected | None = None
    quantized_head: Affected | None = None
    quantized_router: bool = False
    kept_in_nvfp4: Mapping[str, Affected] = field(default_factory=dict)
    kept_draft: bool = False
    unmodelled_keys: tuple[str, ...] = ()

    def renames_lists(self, release: EngineRelease) -> bool:
        """Whether a release renames the entries of an exclusion list as it renames modules."""
        return self.maps_lists is not None and self.maps_lists.holds_for(release)

    def kept(self, layer: str, release: EngineRelease) -> str | None:
        """The entry of `kept_in_nvfp4` that a layer falls under in a release, if any."""
        for name in (layer, layer.rpartition(".")[2]):
            if name in self.kept_in_nvfp4 and self.kept_in_nvfp4[name].holds_for(release):
                return name
        return None

    def fused_in_draft(self, release: EngineRelease) -> Fused:
        """The fused layers that the matcher expands for the draft model of a release."""
        if self.other_draft_fused is not None:
            releases, fused = self.other_draft_fused
            if releases.holds_for(release):
                return fused
        return self.draft_fused

    @cached_property
    def _fused_name(self) -> dict[str, str]:
        """The fused layer by part: the build's own, else those of all families.

        A layer has its name whether a matcher expands it or not.
        """
        tables = (fused_layers(), self.draft_fused, self.fused)
        return {part: name for fused in tables for name, parts in fused.items() for part in parts}

    @cached_property
    def _prefixes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What modules of MTP heads and of vision towers begin with, in all families.

        A tower's, with and without the model above it.
        """
        towers = vision_prefixes()
        return head_prefixes(), (*towers, *(tower.removeprefix("model.") for tower in towers))

    def layer(self, module: str) -> Layer:
        """The engine's layer for a module, which is named as the checkpoint names it."""
        heads, towers = self._prefixes
        draft, vision = module.startswith(heads), module.startswith(towers)
        name = rename(f"{module}.", self.renames).removesuffix(".")
        if module == "lm_head" or module.endswith(".lm_head"):
            return Layer(name, "head", draft, vision)
        if experts := _EXPERTS.fullmatch(name):
            return Layer(experts["layer"], "experts", draft, vision)
        router = _ROUTER.fullmatch(name) is not None and not self.quantized_router
        if router or _PLAIN.fullmatch(name):
            return Layer(name, "plain", draft, vision)
        above, dot, last = name.rpartition(".")
        if not vision:
            last = self._fused_name.get(last, last)
        return Layer(f"{above}{dot}{last}", "linear", draft, vision)


def by_class(family: Family, *builds: ClassBuild) -> dict[str, ClassBuild]:
    """Builds by class name: of a family, and of its language model alone where it has a class."""
    rows = zip(family.spellings(), builds, strict=True)
    return {row.architecture: build for row, build in rows}


def rename(name: str, renames: Mapping[str, str]) -> str:
    """A name with each prefix replaced in turn."""
    for old, new in renames.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def head_projections() -> tuple[str, ...]:
    """The modules that join embedding and hidden state in MTP heads, of all known families."""
    return tuple(dict.fromkeys(row.head.fc for row in FAMILIES.values() if row.head))
