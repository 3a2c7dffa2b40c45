"""Products of bf16 matrices on CPUs that have no instructions for them.

There oneDNN multiplies bf16 number by number, 15 times slower than float32 on an AVX2 machine. The
weight is kept as float32 instead, and the product is rounded to bf16: but for the order of its
float32 sums it is the same. Where the CPU has such instructions nothing changes.
"""

from collections.abc import Callable

import torch
from vllm.model_executor.layers import utils

HAS_BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


def kept(weight: torch.Tensor) -> torch.Tensor:
    """A weight in the form that `product` multiplies fastest.

    Args:
        weight: bf16 [N, K]; what is not bf16 stays as it is.
    """
    return weight.float() if weight.dtype == torch.bfloat16 and not HAS_BF16 else weight


def product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`x` by a weight that was kept, in the dtype of `x`.

    Args:
        x: Activations [tokens, K].
        weight: [N, K], from `kept`.
        bias: [N], or None.
    """
    out = torch.nn.functional.linear(x.to(weight.dtype), weight).to(x.dtype)
    return out if bias is None else out + bias


def multiply_in_float32() -> None:
    """Have vLLM's layers that are not quantized multiply so, in this process."""
    if not HAS_BF16:
        utils.dispatch_cpu_unquantized_gemm = _kept_layer(utils.dispatch_cpu_unquantized_gemm)


def _kept_layer(dispatch: Callable[[torch.nn.Module, bool], None]) -> Callable[..., None]:
    def prepare(layer: torch.nn.Module, remove_weight: bool) -> None:
        weight = layer.weight
        if weight.is_meta or weight.ndim != 2 or weight.dtype != torch.bfloat16:
            dispatch(layer, remove_weight)
            return
        wide = kept(weight.data)
        layer.cpu_linear = lambda x, _weight, bias: product(x, wide, bias)
        if remove_weight:
            empty = torch.empty(0, dtype=weight.dtype)
            layer.weight = torch.nn.Parameter(empty, requires_grad=False)

    return prepare
