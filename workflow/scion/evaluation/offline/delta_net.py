"""The gated delta net in float32 between its matrices, as vLLM's kernels compute it.

transformers' classes round to bf16 where those kernels don't: between the convolution and its
activation, when queries and keys are normalised, in the sigmoid of beta, and within the gated norm.
Greedy texts part over less: with this, 35 of 52 replies of the embedded release were those of a CPU
server, without it 29. Which fast kernels are installed makes no difference here.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def compute_in_float32(model: nn.Module, classes: SimpleNamespace) -> None:
    """Change how the gated delta nets of a model, or of a layer, compute; their weights stay.

    Args:
        model: The model.
        classes: Those of transformers that it is built of (`classes_of`).
    """
    for part in model.modules():
        if isinstance(part, classes.delta_net):
            _widen(part, classes.modeling)


def _widen(net: Any, modeling: Any) -> None:
    net.norm = _GatedNorm(net.norm.weight, net.layer_norm_epsilon)
    net.causal_conv1d_fn = _convolve
    net.causal_conv1d_update = _convolve_next
    net.chunk_gated_delta_rule = _widened(modeling.torch_chunk_gated_delta_rule)
    net.recurrent_gated_delta_rule = _widened(modeling.torch_recurrent_gated_delta_rule)
    net.in_proj_b.register_forward_hook(_to_float32)


class _GatedNorm(nn.Module):
    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight, self._epsilon = weight, epsilon

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._epsilon)
        return (wide * self.weight.float() * functional.silu(gate.float())).to(x.dtype)


def _convolve(x: Tensor, weight: Tensor, **_: object) -> Tensor:
    """Causal convolution of [1, channels, tokens] with [channels, taps], then SiLU."""
    padded = functional.pad(x.float(), (weight.shape[-1] - 1, 0))
    mixed = functional.conv1d(padded, weight.float().unsqueeze(1), groups=weight.shape[0])
    return functional.silu(mixed).to(x.dtype)


def _convolve_next(x: Tensor, state: Tensor, weight: Tensor, *_: object) -> Tensor:
    """The same for one more token; `state`, [1, channels, taps], moves on by it."""
    seen = torch.cat([state, x], -1)[..., 1:]
    state.copy_(seen)
    mixed = (seen.float() * weight.float()).sum(-1, keepdim=True)
    return functional.silu(mixed).to(x.dtype)


def _widened(rule: Callable[..., Any]) -> Callable[..., Any]:
    def widened(*qkv: Tensor, **rest: Any) -> tuple[Tensor, Tensor]:
        out, state = rule(*(part.float() for part in qkv), **rest)
        return out.to(qkv[0].dtype), state

    return widened


def _to_float32(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output.float()
