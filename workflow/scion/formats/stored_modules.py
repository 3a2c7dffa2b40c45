"""What a release stores for its quantized modules: the algorithm of each, and its tensors.

Needs no torch: the numbers themselves are `scion.formats.nvfp4`'s and `scion.formats.fp8`'s.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from scion.architectures.inventory import Inventory
from scion.formats.modelopt import BLOCK, FP8, NVFP4, W4A16

# The modules that `quantization.keep_bf16` and `use_fp8` mean: the ends of their parents' names.
_PARENTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "linear_attention": ("linear_attn",),
    "attention": ("linear_attn", "self_attn"),
}
Layout = dict[str, tuple[str, tuple[int, ...]]]

HeadScheme = Literal["none", "fp8", "nvfp4"]
"""What the matrices of an MTP head's decoder layer are stored in; `none` is bf16."""


def algorithms(
    expected: Inventory, *, kept: Iterable[str], fp8: Iterable[str], four_bits: str = NVFP4
) -> dict[str, str]:
    """The algorithm of each module that is quantized, in layer order.

    Args:
        expected: The tensors that config.json implies.
        kept: Ends of the names of parents whose projections stay bf16, such as `linear_attn`.
        fp8: Those of parents whose projections are in FP8.
        four_bits: What the others are in: NVFP4 or W4A16.
    """
    modules = expected.quantized_outside(kept)
    others = set(expected.quantized_outside((*kept, *fp8)))
    return {module: four_bits if module in others else FP8 for module in modules}


def head_algorithm(scheme: HeadScheme, four_bits: str) -> str | None:
    """The algorithm of an MTP head's matrices; None where they stay bf16.

    Args:
        scheme: What the release asks for.
        four_bits: What modules of its body in NVFP4 have: NVFP4 or W4A16.
    """
    return {"none": None, "fp8": FP8, "nvfp4": four_bits}[scheme]


def projection_parents(keep_bf16: str, use_fp8: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parents whose projections stay bf16, and those whose become FP8, by the two settings."""
    kept = _PARENTS[keep_bf16]
    return kept, tuple(parent for parent in _PARENTS[use_fp8] if parent not in kept)


def layout(algorithm: str, shape: Sequence[int]) -> Layout:
    """Dtype and shape of a module's tensors, by suffix.

    Args:
        algorithm: NVFP4, W4A16 or FP8.
        shape: [N, K] of the weight; K is a multiple of 16 but for FP8.
    """
    rows, columns = shape
    if algorithm == FP8:
        return {
            "weight": ("F8_E4M3", (rows, columns)),
            "weight_scale": ("F32", ()),
            "input_scale": ("F32", ()),
        }
    weights: Layout = {
        "weight": ("U8", (rows, columns // 2)),
        "weight_scale": ("F8_E4M3", (rows, columns // BLOCK)),
        "weight_scale_2": ("F32", ()),
    }
    return weights if algorithm == W4A16 else {**weights, "input_scale": ("F32", ())}
