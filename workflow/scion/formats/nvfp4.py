"""The NVFP4 format: how weights are packed, what they decode to, and how a release declares it.

A linear weight of N rows and K columns becomes four tensors. `weight`, uint8 [N, K/2]: two E2M1
codes a byte, the even column in the low nibble. `weight_scale`, FP8 E4M3 [N, K/16]: one scale a
block of 16. `weight_scale_2` and `input_scale`, FP32 scalars. A weight decodes to
`code * weight_scale * weight_scale_2`; the largest code is 6 and the largest E4M3 number 448, so
`weight_scale_2 = max|w| / (6 * 448)` uses the whole range of both.
"""

from collections.abc import Sequence

import torch

from scion.formats.modelopt import BLOCK

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Widest relative step of E4M3's normal numbers is 1/8, so rounding moves a scale by 1/16 at most.
_E4M3_ROUNDING = 1 / 16
_E4M3_SMALLEST, _E4M3_LARGEST = 2.0**-9, 448.0


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Decode E2M1 codes.

    Args:
        packed: uint8 [N, K/2].

    Returns:
        float32 [N, K], values of `E2M1_VALUES` with signs.
    """
    signed = [*E2M1_VALUES, *(-value for value in E2M1_VALUES)]
    values = torch.tensor(signed, device=packed.device)
    codes = torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)
    return values[codes.int()]


def dequantize(
    packed: torch.Tensor, block_scale: torch.Tensor, global_scale: torch.Tensor
) -> torch.Tensor:
    """Decode a weight: uint8 [N, K/2], float8_e4m3fn [N, K/16], float32 [] to float32 [N, K]."""
    return unpack(packed) * _per_element(block_scale, global_scale)


def worst_rounding(
    weight: torch.Tensor,
    packed: torch.Tensor,
    block_scale: torch.Tensor,
    global_scale: torch.Tensor,
    *,
    multiples: Sequence[float] = (1.0,),
) -> tuple[float, float]:
    """How far a packed weight is from what maximum calibration allows.

    Each block's scale may be one E4M3 rounding away from `max|block| / 6 / weight_scale_2`, and
    each code must be a nearest E2M1 number of weight over scale (ModelOpt's
    `qtensor/nvfp4_tensor.py`). No scale of a block of zeros is wrong: its codes are held to zero.

    Args:
        weight: The weight before quantization, [N, K].
        packed: uint8 [N, K/2].
        block_scale: float8_e4m3fn [N, K/16].
        global_scale: float32 scalar.
        multiples: Of its maximum, what each block's scale may be made for, whichever is nearest;
            none where it may be any.

    Returns:
        The largest error as a multiple of the allowed one, for block scales and for codes; at most
        1 (and a float32 rounding) where the weight was quantized rightly.
    """
    exact, found = _maxima(weight, global_scale), block_scale.float()
    # NaN stays NaN.
    scale_errors = found * 0
    if multiples:
        distances = torch.stack([_roundings(found, exact * multiple) for multiple in multiples])
        scale_errors = torch.where(exact > 0, distances.amin(0), scale_errors)
    code_error = code_errors(weight, packed, block_scale, global_scale).max().item()
    return scale_errors.max().item(), code_error


def code_errors(
    weight: torch.Tensor,
    packed: torch.Tensor,
    block_scale: torch.Tensor,
    global_scale: torch.Tensor,
) -> torch.Tensor:
    """How far each code is from weight over scale, in multiples of what rounding allows.

    Args:
        weight: The weight before quantization, [N, K].
        packed: uint8 [N, K/2].
        block_scale: float8_e4m3fn [N, K/16].
        global_scale: float32 scalar.

    Returns:
        float32 [N, K]: at most 1 (and a float32 rounding) of a nearest code.
    """
    scale = _per_element(block_scale, global_scale)
    ratio = torch.where(scale > 0, weight.float() / scale, torch.zeros_like(scale))
    clipped = ratio.clamp(-E2M1_VALUES[-1], E2M1_VALUES[-1])
    size = clipped.abs()
    half_step = torch.where(size < 2, 0.25, torch.where(size < 4, 0.5, 1.0))
    return (unpack(packed) - clipped).abs() / half_step


def maximum_scales(weight: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """The block scales that maximum calibration gives, as float32 [N, K/16] of E4M3 numbers."""
    return _representable(_maxima(weight, global_scale)).to(torch.float8_e4m3fn).float()


def rounding_errors(
    weight: torch.Tensor, block_scale: torch.Tensor, global_scale: torch.Tensor
) -> torch.Tensor:
    """The squared error of each block if its codes are the nearest, float32 [N, K/16].

    Args:
        weight: [N, K].
        block_scale: float8_e4m3fn, or float32 of such numbers, [N, K/16]; above zero.
        global_scale: float32 scalar.
    """
    scale = _per_element(block_scale, global_scale)
    size = weight.float().abs() / scale
    return square_sums((_nearest(size) - size) * scale)


def rounded(weight: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """What a weight decodes to once it is packed with maximum scales, on any device.

    The numbers are those of `scion.formats.packing.pack` and `dequantize`, bit for bit.

    Args:
        weight: bfloat16, float16 or float32 [N, K], K divisible by 16.
        global_scale: float32 [], above zero.

    Returns:
        float32 [N, K].
    """
    scale = _per_element(maximum_scales(weight, global_scale), global_scale)
    quotient = weight.float() / scale
    nearest = _nearest(quotient.abs())
    # What is below zero keeps its sign where it becomes zero, and -0.0 is not below.
    return torch.where(quotient < 0, -nearest, nearest) * scale


def _nearest(size: torch.Tensor) -> torch.Tensor:
    """The nearest E2M1 numbers of magnitudes, ties to the even code."""
    # They are halves up to 2, wholes up to 4, doubles up to 6.
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return (size / step).round_().mul_(step).clamp_(max=E2M1_VALUES[-1])


def square_sums(numbers: torch.Tensor) -> torch.Tensor:
    """The sum of squares of each block, [N, K] to [N, K/16]."""
    return numbers.unflatten(-1, (-1, BLOCK)).square().sum(-1)


def relative_error(weight: torch.Tensor, decoded: torch.Tensor) -> tuple[float, float]:
    """Sums of squares of the error and of the weight: their ratio's root is the relative error."""
    weight = weight.double()
    return (decoded.double() - weight).square().sum().item(), weight.square().sum().item()


def _maxima(weight: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """What the scale of each block is before it is rounded to E4M3."""
    largest = weight.float().unflatten(-1, (-1, BLOCK)).abs().amax(-1)
    return largest / (E2M1_VALUES[-1] * global_scale)


def _representable(scale: torch.Tensor) -> torch.Tensor:
    """ModelOpt gives no block a smaller or larger scale than E4M3 can hold."""
    return scale.clamp(_E4M3_SMALLEST, _E4M3_LARGEST)


def _roundings(found: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """How far scales are from these, in multiples of what rounding to E4M3 may do."""
    wanted = _representable(exact)
    allowed = torch.clamp(wanted * _E4M3_ROUNDING, min=_E4M3_SMALLEST / 2)
    return (found - wanted).abs() / allowed


def _per_element(block_scale: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    return (block_scale.float() * global_scale).repeat_interleave(BLOCK, dim=-1)
