"""GPTQ (https://arxiv.org/abs/2210.17323) on block scales that are already chosen.

ModelOpt's `gptq` takes maximum scales again before it starts, so it can't follow a search, and its
update quantizes the whole matrix for each column. NVFP4 quantizes each value by the scale of its
block alone, so quantizing one column gives the same numbers: K times less work. Hessians, damping
and the order of the updates are ModelOpt's (`modelopt/torch/quantization/utils/calib_utils.py`).
"""

from collections.abc import Callable
from typing import Any

import torch
from modelopt.torch.quantization.conversion import set_quantizer_by_cfg_context
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from modelopt.torch.quantization.utils.calib_utils import GPTQHelper
from torch import Tensor, nn

from scion.formats.modelopt import BLOCK
from scion.quantization.layerwise.torch_kernels import fake_quantize_static

_DAMPING = 0.01
_COLUMNS = 128


class _Helper(GPTQHelper):
    """ModelOpt's Hessian and update, one column quantized at a time."""

    def _blockwise_update(self, block_size: int) -> None:
        weight: Any = self.weight
        inverse: Any = self.h_inv
        scales = block_scales(self.module.weight_quantizer).view(weight.shape[0], -1)
        update(weight, inverse, scales, columns=block_size)

    def _print_mse_error(self, hessian: Tensor) -> None:
        """The matrix product that ModelOpt prints costs as much as the update."""


def block_scales(quantizer: Any) -> Tensor:
    """The decoded scale of each block, float32, of a calibrated static NVFP4 weight quantizer."""
    blocks = quantizer._amax.numel()
    scale, global_scale = NVFP4QTensor.get_weights_scaling_factor_from_quantizer(
        quantizer, torch.empty(blocks, BLOCK, device="meta")
    )
    return scale.float().flatten() * global_scale.float()


def update(weight: Tensor, inverse: Tensor, scales: Tensor, *, columns: int) -> None:
    """Quantize a matrix column by column, each time moving the error to the columns after it.

    Args:
        weight: float32 [N, K], changed in place into what NVFP4 can hold.
        inverse: float32 [K, K], upper Cholesky factor of the damped Hessian's inverse.
        scales: float32 [N, K/16], decoded block scales.
        columns: Columns whose errors are moved on together.
    """
    for first in range(0, weight.shape[1], columns):
        last = min(first + columns, weight.shape[1])
        part = weight[:, first:last].clone()
        errors = torch.zeros_like(part)
        for column in range(last - first):
            scale = scales[:, (first + column) // BLOCK].contiguous()
            rounded = fake_quantize_static(part[:, column].contiguous(), scale)
            weight[:, first + column] = rounded
            row = inverse[first + column, first + column : last]
            error = (part[:, column] - rounded) / row[0]
            part[:, column:].addr_(error, row, alpha=-1)
            errors[:, column] = error
        weight[:, last:].addmm_(errors, inverse[first:last, last:], alpha=-1)


@torch.no_grad()
def gptq(root: nn.Module, run: Callable[[nn.Module], None]) -> None:
    """Replace the weights of all quantized linear modules by what GPTQ makes of them.

    Args:
        root: Holds modules whose weight quantizers are static and calibrated.
        run: Passes the calibration samples through `root`.
    """
    helpers: list[_Helper] = []
    for name, module in root.named_modules():
        quantizer: Any = getattr(module, "weight_quantizer", None)
        if getattr(quantizer, "is_nvfp4_static", False) and quantizer.is_enabled:
            helpers.append(_Helper(module, name))
    for helper in helpers:
        helper.setup()
    try:
        weights_off = [{"quantizer_name": "*weight_quantizer", "enable": False}]
        with set_quantizer_by_cfg_context(root, weights_off):
            run(root)
    finally:
        for helper in helpers:
            helper.cleanup()
    for helper in helpers:
        helper.update_weights(_COLUMNS, _DAMPING)
        helper.free()
