"""How a release spells its quantized modules: names of tensors, what is declared, and where.

The numbers are the same in each spelling (`scion.formats.stored_modules`): what a row says is how a
module's tensors are called, which scales are stored as reciprocals, and how the scheme is declared.
What writes a release and what verifies one ask its row. Needs no torch.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scion.formats import compressed_tensors
from scion.formats.modelopt import (
    FP8,
    HF_QUANT_CONFIG,
    NVFP4,
    W4A16,
    Declared,
    hf_quant_config,
    quantization_config,
    read_declaration,
)
from scion.formats.reciprocals import reciprocal_of, scale_of
from scion.formats.stored_modules import Layout, layout


class Declaration(Protocol):
    """Makes the `quantization_config` of config.json."""

    def __call__(
        self, exclude: list[str], *, producer: Mapping[str, str], algorithms: Mapping[str, str]
    ) -> dict[str, Any]:
        """As `scion.formats.modelopt.quantization_config`."""
        ...


class Reading(Protocol):
    """Reads a `quantization_config` that others may have written."""

    def __call__(
        self, declared: Mapping[str, Any], plain: Collection[str], /, *, where: object
    ) -> Declared:
        """As `scion.formats.modelopt.read_declaration`."""
        ...


class Sidecar(Protocol):
    """Makes the content of a further file from the `quantization_config`."""

    def __call__(self, config: Mapping[str, Any], /) -> dict[str, Any]:
        """As `scion.formats.modelopt.hf_quant_config`."""
        ...


@dataclass(frozen=True)
class SpelledTensor:
    """How one tensor of a module is stored.

    Attributes:
        name: Its name: behind the module's, or with it.
        reciprocal: Whether it holds the reciprocal: of a float32 scale.
    """

    name: str
    reciprocal: bool = False

    def stored(self, scale: float) -> float:
        """What is stored of a scale."""
        return reciprocal_of(scale) if self.reciprocal else scale

    def meant(self, stored: float) -> float:
        """The scale that a stored number stands for (`scion.formats.reciprocals`)."""
        return scale_of(stored) if self.reciprocal else stored


@dataclass(frozen=True)
class Spelling:
    """One way to write the same numbers.

    Attributes:
        name: For the table.
        quant_method: What `quantization_config` calls it: by that a release is recognized.
        tensors: By algorithm, how each tensor of `scion.formats.stored_modules.layout` is stored.
        declaration: Makes the `quantization_config`, whose `quant_method` is that one.
        reading: Reads one.
        sidecars: What else declares the scheme: content by name of the file.
        scalar: The shape of a tensor that holds one number.
    """

    name: str
    quant_method: str
    tensors: Mapping[str, Mapping[str, SpelledTensor]]
    declaration: Declaration
    reading: Reading
    sidecars: Mapping[str, Sidecar]
    scalar: tuple[int, ...] = ()

    def layout(self, algorithm: str, shape: Sequence[int]) -> Layout:
        """Dtype and shape of a module's tensors, by suffix as stored.

        Args:
            algorithm: NVFP4, W4A16 or FP8.
            shape: [N, K] of the weight; K is a multiple of 16 but for FP8.
        """
        spelled = self.tensors[algorithm]
        return {
            spelled[suffix].name: (dtype, form or self.scalar)
            for suffix, (dtype, form) in layout(algorithm, shape).items()
        }

    def tensor(self, module: str, algorithm: str, suffix: str) -> SpelledTensor:
        """How a tensor of a module is stored, under its full name.

        Args:
            module: The module's stored name.
            algorithm: NVFP4, W4A16 or FP8.
            suffix: The tensor, as `scion.formats.stored_modules.layout` calls it.
        """
        spelled = self.tensors[algorithm][suffix]
        return SpelledTensor(f"{module}.{spelled.name}", spelled.reciprocal)

    def all_tensors(self, quantized: Mapping[str, str]) -> dict[str, SpelledTensor]:
        """How each tensor of these modules is stored.

        Args:
            quantized: The algorithm by module.

        Returns:
            Full names as stored, by full names as `scion.formats.stored_modules.layout` has them.
        """
        return {
            f"{module}.{suffix}": self.tensor(module, algorithm, suffix)
            for module, algorithm in quantized.items()
            for suffix in self.tensors[algorithm]
        }


def _same(*suffixes: str) -> dict[str, SpelledTensor]:
    """Tensors that are stored as they are, under their own names."""
    return {suffix: SpelledTensor(suffix) for suffix in suffixes}


_WEIGHTS = ("weight", "weight_scale", "weight_scale_2")
_PACKED = {
    "weight": SpelledTensor("weight_packed"),
    "weight_scale": SpelledTensor("weight_scale"),
    "weight_scale_2": SpelledTensor("weight_global_scale", reciprocal=True),
}
SPELLINGS = {
    spelling.name: spelling
    for spelling in (
        Spelling(
            name="modelopt",
            quant_method="modelopt",
            tensors={
                NVFP4: _same(*_WEIGHTS, "input_scale"),
                W4A16: _same(*_WEIGHTS),
                FP8: _same("weight", "weight_scale", "input_scale"),
            },
            declaration=quantization_config,
            reading=read_declaration,
            sidecars={HF_QUANT_CONFIG: hf_quant_config},
        ),
        Spelling(
            name=compressed_tensors.METHOD,
            quant_method=compressed_tensors.METHOD,
            tensors={
                NVFP4: {
                    **_PACKED,
                    "input_scale": SpelledTensor("input_global_scale", reciprocal=True),
                },
                W4A16: _PACKED,
                FP8: _same("weight", "weight_scale", "input_scale"),
            },
            declaration=compressed_tensors.declaration,
            reading=compressed_tensors.read_declaration,
            sidecars={},
            scalar=(1,),
        ),
    )
}

DEFAULT_SPELLING = SPELLINGS["modelopt"]
"""The one that `quantize_nvfp4` writes; `respell` makes others from it."""


def declared_spelling(config: Mapping[str, Any]) -> Spelling | None:
    """The spelling that a config.json declares; None where it is none of the table."""
    declared = config.get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, dict) else None
    return next((row for row in SPELLINGS.values() if row.quant_method == method), None)
