"""Which algorithm a layer is built with where a declaration names more than one."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from scion.architectures.family import FUSED_ATTENTION, FUSED_MLP, Fused
from scion.engines.loading.exclusion import equal_or_regex, shard_names
from scion.engines.loading.scheme import Group

# The nested spelling and the one inside engines, which stand for the same module.
_SPELLINGS = ("language_model.model.", "model.language_model.")
EXPERT_PARTS = ("gate_proj", "up_proj", "down_proj")


class LayerScheme(NamedTuple):
    """The algorithm of a layer, and why.

    Attributes:
        algorithm: None where no entry is about the layer.
        reason: The entry that decided.
        problem: Why the engine refuses to build the layer; None where it does not.
    """

    algorithm: str | None
    reason: str
    problem: str | None = None


@dataclass(frozen=True)
class MixedOptions:
    """How a release looks layers up in a mixed-precision declaration.

    Attributes:
        linear: The algorithms that it can build a linear layer or a head with.
        experts: Those that it can build experts with.
        before_list: Whether the entry of a layer is looked up before the exclusion list, so that
            parts of several algorithms are refused even where they are excluded.
        spellings: Whether the nested spelling of a name is tried too.
        flat: Whether the nested spelling stands for `model.` as well.
        expert_parents: Whether experts take the first entry beside them.
        always_fused: Whether attention and MLP are looked up by part even where the model class
            does not declare them as fused.
    """

    linear: Container[str] = ()
    experts: Container[str] = ()
    before_list: bool = False
    spellings: bool = True
    flat: bool = False
    expert_parents: bool = False
    always_fused: bool = False


class MixedLayers:
    """A mixed-precision declaration's `quantized_layers`, as an engine looks layers up.

    https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/modelopt.py

    Args:
        layers: The algorithm by module, in the engine's names.
        fused: Parts by fused name.
        options: How the release does it.
    """

    def __init__(self, layers: Mapping[str, str], fused: Fused, options: MixedOptions) -> None:
        self._layers = layers
        self._below: dict[str, str] = {}
        for name in layers:
            for place, letter in enumerate(name):
                if letter == ".":
                    self._below.setdefault(name[:place], name)
        self._fused = {**FUSED_ATTENTION, **FUSED_MLP, **fused} if options.always_fused else fused
        self._options = options

    def find(self, layer: str) -> LayerScheme:
        """The layer's own entry, those of its parts, or the first one below it."""
        for name in self._candidates(layer):
            if name in self._layers:
                return self._by(name)
        above, dot, last = layer.rpartition(".")
        parts = [
            f"{base}{dot}{part}"
            for base in self._candidates(above)
            for part in self._fused.get(last, ())
        ]
        listed = [part for part in parts if part in self._layers]
        algorithms = dict.fromkeys(self._layers[part] for part in listed)
        if len(algorithms) > 1:
            problem = f"the parts of the fused layer {layer} have {' and '.join(algorithms)}"
            return LayerScheme(None, ", ".join(listed), problem)
        if listed:
            return self._by(listed[0])
        for name in self._candidates(layer):
            if name in self._below:
                return self._by(self._below[name])
        if self._options.expert_parents and last == "experts" and above in self._below:
            return self._by(self._below[above])
        return LayerScheme(None, "not in quantized_layers")

    def _by(self, name: str) -> LayerScheme:
        return LayerScheme(self._layers[name], f"quantized_layers: {name!r}")

    def _candidates(self, layer: str) -> list[str]:
        if not self._options.spellings:
            return [layer]
        names = [layer]
        if layer.endswith(".lm_head"):
            names.append("lm_head")
        inside, nested = _SPELLINGS
        if layer.startswith(inside):
            names.append(nested + layer.removeprefix(inside))
        elif layer.startswith(nested):
            names.append(inside + layer.removeprefix(nested))
            names += ["model." + layer.removeprefix(nested)] if self._options.flat else []
        elif self._options.flat and layer.startswith("model."):
            names.append(nested + layer.removeprefix("model."))
        return names


@dataclass(frozen=True)
class GroupOptions:
    """How a release looks layers up in compressed-tensors' groups.

    Attributes:
        parts_before_class: Whether a fused layer's parts are tried before its class.
        must_match: Whether a layer that no target takes is refused.
    """

    parts_before_class: bool = False
    must_match: bool = True


class TargetGroups:
    """A compressed-tensors declaration's groups, as an engine looks layers up.

    https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/compressed_tensors/utils.py

    Args:
        groups: The groups, with names of layers in the engine's spelling.
        fused: Parts by fused name.
        options: How the release does it.
    """

    def __init__(self, groups: Iterable[Group], fused: Fused, options: GroupOptions) -> None:
        self._algorithms = {target: group.algorithm for group in groups for target in group.targets}
        self._linear = next(
            (target for target in self._algorithms if target.lower() in "linear"), None
        )
        self._fused = fused
        self._options = options

    def find(self, layer: str, *, by_class: bool = True) -> LayerScheme:
        """The group of a layer.

        Args:
            layer: The engine-side name.
            by_class: Whether the target `Linear` means this layer too; not so for a head.

        Raises:
            re.error: A target is no regular expression.
        """
        target = self._first(layer)
        if target is None:
            by_parts, linear = self._by_parts(layer), self._linear if by_class else None
            ordered = (by_parts, linear) if self._options.parts_before_class else (linear, by_parts)
            target = next((target for target in ordered if target is not None), None)
        if target is not None:
            return LayerScheme(self._algorithms[target], f"target {target!r}")
        refused = by_class and self._options.must_match and self._algorithms
        problem = f"no group has a target for {layer}" if refused else None
        return LayerScheme(None, "no target", problem)

    def _first(self, name: str) -> str | None:
        matching = (target for target in self._algorithms if equal_or_regex(name, target))
        return next(matching, None)

    def _by_parts(self, layer: str) -> str | None:
        parts = [self._first(part) for part in shard_names(layer, self._fused)]
        return parts[0] if None not in parts and parts else None
