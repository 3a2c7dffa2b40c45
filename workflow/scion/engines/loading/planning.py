"""How an engine builds each layer under a scheme that it has read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scion.engines.loading.exclusion import (
    ExactNames,
    Fused,
    Matcher,
    TensorRtLlm,
    VllmCompressedTensors,
    VllmModelOpt,
    rewritten,
)
from scion.engines.loading.families import Family, Layer, rename
from scion.engines.loading.layer_schemes import EXPERT_PARTS, Found, MixedLayers, TargetGroups
from scion.engines.loading.scheme import Group, Scheme
from scion.engines.releases import SGLANG, VLLM, Engine, affects
from scion.engines.sglang.exclusion import (
    SglangCompressedTensors,
    SglangModelOpt,
    SglangNames,
    SglangPatterns,
)

_NVFP4 = ("NVFP4", "W4A16_NVFP4", "NVFP4_AWQ")
# What a mixed-precision declaration may give a layer, and from which release on.
_MIXED_LINEAR = {
    "FP8": "vllm",
    "NVFP4": "vllm",
    "W4A16_NVFP4": "vllm>=0.22.1",
    "MXFP8": "vllm>=0.25",
    "FP8_PB_WO": "vllm>=0.29",
    "FP8_PER_CHANNEL_PER_TOKEN": "vllm>=0.30",
}
_MIXED_EXPERTS = {
    "FP8": "vllm",
    "NVFP4": "vllm",
    "W4A16_NVFP4": "vllm>=0.22.1",
    "MXFP8": "vllm>=0.25",
    "FP8_PB_WO": "vllm>=0.30",
    "FP8_BLOCK_SCALES": "vllm>=0.30",
}
_SGLANG_MIXED = ("FP8", "FP8_PB_WO", "FP8_BLOCK_SCALES", "MXFP8", "NVFP4", "W4A16_NVFP4")


@dataclass(frozen=True)
class Decision:
    """How an engine builds the layer that holds a checkpoint's module.

    Attributes:
        layer: The engine's name of that layer; fused with others where the engine fuses.
        algorithm: `NVFP4`, `W4A16_NVFP4`, `FP8`, …; None for an unquantized layer.
        problem: Why the engine refuses to build the layer; None where it does not.
        reason: Which pattern decided, and how it matched; or why none did.
    """

    layer: str
    algorithm: str | None
    problem: str | None
    reason: str


class Planner:
    """How one release builds the layers of one checkpoint.

    Args:
        engine: The release.
        family: How it builds the architecture.
        scheme: The declaration as it read it.
    """

    def __init__(self, engine: Engine, family: Family, scheme: Scheme) -> None:
        self._engine, self._family, self._scheme = engine, family, scheme
        mapped = family.maps_lists is not None and family.maps_lists.holds_for(engine)
        engine_side = _renamed(scheme, family.renames) if mapped else scheme
        # One object in vLLM: what the target has renamed, the draft finds renamed.
        self._target = _Side(engine, engine_side, family.fused)
        self._draft = _Side(engine, engine_side, family.fused_in_draft(engine))
        self._done: dict[Layer, Decision] = {}

    def decide(self, layer: Layer) -> Decision:
        """How the layer is built; a layer that several modules share is decided on once."""
        if layer not in self._done:
            self._done[layer] = self._decide(layer)
        return self._done[layer]

    def _decide(self, layer: Layer) -> Decision:
        plain = self._never_quantized(layer)
        if plain is not None:
            return Decision(layer.name, None, None, plain)
        side = self._draft if layer.draft else self._target
        try:
            found = side.find(layer)
        except re.error as error:
            problem = f"{self._engine} cannot compile an `re:` target: {error}"
            return Decision(layer.name, None, problem, "no target")
        return Decision(layer.name, found.algorithm, found.problem, found.reason)

    def _never_quantized(self, layer: Layer) -> str | None:
        """Why the declaration does not matter for a layer; None where it does."""
        method = self._scheme.method
        if method == "none":
            return "the checkpoint is read as unquantized"
        if layer.kind == "plain":
            return f"{self._engine} never quantizes this layer"
        if layer.kind == "head" and method == "fp8":
            return f"{self._engine} never quantizes an FP8 checkpoint's head"
        if self._engine.name == VLLM:
            return self._vllm_never_quantized(layer)
        return self._sglang_never_quantized(layer) if self._engine.name == SGLANG else None

    def _vllm_never_quantized(self, layer: Layer) -> str | None:
        if layer.kind == "head":
            since = "vllm>=0.20" if self._scheme.method == "compressed-tensors" else "vllm>=0.23"
            asks = self._family.quantized_head
            asked = asks is None or asks.holds_for(self._engine)
            if not (asked and affects(since, self._engine)):
                return f"{self._engine} never quantizes this head"
        fc = self._family.plain_fc
        forced = fc is not None and fc.holds_for(self._engine)
        if layer.name == "mtp.fc" and forced and self._all_nvfp4():
            return f"{self._engine} keeps mtp.fc unquantized whatever the list says"
        return None

    def _sglang_never_quantized(self, layer: Layer) -> str | None:
        if layer.vision:
            return f"{self._engine} never quantizes the vision tower"
        if layer.name == "mtp.fc":
            return f"{self._engine} never quantizes mtp.fc"
        if self._family.plain_qkv and layer.name.endswith(".qkv_proj") and self._all_nvfp4():
            return f"{self._engine} keeps qkv_proj unquantized whatever the list says"
        if not (layer.draft and self._family.plain_draft):
            return None
        listed = any(name.startswith("mtp.") for name in self._scheme.layers)
        mixed = self._scheme.method == "modelopt_mixed" and not listed
        if mixed or self._all_nvfp4():
            return f"{self._engine} builds the MTP layers of an NVFP4 checkpoint unquantized"
        return None

    def _all_nvfp4(self) -> bool:
        """Whether the engine reads the declaration with its ModelOpt NVFP4 reader."""
        return self._scheme.method == "modelopt" and self._scheme.algorithm in _NVFP4


class _Side:
    """A scheme beside the fused layers of the target or of the draft model."""

    def __init__(self, engine: Engine, scheme: Scheme, fused: Fused) -> None:
        self._engine, self._scheme = engine, scheme
        self._matcher = _matcher(engine, scheme, fused)
        # SGLang looks experts up by pattern alone.
        by_pattern = isinstance(self._matcher, SglangModelOpt)
        self._experts = SglangPatterns(scheme.exclude) if by_pattern else self._matcher
        self._mixed = MixedLayers(
            scheme.layers,
            fused,
            spellings=not affects("vllm<0.22.1", engine),
            flat=engine.name == SGLANG,
            expert_parents=affects("vllm>=0.23", engine),
            always_fused=affects("vllm>=0.25", engine),
        )
        self._groups = TargetGroups(
            scheme.groups,
            fused,
            parts_before_class=affects("vllm>=0.27", engine),
            must_match=not affects("vllm>=0.21", engine),
        )

    def find(self, layer: Layer) -> Found:
        """The layer's algorithm, or why it has none."""
        if self._scheme.method == "compressed-tensors" and layer.kind == "experts":
            return self._experts_group(layer.name)
        mixed = self._scheme.method == "modelopt_mixed"
        # SGLang asks for the algorithm before it looks at the exclusion list, vLLM after.
        if mixed and self._engine.name == SGLANG:
            found = self._mixed.find(layer.name)
            if found.problem:
                return found
        matcher = self._experts if layer.kind == "experts" else self._matcher
        verdict = matcher.verdict(layer.name)
        if verdict.excluded or verdict.problem:
            return Found(None, verdict.reason, verdict.problem)
        if self._scheme.method == "compressed-tensors":
            return self._group(layer)
        if mixed:
            return self._mixed_algorithm(layer)
        return Found(self._scheme.algorithm, verdict.reason)

    def _group(self, layer: Layer) -> Found:
        """A linear layer is selected by name or class; a head by name, and it may go without."""
        if layer.kind != "head":
            return self._groups.find(layer.name)
        return self._groups.find(layer.name, by_class=False)

    def _experts_group(self, layer: str) -> Found:
        """Experts take what the list and groups say of the first expert's parts, if that is one."""
        found: list[Found] = []
        for name in (f"{layer}.0.{part}" for part in EXPERT_PARTS):
            verdict = self._matcher.verdict(name)
            excluded = Found(None, verdict.reason, verdict.problem)
            decided = verdict.excluded or verdict.problem
            found.append(excluded if decided else self._groups.find(name))
        if len({one.algorithm for one in found}) > 1:
            return Found(None, found[0].reason, f"the parts of {layer} have several schemes")
        return found[0]

    def _mixed_algorithm(self, layer: Layer) -> Found:
        """The layer's entry, if the release can build what it names."""
        found = self._mixed.find(layer.name)
        if found.algorithm is None:
            return found
        known = _MIXED_EXPERTS if layer.kind == "experts" else _MIXED_LINEAR
        if self._engine.name == SGLANG:
            built = found.algorithm in _SGLANG_MIXED
        else:
            since = known.get(found.algorithm)
            built = since is not None and affects(since, self._engine)
        if built:
            return found
        return Found(None, f"{self._engine} builds no {found.algorithm} here; {found.reason}")


