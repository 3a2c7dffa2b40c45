"""How a release spells its quantized modules: names of tensors, what is declared, and where.

The numbers are the same in each spelling (`scion.formats.stored_modules`): what a row says is how a
module's tensors are called, which scales are stored as reciprocals, and how the scheme is declared.
What writes a release and what verifies one ask its row. Needs no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scion.formats.modelopt import (
    FP8,
    HF_QUANT_CONFIG,
    NVFP4,
    hf_quant_config,
    quantization_config,
)
from scion.formats.stored_modules import Layout, layout


class Declaration(Protocol):
    """Makes the `quantization_config` of config.json."""

    def __call__(
        self, exclude: list[str], *, producer: Mapping[str, str], algorithms: Mapping[str, str]
    ) -> dict[str, Any]:
        """As `scion.formats.modelopt.quantization_config`."""
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

    def converted(self, numbers: Any) -> Any:
        """What is stored of these numbers, and as well what is meant by stored ones."""
        return 1 / numbers if self.reciprocal else numbers


@dataclass(frozen=True)
class Spelling:
    """One way to write the same numbers.

    Attributes:
        name: For the table.
        quant_method: What `quantization_config` calls it: by that a release is recognized.
        tensors: By algorithm, how each tensor of `scion.formats.stored_modules.layout` is stored.
        declaration: Makes the `quantization_config`, whose `quant_method` is that one.
        sidecars: What else declares the scheme: content by name of the file.
    """

    name: str
    quant_method: str
    tensors: Mapping[str, Mapping[str, SpelledTensor]]
    declaration: Declaration
    sidecars: Mapping[str, Sidecar]

    def layout(self, algorithm: str, shape: Sequence[int]) -> Layout:
        """Dtype and shape of a module's tensors, by suffix as stored.

        Args:
            algorithm: NVFP4 or FP8.
            shape: [N, K] of the weight; for NVFP4, K is a multiple of 16.
        """
        spelled = self.tensors[algorithm]
        return {spelled[suffix].name: part for suffix, part in layout(algorithm, shape).items()}

    def tensor(self, module: str, algorithm: str, suffix: str) -> SpelledTensor:
        """How a tensor of a module is stored, under its full name.

        Args:
            module: The module's stored name.
            algorithm: NVFP4 or FP8.
            suffix: The tensor, as `scion.formats.stored_modules.layout` calls it.
        """
        spelled = self.tensors[algorithm][suffix]
        return SpelledTensor(f"{module}.{spelled.name}", spelled.reciprocal)

    def all_tensors(self, quantized: Mapping[str, str]) -> dict[str, SpelledTensor]:
        """How each tensor of these modules is stored.

        Args:
            quantized: NVFP4 or FP8 by module.

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


SPELLINGS = {
    spelling.name: spelling
    for spelling in (
        Spelling(
            name="modelopt",
            quant_method="modelopt",
            tensors={
                NVFP4: _same("weight", "weight_scale", "weight_scale_2", "input_scale"),
                FP8: _same("weight", "weight_scale", "input_scale"),
            },
            declaration=quantization_config,
            sidecars={HF_QUANT_CONFIG: hf_quant_config},
        ),
    )
}

DEFAULT_SPELLING = SPELLINGS["modelopt"]
"""The one that releases are written in."""


def declared_spelling(config: Mapping[str, Any]) -> Spelling | None:
    """The spelling that a config.json declares; None where it is none of the table."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    return next((row for row in SPELLINGS.values() if row.quant_method == method), None)
