"""How a release of an engine builds each layer under a scheme that it has read."""

import re
from dataclasses import dataclass

from scion.architectures.families import head_prefixes
from scion.architectures.family import Fused
from scion.engines.loading.class_build import ClassBuild, Layer
from scion.engines.loading.engine import Engine
from scion.engines.loading.layer_schemes import (
    EXPERT_PARTS,
    LayerScheme,
    MixedLayers,
    TargetGroups,
)
from scion.engines.loading.scheme import Scheme
from scion.engines.releases import EngineRelease

_NVFP4 = ("NVFP4", "W4A16_NVFP4", "NVFP4_AWQ")


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
        engine: The engine.
        release: Its release.
        build: How it builds the model class.
        scheme: The declaration as it read it.
    """

    def __init__(
        self, engine: Engine, release: EngineRelease, build: ClassBuild, scheme: Scheme
    ) -> None:
        self._engine, self._release = engine, release
        self._build, self._scheme = build, scheme
        if build.renames_lists(release):
            scheme = engine.rename_scheme(scheme, build.renames)
        # Engines hold one object: what the target has renamed, the draft finds renamed.
        self._target = _Side(engine, release, scheme, build.fused)
        self._draft = _Side(engine, release, scheme, build.fused_in_draft(release))
        self._decisions: dict[Layer, Decision] = {}

    def decide(self, layer: Layer) -> Decision:
        """How the layer is built; a layer that several modules share is decided on once."""
        if layer not in self._decisions:
            self._decisions[layer] = self._decide(layer)
        return self._decisions[layer]

    def _decide(self, layer: Layer) -> Decision:
        unasked = self._never_quantized(layer)
        if unasked is not None:
            return Decision(layer.name, None, None, unasked)
        side = self._draft if layer.draft else self._target
        try:
            scheme = side.find(layer)
        except re.error as error:
            problem = f"{self._release} cannot compile an `re:` target: {error}"
            return Decision(layer.name, None, problem, "no target")
        return Decision(layer.name, scheme.algorithm, scheme.problem, scheme.reason)

    def _never_quantized(self, layer: Layer) -> str | None:
        """Why the declaration does not matter for a layer; None where it does."""
        release, method = self._release, self._scheme.method
        if method == "none":
            return "the checkpoint is read as unquantized"
        if layer.kind == "plain":
            return f"{release} never quantizes this layer"
        if layer.kind == "head" and method == "fp8":
            return f"{release} never quantizes an FP8 checkpoint's head"
        reason = self._engine.never_quantized(release, self._build, self._scheme, layer)
        return reason if reason is not None else self._kept(layer)

    def _kept(self, layer: Layer) -> str | None:
        """Why the model class builds a layer unquantized in checkpoints of this scheme."""
        release, scheme = self._release, self._scheme
        all_nvfp4 = scheme.method == "modelopt" and scheme.algorithm in _NVFP4
        if all_nvfp4 and (kept := self._build.kept(layer.name, release)):
            return f"{release} keeps {kept} unquantized whatever the list says"
        if not (layer.draft and self._build.kept_draft):
            return None
        listed = any(name.startswith(head_prefixes()) for name in scheme.layers)
        mixed = scheme.method == "modelopt_mixed" and not listed
        if mixed or all_nvfp4:
            return f"{release} builds the MTP layers of an NVFP4 checkpoint unquantized"
        return None


class _Side:
    """A scheme beside the fused layers of the target or of the draft model."""

    def __init__(
        self, engine: Engine, release: EngineRelease, scheme: Scheme, fused: Fused
    ) -> None:
        self._release, self._scheme = release, scheme
        self._matchers = engine.matchers(release, scheme, fused)
        self._options = engine.mixed(release)
        self._mixed = MixedLayers(scheme.layers, fused, self._options)
        self._groups = TargetGroups(scheme.groups, fused, engine.groups(release))

    def find(self, layer: Layer) -> LayerScheme:
        """The layer's algorithm, or why it has none."""
        if self._scheme.method == "compressed-tensors" and layer.kind == "experts":
            return self._experts_group(layer.name)
        mixed = self._scheme.method == "modelopt_mixed"
        if mixed and self._options.before_list:
            entry = self._mixed.find(layer.name)
            if entry.problem:
                return entry
        experts = self._matchers.experts if layer.kind == "experts" else None
        verdict = (experts or self._matchers.layers).verdict(layer.name)
        if verdict.excluded or verdict.problem:
            return LayerScheme(None, verdict.reason, verdict.problem)
        if self._scheme.method == "compressed-tensors":
            return self._group(layer)
        if mixed:
            return self._mixed_algorithm(layer)
        return LayerScheme(self._scheme.algorithm, verdict.reason)

    def _group(self, layer: Layer) -> LayerScheme:
        """A linear layer is selected by name or class; a head by name, and it may go without."""
        if layer.kind != "head":
            return self._groups.find(layer.name)
        return self._groups.find(layer.name, by_class=False)

    def _experts_group(self, layer: str) -> LayerScheme:
        """Experts take what the list and groups say of the first expert's parts, if that is one."""
        parts: list[LayerScheme] = []
        for name in (f"{layer}.0.{part}" for part in EXPERT_PARTS):
            verdict = self._matchers.layers.verdict(name)
            excluded = LayerScheme(None, verdict.reason, verdict.problem)
            decided = verdict.excluded or verdict.problem
            parts.append(excluded if decided else self._groups.find(name))
        if len({part.algorithm for part in parts}) > 1:
            return LayerScheme(None, parts[0].reason, f"the parts of {layer} have several schemes")
        return parts[0]

    def _mixed_algorithm(self, layer: Layer) -> LayerScheme:
        """The layer's entry, if the release can build what it names."""
        entry = self._mixed.find(layer.name)
        options = self._options
        buildable = options.experts if layer.kind == "experts" else options.linear
        if entry.algorithm is None or entry.algorithm in buildable:
            return entry
        reason = f"{self._release} builds no {entry.algorithm} here; {entry.reason}"
        return LayerScheme(None, reason)
