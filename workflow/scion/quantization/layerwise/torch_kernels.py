"""What ModelOpt computes in CUDA alone, in torch: two functions that simulate NVFP4.

ModelOpt 0.47 calibrates maxima on a CPU, but every search and every forward pass through a
quantized layer ends in one of two Triton kernels. Here is the same arithmetic in torch, step by
step as in `modelopt/torch/kernels/quantization/common/nvfp4_quant.py`, in float32.
"""

import importlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_LARGEST_CODE, _LARGEST_SCALE = 6.0, 448.0
_BLOCK = 16


@contextmanager
def on_cpu() -> Generator[None]:
    """Let ModelOpt use these functions, for as long as the context lasts."""
    kernels = importlib.import_module("modelopt.torch.quantization.tensor_quant")
    quantizer = importlib.import_module("modelopt.torch.quantization.nn.modules.tensor_quantizer")
    places = (
        (kernels, "dynamic_block_quantize_op", _dynamic_block_quantize_op),
        (quantizer, "static_blockwise_fp4_fake_quant", _static_blockwise_fp4_fake_quant),
    )
    before = [getattr(module, name) for module, name, _ in places]
    try:
        for module, name, function in places:
            setattr(module, name, function)
        yield
    finally:
        for (module, name, _), function in zip(places, before, strict=True):
            setattr(module, name, function)


def round_to_e2m1(size: Tensor) -> Tensor:
    """The nearest E2M1 number of each float32 >= 0, ties to the even code; 6 for all above 5."""
    # The numbers are halves up to 2, wholes up to 4, doubles up to 6; torch rounds ties to even,
    # so each part is rounded in steps of its own; added up in halves. Six times as fast as looking
    # each number up, and a search does this 126 times a weight.
    below = (size.clamp(max=2) * 2).round_()
    between = size.clamp(2, 4).round_().mul_(2)
    above = (size.clamp(4, 6) * 0.5).round_().mul_(4)
    return below.add_(between).add_(above).sub_(12).mul_(0.5)


def fake_quantize_dynamic(values: Tensor, largest: Tensor) -> Tensor:
    """NVFP4 of values whose block scales come from themselves (`fp4_fake_quant_block`).

    Args:
        values: [..., K], K a multiple of 16.
        largest: Scalar, max|values| that calibration saw.

    Returns:
        The same shape and dtype, each value replaced by what NVFP4 makes of it.
    """
    blocks = values.float().unflatten(-1, (-1, _BLOCK))
    global_scale = largest.float() / (_LARGEST_CODE * _LARGEST_SCALE)
    global_scale = torch.where(global_scale > 0, global_scale, 1e-12)
    exact = blocks.abs().amax(-1, keepdim=True) / (_LARGEST_CODE * global_scale)
    scale = exact.clamp(max=_LARGEST_SCALE).to(torch.float8_e4m3fn).float() * global_scale
    scale = torch.where(scale >= 1e-5, scale, 1.0)
    size = round_to_e2m1(blocks.abs() / scale) * scale
    return torch.where(blocks >= 0, size, -size).flatten(-2).to(values.dtype)


def fake_quantize_static(values: Tensor, scale: Tensor) -> Tensor:
    """NVFP4 of values whose block scales are given (`static_blockwise_fp4_fake_quant`).

    Args:
        values: Any shape of blocks, 16 values each.
        scale: float32, one a block.

    Returns:
        float32 of the same shape.
    """
    blocks = values.float().reshape(scale.numel(), -1)
    scale = scale.float().reshape(-1, 1)
    usable = torch.where((scale == 0) | ~torch.isfinite(scale), 1.0, scale)
    size = round_to_e2m1(blocks.abs() / usable) * usable
    # A negative zero counts as positive, so that it stays the same code.
    signed = size.copysign_(blocks + 0.0)
    if (scale == 0).any():
        signed = torch.where(scale == 0, 0.0, signed)
    return signed.reshape(values.shape)


def _dynamic_block_quantize_op(
    inputs: Tensor,
    block_size: int,
    amax: Tensor,
    num_bits: int,
    exponent_bits: int,
    scale_num_bits: int,
    scale_exponent_bits: int,
) -> Tensor:
    asked = (block_size, num_bits, exponent_bits, scale_num_bits, scale_exponent_bits)
    if asked != (_BLOCK, 4, 2, 8, 4):
        raise NotImplementedError(f"only NVFP4 is known in torch, not {asked}")
    return fake_quantize_dynamic(inputs, amax.amax())


def _static_blockwise_fp4_fake_quant(
    x: Tensor,
    amax: Tensor,
    global_amax: Tensor,
    quantize_block_scales: bool,
    fp8_max_for_normalization: float,
    out_dtype: torch.dtype,
    *_: Any,
) -> Tensor:
    scale = amax.float() / _LARGEST_CODE
    if quantize_block_scales:
        largest = global_amax.float() * (_LARGEST_SCALE / fp8_max_for_normalization)
        fp8 = importlib.import_module("modelopt.torch.quantization.tensor_quant")
        scale = fp8.scaled_e4m3_impl(scale, largest / _LARGEST_CODE)
    return fake_quantize_static(x, scale).to(out_dtype)
