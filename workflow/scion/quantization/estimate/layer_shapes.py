"""The decoder layers of a model as shapes: what an estimate of a run over them is derived from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from scion.architectures.inventory import Inventory, Shape, language_keys
from scion.architectures.parts import AttentionHeads
from scion.architectures.stacks import EXPERTS
from scion.formats.modelopt import FP8, NVFP4
from scion.quantization.layerwise.placing import EXPERTS_AT_ONCE

_EXPERT = EXPERTS.removeprefix(".")
_ATTENTION_OUT, _DELTA_OUT = "self_attn.o_proj.weight", "linear_attn.out_proj.weight"


@dataclass(frozen=True)
class LayerShapes:
    """One decoder layer.

    Attributes:
        tensors: Shape by name inside the layer, such as `mlp.up_proj.weight`.
        quantized: [out, in] of the modules that become NVFP4, by name inside the layer.
        eight_bits: The same of those that become FP8.
        experts: How many there are; 0 in a layer with one MLP.
        experts_per_token: How many of them each token sees.
    """

    tensors: dict[str, Shape]
    quantized: dict[str, tuple[int, int]]
    eight_bits: dict[str, tuple[int, int]] = field(default_factory=dict)
    experts: int = 0
    experts_per_token: int = 0

    @property
    def calibrated(self) -> list[tuple[int, int]]:
        """[out, in] of all modules that do not stay as they are."""
        return [*self.quantized.values(), *self.eight_bits.values()]

    @cached_property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(shape) for shape in self.tensors.values())

    @cached_property
    def matrix_parameters(self) -> int:
        """Numbers in what a token is multiplied with, quantized or not; of experts, those it sees.

        An average: how many tokens an expert gets is for the router to say.
        """
        sizes = (
            math.prod(shape) * self._share(name)
            for name, shape in self.tensors.items()
            if len(shape) == 2
        )
        return round(sum(sizes))

    @cached_property
    def hessian_inputs(self) -> list[tuple[float, int]]:
        """Share of the tokens, and [in], of each input whose Hessian a recipe may sum up.

        Gate and up of an expert have one; ModelOpt has one a module elsewhere.
        """
        return [
            (self._share(name), columns)
            for name, (_, columns) in {**self.quantized, **self.eight_bits}.items()
            if not (_EXPERT in name and name.endswith("up_proj"))
        ]

    @cached_property
    def largest(self) -> tuple[int, int]:
        """[out, in] of what is quantized as one and has the most numbers; (0, 0) if nothing is.

        Gate and up of an expert are one.
        """
        joined = [
            (2 * rows, columns)
            for name, (rows, columns) in self.quantized.items()
            if _EXPERT in name and name.endswith("gate_proj")
        ]
        return max([*self.calibrated, *joined], key=math.prod, default=(0, 0))

    @cached_property
    def packed_at_once(self) -> int:
        """The most numbers that a GPU packs together: the largest matrix, or a group of experts."""
        of_experts = (math.prod(shape) for name, shape in self.quantized.items() if _EXPERT in name)
        group = 2 * min(self.experts, EXPERTS_AT_ONCE) * max(of_experts, default=0)
        return max(math.prod(self.largest), group)

    @property
    def attention_width(self) -> int:
        """Heads times their size; 0 where the layer has a delta net."""
        return self.tensors.get(_ATTENTION_OUT, (0, 0))[1]

    @property
    def value_width(self) -> int:
        """Value heads times their size; 0 where the layer has attention."""
        return self.tensors.get(_DELTA_OUT, (0, 0))[1]

    @property
    def mixed_width(self) -> int:
        """Width of queries, keys and values of the delta net; 0 where the layer has attention."""
        return self.tensors.get("linear_attn.conv1d.weight", (0, 0))[0]

    @property
    def inner_width(self) -> int:
        """Width inside the MLP, or inside the widest expert."""
        return max(it[0] for name, it in self.tensors.items() if name.endswith("up_proj.weight"))

    def _share(self, name: str) -> float:
        """The share of tokens that a tensor or module sees, on average."""
        return self.experts_per_token / self.experts if _EXPERT in name else 1.0


@dataclass(frozen=True)
class ModelShapes:
    """What counts of a model's configuration.

    Attributes:
        layers: The decoder layers in order.
        hidden: Width of what layers hand on.
        key_head: Size of a key head of the delta net; 0 without one.
        value_head: Size of a value head of the delta net; 0 without one.
        rotary: Numbers of a token's rotary embedding.
    """

    layers: tuple[LayerShapes, ...]
    hidden: int
    key_head: int
    value_head: int
    rotary: int

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        expected: Inventory,
        quantized: Mapping[str, str],
        *,
        where: object,
    ) -> "ModelShapes":
        """The shapes of a model, dense or a mixture of experts.

        Args:
            config: Its config.json.
            expected: The tensors that it implies.
            quantized: The algorithm by stored name of a module.
            where: The file to name in errors.

        Raises:
            ScionError: A size is missing or unusable.
        """
        text = language_keys(config, expected.family, where=where)
        decoder = expected.family.decoder
        delta_net = decoder.delta_net != "none"
        tensors: dict[int, dict[str, Shape]] = {}
        matrices: dict[str, dict[int, dict[str, tuple[int, int]]]] = {NVFP4: {}, FP8: {}}
        for name, shape in expected.language.items():
            _, found, rest = name.partition(".layers.")
            if not found:
                continue
            number, _, inside = rest.partition(".")
            tensors.setdefault(int(number), {})[inside] = shape
            algorithm = quantized.get(name.removesuffix(".weight"))
            if algorithm is not None:
                # Weights alone are the same weights.
                kind = FP8 if algorithm == FP8 else NVFP4
                modules = matrices[kind].setdefault(int(number), {})
                modules[inside.removesuffix(".weight")] = (shape[0], shape[1])
        sparse = bool(expected.stacked)
        return cls(
            layers=tuple(
                LayerShapes(
                    tensors[n],
                    *(matrices[algorithm].get(n, {}) for algorithm in (NVFP4, FP8)),
                    experts=sum(
                        _EXPERT in name and name.endswith("down_proj.weight") for name in tensors[n]
                    ),
                    experts_per_token=text.size("num_experts_per_tok") if sparse else 0,
                )
                for n in sorted(tensors)
            ),
            hidden=text.size("hidden_size"),
            key_head=text.size("linear_key_head_dim") if delta_net else 0,
            value_head=text.size("linear_value_head_dim") if delta_net else 0,
            # All of a head: of how much of it is turned, configurations say in several ways.
            rotary=AttentionHeads.of(decoder, text).size,
        )
