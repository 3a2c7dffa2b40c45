"""The rounding that a released head's matrices go through, as training sees it.

`quantize_mtp` packs the matrices of a trained head with maximum scales. What they then decode to is
computed here on any device, without packing, so that a head can be trained through it:
`weight + (rounded - weight).detach()` has the rounded values, and the gradient of the weight.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from scion.formats import fp8, nvfp4
from scion.formats.modelopt import FP8, NVFP4
from scion.formats.stored_modules import HeadScheme
from scion.quantization.head_groups import head_groups
from scion.quantization.packed_group import shared_scale

__all__ = ["head_groups", "rounded"]


@torch.no_grad()
def rounded(group: Sequence[Tensor], scheme: HeadScheme) -> list[Tensor]:
    """The values that a release has of matrices which engines load as one.

    They are rounded to bf16 first, as a trained head is stored, then to the scheme, and what that
    decodes to to bf16: bit for bit what `scion.quantization.packed_group.pack_group` packs.

    Args:
        group: The matrices, float32 or bf16 [N, K] on any device; K divisible by 16 for `nvfp4`.
            `head_groups` names those that belong together.
        scheme: `none` rounds to bf16 alone.

    Returns:
        One a matrix, of its dtype and device, without a gradient. NaN where all weights of the
        group are zero, or one is not finite: packing refuses such a group.
    """
    stored = [weight.to(torch.bfloat16) for weight in group]
    if scheme == "none":
        return _as(stored, group)
    largest = torch.stack([weight.abs().amax() for weight in stored]).amax().float()
    if scheme == "fp8":
        scale = shared_scale(largest, FP8)
        decoded = [fp8.dequantize(fp8.quantize(weight, scale), scale) for weight in stored]
    else:
        scale = shared_scale(largest, NVFP4)
        decoded = [nvfp4.rounded(weight, scale) for weight in stored]
    return _as([weight.to(torch.bfloat16) for weight in decoded], group)


def _as(values: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    return [value.to(one.dtype) for value, one in zip(values, like, strict=True)]
