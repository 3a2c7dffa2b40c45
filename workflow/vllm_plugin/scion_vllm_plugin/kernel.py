"""vLLM's NVFP4 emulation, but with each weight dequantized once instead of in every step.

The parent class unpacks and scales the whole weight for every matrix product, which on two cores is
two thirds of a step's time. A weight does not change, so its bf16 form is kept after the first use;
both forms are in memory then. The functions, their order and their results are the parent's.
"""

import torch
from vllm.model_executor.kernels.linear.nvfp4.emulation import EmulationNvFp4LinearKernel
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import (
    dequantize_to_dtype,
    ref_nvfp4_quant_dequant,
)

BLOCK = 16


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
        if self._weight is None or self._weight.dtype != x.dtype:
            self._weight = dequantize_to_dtype(
                layer.weight.data.view(torch.uint8),
                layer.weight_scale.data,
                layer.weight_global_scale,
                x.dtype,
                BLOCK,
                swizzle=False,
            )
        rounded = ref_nvfp4_quant_dequant(x, layer.input_global_scale_inv, BLOCK)
        out = torch.matmul(rounded, self._weight.t())
        return out if bias is None else out + bias
