"""Which algorithm a layer is built with where a declaration names more than one."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from scion.engines.loading.exclusion import Fused, equal_or_regex, shard_names
from scion.engines.loading.scheme import Group

# The nested spelling and the one inside vLLM and SGLang, which stand for the same module.
_SPELLINGS = ("language_model.model.", "model.language_model.")
_ALWAYS_FUSED: Fused = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
EXPERT_PARTS = ("gate_proj", "up_proj", "down_proj")


class Found(NamedTuple):
    """The algorithm of a layer, and why.

    Attributes:
        algorithm: None where no entry is about the layer.
        reason: The entry that decided.
        problem: Why the engine refuses to build the layer; None where it does not.
    """

    algorithm: str | None
    reason: str
    problem: str | None = None


class MixedLayers:
    """A mixed-precision declaration's `quantized_layers`, as vLLM and SGLang look layers up.

    https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/modelopt.py

    Args:
        layers: The algorithm by module, in the engine's names.
        fused: Parts by fused name.
        spellings: Whether the nested spelling of a name is tried too (vLLM from 0.22.1).
        flat: Whether the nested spelling stands for `model.` as well (SGLang).
        expert_parents: Whether experts take the first entry beside them (vLLM from 0.23).
        always_fused: Whether attention and MLP are looked up by part even where the model class
            does not declare them as fused (vLLM from 0.25.1).
    """

    def __init__(
        self,
        layers: Mapping[str, str],
        fused: Fused,
        *,
        spellings: bool = True,
        flat: bool = False,
        expert_parents: bool = False,
        always_fused: bool = False,
    ) -> None:
        self._layers = layers
        self._below: dict[str, str] = {}
        for name in layers:
            for place, one in enumerate(name):
                if one == ".":
                    self._below.setdefault(name[:place], name)
        self._fused = {**_ALWAYS_FUSED, **fused} if always_fused else fused
        self._spellings, self._flat = spellings, flat
        self._expert_parents = expert_parents

    def find(self, layer: str) -> Found:
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
            return Found(None, ", ".join(listed), problem)
        if listed:
            return self._by(listed[0])
        for name in self._candidates(layer):
            if name in self._below:
                return self._by(self._below[name])
        if self._expert_parents and last == "experts" and above in self._below:
            return self._by(self._below[above])
        return Found(None, "not in quantized_layers")

    def _by(self, name: str) -> Found:
        return Found(self._layers[name], f"quantized_layers: {name!r}")

    def _candidates(self, layer: str) -> list[str]:
        if not self._spellings:
            return [layer]
        names = [layer]
        if layer.endswith(".lm_head"):
            names.append("lm_head")
        inside, nested = _SPELLINGS
        if layer.startswith(inside):
            names.append(nested + layer.removeprefix(inside))
        elif layer.startswith(nested):
            names.append(inside + layer.removeprefix(nested))
            names += ["model." + layer.removeprefix(nested)] if self._flat else []
        elif self._flat and layer.startswith("model."):
            names.append(nested + layer.removeprefix("model."))
        return names


class TargetGroups:
    """A compressed-tensors declaration's groups, as vLLM and SGLang look layers up.

    https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/compressed_tensors/utils.py

    Args:
        groups: The groups, with names of layers in the engine's spelling.
        fused: Parts by fused name.
        parts_before_class: Whether a fused layer's parts are tried before its class (from 0.27).
        must_match: Whether a layer that no target takes is refused (before 0.21, and in SGLang).
    """

    def __init__(
        self, groups: Iterable[Group], fused: Fused, *, parts_before_class: bool, must_match: bool
    ) -> None:
        self._algorithms = {target: group.algorithm for group in groups for target in group.targets}
        self._linear = next((one for one in self._algorithms if one.lower() in "linear"), None)
        self._fused = fused
        self._parts_before_class = parts_before_class
        self._must_match = must_match

    def find(self, layer: str, *, by_class: bool = True) -> Found:
        """The group of a layer.

        Args:
            layer: The engine-side name.
            by_class: Whether the target `Linear` means this layer too; not so for a head.

        Raises:
            re.error: A target is no regular expression.
        """
        target = self._first(layer)
        if target is None:
            found = [self._by_parts(layer), self._linear if by_class else None]
            ordered = found if self._parts_before_class else reversed(found)
            target = next((one for one in ordered if one is not None), None)
        if target is not None:
            return Found(self._algorithms[target], f"target {target!r}")
        refused = by_class and self._must_match and self._algorithms
        return Found(None, "no target", f"no group has a target for {layer}" if refused else None)

    def _first(self, name: str) -> str | None:
        return next((one for one in self._algorithms if equal_or_regex(name, one)), None)

    def _by_parts(self, layer: str) -> str | None:
        parts = [self._first(part) for part in shard_names(layer, self._fused)]
        return parts[0] if None not in parts and parts else None
