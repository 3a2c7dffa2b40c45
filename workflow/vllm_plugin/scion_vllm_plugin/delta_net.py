"""One arithmetic for the gated delta net on a CPU, with and without speculation.

vLLM 0.32 decodes a sequence by other kernels once speculation is configured, even where nothing was
drafted, and the two differ by more than a last bit:

- The convolution runs in C++ where the CPU has AVX512-BF16, but with speculation only where it has
  AMX, and else in torch, although the same C++ kernel takes both cases and needs no AMX.
- Without speculation the recurrent kernel keeps its state to about bf16's precision (an error of
  4e-3 in one step from a float64 reference), with speculation to float32's (3e-7).

Greedy texts then part after some tokens, which looks like a fault of the drafts. Both cases are
led to the same kernels here, the more exact one for the recurrence. Done by replacing two functions
in vLLM's modules, since there is no hook; each replacement is one of vLLM's own kernels.
"""

import torch
import vllm._custom_ops as ops
from vllm.model_executor.layers.mamba.ops.cpu import gdn_attention


def use_one_arithmetic() -> None:
    """Replace the two functions in this process."""
    if torch.cpu._is_avx512_bf16_supported():
        # All that asks it is whether the C++ convolution can be used.
        gdn_attention.is_arm_bf16 = lambda: True
    ops.fused_sigmoid_gating_delta_rule_update_cpu = decode_by_spec_kernel


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
