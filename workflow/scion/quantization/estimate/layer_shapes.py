"""The decoder layers of a model as shapes: what an estimate of a run over them is derived from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from scion.architectures.inventory import Inventory, Shape, language_keys
from scion.formats.modelopt import FP8, NVFP4

_ATTENTION_OUT, _DELTA_OUT = "self_attn.o_proj.weight", "linear_attn.out_proj.weight"


@dataclass(frozen=True)
class LayerShapes:
    """One decoder layer.

    Attributes:
        tensors: Shape by name inside the layer, such as `mlp.up_proj.weight`.
        quantized: [out, in] of the modules that become NVFP4, by name inside the layer.
        eight_bits: The same of those that become FP8.
    """

    tensors: dict[str, Shape]
    quantized: dict[str, tuple[int, int]]
    eight_bits: dict[str, tuple[int, int]] = field(default_factory=dict)

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
        """Numbers in what each token is multiplied with, quantized or not."""
        return sum(math.prod(shape) for shape in self.tensors.values() if len(shape) == 2)

    @cached_property
    def largest(self) -> tuple[int, int]:
        """[out, in] of the calibrated module with the most numbers; (0, 0) if there is none."""
        return max(self.calibrated, key=math.prod, default=(0, 0))

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
        return self.tensors.get("linear_attn.in_proj_qkv.weight", (0, 0))[0]

    @property
    def inner_width(self) -> int:
        """Width inside the MLP."""
        return self.tensors["mlp.up_proj.weight"][0]


@dataclass(frozen=True)
class ModelShapes:
    """What counts of a model's configuration.

    Attributes:
        layers: The decoder layers in order.
        hidden: Width of what layers hand on.
        key_head: Size of a key head of the delta net.
        value_head: Size of a value head of the delta net.
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
        """The shapes of a dense Qwen3.5/3.6.

        Args:
            config: Its config.json.
            expected: The tensors that it implies.
            quantized: The algorithm by stored name of a module.
            where: The file to name in errors.

        Raises:
            ScionError: A size is missing or unusable.
        """
        text = language_keys(config, expected.family, where=where)
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
        return cls(
            layers=tuple(
                LayerShapes(
                    tensors[n], *(matrices[algorithm].get(n, {}) for algorithm in (NVFP4, FP8))
                )
                for n in sorted(tensors)
            ),
            hidden=text.size("hidden_size"),
            key_head=text.size("linear_key_head_dim"),
            value_head=text.size("linear_value_head_dim"),
            # All of a head: of how much of it is turned, configurations say in several ways.
            rotary=text.size("head_dim"),
        )
