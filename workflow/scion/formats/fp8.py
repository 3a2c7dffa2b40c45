"""The FP8 format beside NVFP4: E4M3 numbers and one scale a tensor, as ModelOpt writes it.

A linear weight of N rows and K columns becomes `weight`, float8_e4m3fn [N, K], and `weight_scale`,
a float32 scalar: it decodes to `weight * weight_scale`. Activations are divided by `input_scale`, a
float32 scalar too, and rounded to E4M3. The largest E4M3 number is 448, so the scales are the
largest number over 448.

vLLM and SGLang load q, k and v, or the delta net's in_proj_qkv and in_proj_z, as one matrix with
one scale, and round whatever has a smaller one anew to the largest (`requantize_with_max_scale`).
Modules of such a group therefore share their scales from the start, and are rounded once.
"""

import torch

E4M3_LARGEST = 448.0
_SMALLEST_NORMAL = 2.0**-6
# ModelOpt divides in bf16 before it rounds to E4M3: at most 2^-9 of a number, a sixteenth of half a
# step where that is smallest.
_DIVISION = 1 + 1 / 16


def quantize(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Round a weight, to ModelOpt's bytes.

    Args:
        weight: bfloat16 [N, K], on any device.
        scale: float32 [], the largest magnitude of the weight, or of its group, over 448.

    Returns:
        float8_e4m3fn [N, K].
    """
    return (weight.float() / scale).to(weight.dtype).to(torch.float8_e4m3fn)


def dequantize(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Decode a weight: float8_e4m3fn [N, K] and float32 [] to float32 [N, K]."""
    return weight.float() * scale


def worst_rounding(source: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> float:
    """How far a weight is from its source, as a multiple of what one rounding allows.

    Args:
        source: The weight before quantization, [N, K].
        weight: float8_e4m3fn [N, K].
        scale: float32 scalar.

    Returns:
        At most 1 (and a float32 rounding) where the weight was quantized rightly; more, too, where
        the scale is too small for the largest number. NaN where a number is NaN.
    """
    exact = source.float() / scale
    # Three bits of mantissa: numbers from 2^e on are 2^(e-3) apart, and half a step is allowed.
    size = exact.abs().clamp(_SMALLEST_NORMAL, E4M3_LARGEST)
    half_step = torch.exp2(torch.floor(torch.log2(size)) - 4)
    return ((weight.float() - exact).abs() / (half_step * _DIVISION)).max().item()
