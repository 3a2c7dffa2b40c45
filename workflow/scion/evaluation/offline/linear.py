"""Linear layers whose weights stay in NVFP4 or FP8, with the arithmetic of vLLM on a CPU.

An NVFP4 weight decodes to bf16 as `code * (weight_scale * weight_scale_2)`, computed in float32.
With W4A4, activations are rounded to NVFP4 first, too: each block of 16 gets the E4M3 scale
`max|x| / 6 / input_scale`, each value the nearest E2M1 number, ties to the even code. Then both
sides are multiplied in bf16. (vLLM's `nvfp4_emulation_utils.py`: `ref_nvfp4_quant_dequant` and
`dequantize_to_dtype`.)

FP8 activations are rounded to E4M3 with the checkpoint's scale, multiplied with the weight's E4M3
numbers in float32, and both scales applied to the sums (`PerTensorTorchFP8ScaledMMLinearKernel`).
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from scion.formats.modelopt import BLOCK
from scion.formats.nvfp4 import E2M1_VALUES, unpack

_E4M3_MAX = 448.0
_E2M1_MAX = E2M1_VALUES[-1]
# Rows decoded at a time: what decoding needs beside its result stays small.
_ROWS = 4096


class NvFp4Linear(nn.Module):
    """`x @ weight.T`, the weight decoded when it is used.

    Args:
        packed: uint8 [N, K/2].
        block_scale: float8_e4m3fn [N, K/16].
        global_scale: float32 [], `weight_scale_2`.
        input_scale: float32 [] to round activations with; None leaves them in bf16.
        keep: Decode once and keep the bf16 weight: faster, and 3.5 times the memory.
        compiled: Decode and round by kernels that torch compiles, each in one pass over its
            numbers: seconds at first, then a third of the time for long inputs. Sums may differ in
            their last bit.
    """

    def __init__(
        self,
        packed: Tensor,
        block_scale: Tensor,
        global_scale: Tensor,
        *,
        input_scale: Tensor | None,
        keep: bool,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self._compiled = compiled
        # Two values for each byte; indexing a table decodes both at once, on any device.
        every_byte = torch.arange(256, dtype=torch.uint8)[:, None]
        self._values = unpack(every_byte).to(packed.device, torch.bfloat16)
        self._packed, self._block_scale, self._global_scale = packed, block_scale, global_scale
        self._input_scale = input_scale
        self._kept = self.decode() if keep else None
        self._products = torch.bfloat16

    def multiply_in_float32(self) -> None:
        """Multiply in float32 from now on, and round the sums to bf16.

        A CPU without bf16 units does that three times as fast; sums may differ from an engine's in
        their last bit.
        """
        self._products = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: bf16 [..., K] to bf16 [..., N]."""
        weight = self.decode() if self._kept is None else self._kept
        if self._input_scale is not None:
            rounded = _compiled(round_activations) if self._compiled else round_activations
            x = rounded(x, self._input_scale)
        return functional.linear(x.to(self._products), weight.to(self._products)).to(x.dtype)

    def decode(self) -> Tensor:
        """The weight, bf16 [N, K]."""
        if self._compiled:
            return _compiled(_decoded)(
                self._values, self._packed, self._block_scale, self._global_scale
            )
        rows, half = self._packed.shape
        weight = torch.empty(rows, 2 * half, dtype=torch.bfloat16, device=self._packed.device)
        parts = (part.split(_ROWS) for part in (weight, self._packed, self._block_scale))
        for out, packed, block_scale in zip(*parts, strict=True):
            scale = block_scale.float() * self._global_scale
            codes = self._values[packed.int()].view(*scale.shape, BLOCK)
            # Multiplies in float32 and rounds as it writes, with no float32 matrix between.
            torch.mul(codes, scale.unsqueeze(-1), out=out.view(codes.shape))
        return weight


@functools.cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, dynamic=True)


def _decoded(values: Tensor, packed: Tensor, block_scale: Tensor, global_scale: Tensor) -> Tensor:
    """What `NvFp4Linear.decode` does, as one expression."""
    scale = (block_scale.float() * global_scale).unsqueeze(-1)
    codes = values[packed.int()].view(*block_scale.shape, BLOCK)
    return (codes * scale).to(torch.bfloat16).view(packed.shape[0], -1)


class Fp8Linear(nn.Module):
    """`x @ weight.T`, both sides in E4M3.

    Args:
        weight: float8_e4m3fn [N, K].
        scale: float32 [], of the weight.
        input_scale: float32 [].
        keep: Keep the weight's numbers in float32: faster, and five times the memory.
    """

    def __init__(self, weight: Tensor, scale: Tensor, input_scale: Tensor, *, keep: bool) -> None:
        super().__init__()
        self._weight, self._scale, self._input_scale = weight, scale, input_scale
        self._kept = weight.float() if keep else None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: bf16 [..., K] to bf16 [..., N]."""
        weight = self._weight.float() if self._kept is None else self._kept
        scaled = (x.float() * (1 / self._input_scale)).clamp(-_E4M3_MAX, _E4M3_MAX)
        sums = functional.linear(scaled.to(torch.float8_e4m3fn).float(), weight)
        return (sums * (self._scale * self._input_scale)).to(x.dtype)

    def decode(self) -> Tensor:
        """The weight, bf16 [N, K]."""
        return (self._weight.float() * self._scale).to(torch.bfloat16)


def round_activations(x: Tensor, input_scale: Tensor) -> Tensor:
    """Round to NVFP4 and back.

    Args:
        x: [..., K], K a multiple of 16.
        input_scale: float32 [], the checkpoint's.

    Returns:
        As `x`.
    """
    # Reciprocals as vLLM takes them: another order of the same factors rounds differently.
    inverse = 1 / input_scale
    blocks = x.float().unflatten(-1, (-1, BLOCK))
    largest = blocks.abs().amax(-1, keepdim=True)
    scale = (inverse * (largest * (1 / _E2M1_MAX))).clamp(max=_E4M3_MAX)
    scale = scale.to(torch.float8_e4m3fn).float()
    divisor = scale * (1 / inverse)
    # A block whose scale rounds to zero becomes zero.
    factor = torch.where(divisor > 0, 1 / divisor, 0)
    codes = _nearest_e2m1((blocks * factor).clamp(-_E2M1_MAX, _E2M1_MAX))
    return (codes * (scale / inverse)).flatten(-2).to(x.dtype)


def _nearest_e2m1(x: Tensor) -> Tensor:
    # E2M1's numbers are 0.5 apart up to 2, 1 up to 4, 2 up to 6; torch.round takes ties to even.
    size = x.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return (x / step).round() * step
