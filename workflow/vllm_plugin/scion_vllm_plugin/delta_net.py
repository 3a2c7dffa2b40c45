"""One arithmetic for the gated delta net on a CPU, with and without speculation.

vLLM 0.32 decodes a sequence by other kernels once speculation is configured, even where nothing was
drafted, and the two differ by more than a last bit:

- The convolution runs in C++ where the CPU has AVX512-BF16, but with speculation only where it has
  AMX, and else in torch, although the same C++ kernel takes both cases and needs no AMX. Where it
  has neither, a token without speculation goes through a vector kernel that rounds once, and all
  else through torch, which rounds before the activation as well, and convolves bf16 a channel at a
  time: half of the time of a step on an AVX2 machine.
- Without speculation the recurrent kernel keeps its state to about bf16's precision (an error of
  4e-3 in one step from a float64 reference), with speculation to float32's (3e-7).

Greedy texts then part after some tokens, which looks like a fault of the drafts. Both cases are
led to the same kernels here, the more exact one for the recurrence; where the convolution is in
torch, its product is of all channels at once. Done by replacing functions in vLLM's modules, since
there is no hook.
"""

from types import SimpleNamespace

import torch
import vllm._custom_ops as ops
from torch.nn import functional
from vllm.model_executor.layers.mamba.ops.cpu import causal_conv1d, gdn_attention


def use_one_arithmetic() -> None:
    """Replace the functions in this process."""
    if torch.cpu._is_avx512_bf16_supported():
        # All that asks it is whether the C++ convolution can be used.
        gdn_attention.is_arm_bf16 = lambda: True
    else:
        use_torch_convolution()
    ops.fused_sigmoid_gating_delta_rule_update_cpu = decode_by_spec_kernel


def use_torch_convolution() -> None:
    """Convolve prompts, drafts and tokens in torch, all channels at once."""
    causal_conv1d.F = SimpleNamespace(conv1d=convolve_channels, silu=functional.silu)
    gdn_attention.causal_conv1d_update_cpu = convolve_by_torch


def convolve_channels(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, padding: int, groups: int
) -> torch.Tensor:
    """`conv1d` of each channel by itself, summed in float32 and rounded once.

    Args:
        x: Inputs [sequences, channels, length].
        weight: [channels, 1, width].
        bias: [channels], or None.
        padding: 0.
        groups: As many as there are channels.

    Returns:
        [sequences, channels, length - width + 1], in the dtype of `x`.
    """
    assert padding == 0
    assert groups == x.shape[1]
    width = weight.shape[-1]
    length = x.shape[-1] - width + 1
    wide, taps = x.float(), weight.float().squeeze(1)
    total = wide[..., :length] * taps[:, :1]
    for place in range(1, width):
        total += wide[..., place : place + length] * taps[:, place : place + 1]
    if bias is not None:
        total += bias.float()[:, None]
    return total.to(x.dtype)


def convolve_by_torch(
    *,
    x: torch.Tensor,
    conv_state: torch.Tensor,
    conv_state_indices: torch.Tensor,
    **unchanged: object,
) -> torch.Tensor:
    """Convolve one token of each sequence as drafts and prompts are.

    Args:
        x: Activations [sequences, channels].
        conv_state: The inputs before them, [slots, channels, width - 1]; it moves on by one.
        conv_state_indices: Slot of each sequence, int32 [sequences].
        unchanged: Weight [channels, width], bias and activation.

    Returns:
        [sequences, channels], as the replaced function.
    """
    places = conv_state_indices.to(torch.int64)
    states = conv_state[places]
    out = causal_conv1d.causal_conv1d_update_torch(x.unsqueeze(-1), states, **unchanged)
    conv_state.index_copy_(0, places, states)
    return out.squeeze(-1)


def decode_by_spec_kernel(
    *,
    initial_state_indices: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    **unchanged: object,
) -> torch.Tensor:
    """Decode one token of each sequence by the kernel for drafts, each a draft of one token.

    Args:
        initial_state_indices: Slot of each sequence's state, int32 [sequences].
        q: Queries [1, sequences, key heads, head size]; `k` and `v` likewise.
        k: Keys.
        v: Values, with value heads.
        unchanged: What both kernels take.

    Returns:
        [sequences, 1, value heads, head size], as the replaced function.
    """
    out = ops.fused_sigmoid_gating_delta_rule_update_spec_cpu(
        q=q.squeeze(0),
        k=k.squeeze(0),
        v=v.squeeze(0),
        spec_state_indices=initial_state_indices.to(torch.int32).unsqueeze(1).contiguous(),
        num_accepted_tokens=torch.ones(initial_state_indices.numel(), dtype=torch.int32),
        **unchanged,
    )
    return out.unsqueeze(1)
