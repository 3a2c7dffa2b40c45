"""vLLM's NVFP4 emulation for mixtures of experts, in torch.

vLLM emulates NVFP4 experts as well, but in a Triton kernel, and chooses among kernels for GPUs
alone: on a CPU it stops with "No NvFp4 MoE backend supports the deployment configuration". Here is
the same arithmetic: activations are rounded to NVFP4 with the layer's `input_scale` (the largest of
its experts), weights are decoded, both are multiplied in bf16, before the second product once more.
Decoded weights are kept, as `scion_vllm_plugin.kernel` keeps those of linear layers. The experts'
shares of a token are added up in float32.
"""

import torch
import vllm.model_executor.layers.fused_moe.modular_kernel as mk
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import FusedMoEParallelConfig
from vllm.model_executor.layers.fused_moe.oracle import nvfp4
from vllm.model_executor.layers.fused_moe.topk_weight_and_reduce import TopKWeightAndReduceNoOP
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import dequantize_to_dtype
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    QuantKey,
    kNvfp4Dynamic,
    kNvfp4Static,
)
from vllm.platforms import current_platform

from scion_vllm_plugin.kernel import BLOCK, round_to_nvfp4


def offer_experts() -> None:
    """Make the class below what vLLM finds as its emulation, in this process.

    Done by replacing a function in vLLM's module, since there is no hook.
    """
    emulation = nvfp4.NvFp4MoeBackend.EMULATION
    nvfp4.backend_to_kernel_cls = lambda backend: (
        [KeptWeightsNvFp4Experts] if backend is emulation else []
    )


class KeptWeightsNvFp4Experts(mk.FusedMoEExpertsModular):
    """W4A4 experts whose decoded weights are kept."""

    _decoded: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def expects_unquantized_inputs(self) -> bool:
        """Inputs are rounded here, not on the way here."""
        return True

    @staticmethod
    def activation_format() -> mk.FusedMoEActivationFormat:
        """Tokens in one row each, not sorted by experts."""
        return mk.FusedMoEActivationFormat.Standard

    @staticmethod
    def _supports_current_device() -> bool:
        return current_platform.is_cpu()

    @staticmethod
    def _supports_no_act_and_mul() -> bool:
        return False

    @staticmethod
    def _supports_activation(activation: MoEActivation) -> bool:
        return activation == MoEActivation.SILU

    @staticmethod
    def _supports_quant_scheme(
        weight_key: QuantKey | None, activation_key: QuantKey | None
    ) -> bool:
        return (weight_key, activation_key) == (kNvfp4Static, kNvfp4Dynamic)

    @staticmethod
    def _supports_parallel_config(moe_parallel_config: FusedMoEParallelConfig) -> bool:
        return not moe_parallel_config.use_ep

    def finalize_weight_and_reduce_impl(self) -> mk.TopKWeightAndReduce:
        """Nothing is left to do: `apply` adds up."""
        return TopKWeightAndReduceNoOP()

    def workspace_shapes(
        self, M: int, N: int, K: int, topk: int, *_: object
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of two workspaces, which are not used, and of the output."""
        return (0,), (0,), (M, K)

    def apply(
        self,
        output: torch.Tensor,
        hidden_states: torch.Tensor,
        w1: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        activation: MoEActivation,
        **_: object,
    ) -> None:
        """Compute the experts of each token and add them up.

        Args:
            output: Set to the result, [tokens, hidden].
            hidden_states: [tokens, hidden].
            w1: Packed gate and up, uint8 [experts, 2 * inner, hidden / 2].
            w2: Packed down, uint8 [experts, hidden, inner / 2].
            topk_weights: Share of each of a token's experts, [tokens, k].
            topk_ids: Number of each of a token's experts, [tokens, k].
            activation: SiLU.
        """
        gate_up, down = self._weights(w1, w2, hidden_states.dtype)
        inputs = round_to_nvfp4(hidden_states, self.a1_gscale)
        shares = torch.zeros(*topk_ids.shape, hidden_states.shape[1])
        for expert in topk_ids.unique().tolist():
            token, place = torch.where(topk_ids == expert)
            both = inputs[token] @ gate_up[expert].t()
            inner = both.new_empty(len(token), both.shape[1] // 2)
            self.activation(activation, inner, both)
            each = round_to_nvfp4(inner, self.a2_gscale) @ down[expert].t()
            shares[token, place] = each.float() * topk_weights[token, place, None]
        output.copy_(shares.sum(1))

    def _weights(
        self, w1: torch.Tensor, w2: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._decoded is None:
            self._decoded = (
                _decode(w1, self.w1_scale, self.g1_alphas, dtype),
                _decode(w2, self.w2_scale, self.g2_alphas, dtype),
            )
        return self._decoded


def _decode(
    packed: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """All experts' weights, [experts, N, K]."""
    each = zip(packed.data.view(torch.uint8), scale.data, global_scale.data, strict=True)
    return torch.stack(
        [
            dequantize_to_dtype(codes, blocks, factor, dtype, BLOCK, swizzle=False)
            for codes, blocks, factor in each
        ]
    )
