"""The NVFP4 format: how weights are packed, what they decode to, and how a release declares it.

A linear weight of N rows and K columns becomes four tensors. `weight`, uint8 [N, K/2]: two E2M1
codes a byte, the even column in the low nibble. `weight_scale`, FP8 E4M3 [N, K/16]: one scale a
block of 16. `weight_scale_2` and `input_scale`, FP32 scalars. A weight decodes to
`code * weight_scale * weight_scale_2`; the largest code is 6 and the largest E4M3 number 448, so
`weight_scale_2 = max|w| / (6 * 448)` uses the whole range of both.
"""

import torch

from scion.formats.modelopt import BLOCK

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Widest relative step of E4M3's normal numbers is 1/8, so rounding moves a scale by 1/16 at most.
_E4M3_ROUNDING = 1 / 16
_E4M3_SMALLEST = 2.0**-9


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
) -> tuple[float, float]:
    """How far a packed weight is from what maximum calibration allows.

    Each block's scale may be one E4M3 rounding away from `max|block| / 6 / weight_scale_2`, and
    each code must be a nearest E2M1 number of weight over scale (ModelOpt's
    `qtensor/nvfp4_tensor.py`).

    Args:
        weight: The weight before quantization, [N, K].
        packed: uint8 [N, K/2].
        block_scale: float8_e4m3fn [N, K/16].
        global_scale: float32 scalar.

    Returns:
        The largest error as a multiple of the allowed one, for block scales and for codes; at most
        1 (and a float32 rounding) where the weight was quantized rightly.
    """
    blocks = weight.float().unflatten(-1, (-1, BLOCK))
    exact = blocks.abs().amax(-1) / (E2M1_VALUES[-1] * global_scale)
    # ModelOpt gives an all-zero block the scale 1 and no block a smaller one than E4M3 can hold.
    wanted = torch.where(exact > 0, exact.clamp(min=_E4M3_SMALLEST), torch.ones_like(exact))
    allowed = torch.clamp(wanted * _E4M3_ROUNDING, min=_E4M3_SMALLEST / 2)
    scale_error = ((block_scale.float() - wanted).abs() / allowed).max().item()

    scale = _per_element(block_scale, global_scale)
    codes = unpack(packed)
    ratio = torch.where(scale > 0, weight.float() / scale, torch.zeros_like(scale))
    clipped = ratio.clamp(-E2M1_VALUES[-1], E2M1_VALUES[-1])
    size = clipped.abs()
    half_step = torch.where(size < 2, 0.25, torch.where(size < 4, 0.5, 1.0))
    code_error = ((codes - clipped).abs() / half_step).max().item()
    return scale_error, code_error


def relative_error(weight: torch.Tensor, decoded: torch.Tensor) -> tuple[float, float]:
    """Sums of squares of the error and of the weight: their ratio's root is the relative error."""
    weight = weight.double()
    return (decoded.double() - weight).square().sum().item(), weight.square().sum().item()


def _per_element(block_scale: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    return (block_scale.float() * global_scale).repeat_interleave(BLOCK, dim=-1)
