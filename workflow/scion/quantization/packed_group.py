"""Matrices that engines load as one, packed with maximum scales: nothing is calibrated."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scion.common.errors import ScionError
from scion.formats import fp8
from scion.formats.modelopt import FP8
from scion.formats.nvfp4 import E2M1_VALUES
from scion.formats.packing import amax, pack


def shared_scale(largest: Tensor, algorithm: str) -> Tensor:
    """The scale over a whole matrix, or a group of them, float32 [].

    Args:
        largest: The largest magnitude of the weights, float32 [].
        algorithm: NVFP4, whose block scales are relative to it, W4A16, or FP8.
    """
    if algorithm == FP8:
        return largest / fp8.E4M3_LARGEST
    return largest / (E2M1_VALUES[-1] * fp8.E4M3_LARGEST)


def pack_group(
    weights: Sequence[Tensor], algorithm: str, *, where: object
) -> list[dict[str, Tensor]]:
    """The tensors of each matrix of a group, with one scale over all, without an input scale.

    Args:
        weights: bfloat16 [N, K] each, contiguous and on the CPU; K divisible by 16 but for FP8.
        algorithm: NVFP4, W4A16 or FP8.
        where: What to name in errors.

    Returns:
        By suffix, as `scion.formats.stored_modules.layout` names them.

    Raises:
        ScionError: A weight is not finite, or all are zero.
    """
    largest = torch.stack([amax(weight) for weight in weights]).amax()
    if not largest > 0:
        raise ScionError(
            "all weights of a module are zero, so it has no scale",
            where=where,
            expected="numbers of which the largest gives a scale",
            found="zeros",
            hint="the source is broken: choose another revision",
        )
    scale = shared_scale(largest, algorithm)
    if algorithm == FP8:
        return [
            {"weight": fp8.quantize(weight, scale), "weight_scale": scale} for weight in weights
        ]
    packed = [pack(weight, scale) for weight in weights]
    return [
        {"weight": codes, "weight_scale": block_scale, "weight_scale_2": scale}
        for codes, block_scale in packed
    ]
