"""Linear layers on a CPU: vLLM's NVFP4 emulation and its FP8 product, in a fraction of the time.

- The parent class unpacks and scales the whole weight for every matrix product, which on two cores
  is two thirds of a step's time. A weight does not change, so its bf16 form is kept after the first
  use; both forms are in memory then.
- What is left is for its larger half the rounding of activations, in some fifty operations on a few
  numbers each: eight masks and eight assignments to round to FP4 alone. `round_to_nvfp4` takes
  twenty, with one search in a table for those.
- FP8 goes to `torch._scaled_mm`, which on CPUs without FP8 units is oneDNN's reference: a number at
  a time, seconds for a prompt of a few hundred tokens and one small layer.
"""

import math

import torch
from vllm.model_executor.kernels.linear import PerTensorTorchFP8ScaledMMLinearKernel
from vllm.model_executor.kernels.linear.nvfp4.emulation import EmulationNvFp4LinearKernel
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import (
    FLOAT4_E2M1_MAX_RECIPROCAL,
    dequantize_to_dtype,
    get_reciprocal,
)

BLOCK = 16
_LARGEST_SCALE = 448.0
_FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
# The least magnitude that is rounded to each but the first; halves go to the even neighbour.
_LEAST = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
_LEAST[::2] = torch.nextafter(_LEAST[::2], torch.tensor(math.inf))


def round_to_nvfp4(x: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """What `ref_nvfp4_quant_dequant` of vLLM returns on a CPU, bit for bit but for a zero's sign.

    Args:
        x: Activations [tokens, K], K a multiple of 16.
        global_scale: 2688 by the largest magnitude that is expected, float32, one element.
    """
    blocks = x.reshape(x.shape[0], -1, BLOCK).to(torch.float32)
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    scale = global_scale * (largest * FLOAT4_E2M1_MAX_RECIPROCAL)
    scale = scale.clamp(max=_LARGEST_SCALE).to(torch.float8_e4m3fn).to(torch.float32)
    scaled = blocks * get_reciprocal(scale * get_reciprocal(global_scale))
    # Whatever is beyond the largest magnitude of FP4 has its place as well.
    magnitudes = _FP4[torch.bucketize(scaled.abs(), _LEAST, right=True)]
    rounded = torch.copysign(magnitudes, scaled) * (scale / global_scale)
    return rounded.reshape(x.shape).to(x.dtype)


class KeptWeightsNvFp4LinearKernel(EmulationNvFp4LinearKernel):
    """`EmulationNvFp4LinearKernel` that keeps its layer's dequantized weight."""

    # vLLM makes one kernel object a layer.
    _weight: torch.Tensor | None = None

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Round `x` to NVFP4 and multiply; bit for bit what the parent class returns.

        Args:
            layer: Its packed weight [N, K/2], scales [N, K/16] and the two global scales.
            x: Activations [tokens, K].
            bias: [N], or None.
        """
        return self._multiply(layer, round_to_nvfp4(x, layer.input_global_scale_inv), bias)

    def _multiply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if self._weight is None or self._weight.dtype != x.dtype:
            self._weight = dequantize_to_dtype(
                layer.weight.data.view(torch.uint8),
                layer.weight_scale.data,
                layer.weight_global_scale,
                x.dtype,
                BLOCK,
                swizzle=False,
            )
        out = torch.matmul(x, self._weight.t())
        return out if bias is None else out + bias


class WeightOnlyNvFp4LinearKernel(KeptWeightsNvFp4LinearKernel):
    """The same weights with activations as they are (W4A16), as Marlin multiplies on a GPU."""

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Multiply; such a layer has no scale of its inputs.

        Args:
            layer: Its packed weight [N, K/2], scales [N, K/16] and the global scale.
            x: Activations [tokens, K].
            bias: [N], or None.
        """
        return self._multiply(layer, x, bias)


class Float32Fp8LinearKernel(PerTensorTorchFP8ScaledMMLinearKernel):
    """`PerTensorTorchFP8ScaledMMLinearKernel` that multiplies the FP8 numbers as float32."""

    def get_output_padding(self) -> int | None:
        """None: this product gains nothing by more rows."""
        return None

    def apply_scaled_mm(
        self,
        *,
        A: torch.Tensor,
        B: torch.Tensor,
        out_dtype: torch.dtype,
        As: torch.Tensor,
        Bs: torch.Tensor,
        bias: torch.Tensor | None,
        output_shape: list[int],
    ) -> torch.Tensor:
        """Multiply; but for the order of its float32 sums it is what the parent class returns.

        Args:
            A: Activations in FP8, [tokens, K].
            B: The weight in FP8, [K, N].
            out_dtype: Of the product.
            As: The scale of `A`, one element.
            Bs: The scale of `B`, one element.
            bias: [N], or None.
            output_shape: Of the product, [..., N].
        """
        out = (A.float() @ B.float()) * (As * Bs)
        out = out if bias is None else out + bias
        return out.to(out_dtype).view(*output_shape)