def _matcher(engine: Engine, scheme: Scheme, fused: Fused) -> Matcher:
    """The engine's reading of the exclusion list."""
    counts = affects("vllm>=0.24", engine)
    match engine.name, scheme.method:
        case "vllm", "compressed-tensors":
            first = affects("vllm>=0.30", engine)
            return VllmCompressedTensors(scheme.exclude, fused, fused_name_first=first)
        case "vllm", "fp8":
            return ExactNames(scheme.exclude, fused, fused_name_counts=counts)
        case "vllm", _:
            return VllmModelOpt(scheme.exclude, fused, fused_name_counts=counts)
        case "sglang", "compressed-tensors":
            return SglangCompressedTensors(scheme.exclude, fused)
        case "sglang", "fp8":
            return SglangNames(scheme.exclude, fused)
        case "sglang", _:
            return SglangModelOpt(scheme.exclude, fused)
        case _:
            return TensorRtLlm(scheme.exclude, fused)


def _renamed(scheme: Scheme, renames: Mapping[str, str]) -> Scheme:
    """A scheme in the engine's names, as vLLM's model classes rename a declaration."""
    if scheme.method != "compressed-tensors":
        entries = scheme.exclude
        if scheme.method.startswith("modelopt"):
            entries = rewritten(entries)
        exclude = [rename(entry, renames) for entry in entries]
        layers = {rename(name, renames): one for name, one in scheme.layers.items()}
        return replace(scheme, exclude=exclude, layers=layers)

    def renamed(entries: Sequence[str]) -> list[str]:
        """Only what looks like a path is one: a class has no dot, a pattern starts with `re:`."""
        paths = ("." in entry and not entry.startswith("re:") for entry in entries)
        return [
            rename(one, renames) if path else one for one, path in zip(entries, paths, strict=True)
        ]

    groups = [Group(renamed(group.targets), group.algorithm) for group in scheme.groups]
    return replace(scheme, exclude=renamed(scheme.exclude), groups=groups)
