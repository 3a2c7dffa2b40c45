"""The experts of a mixture whose weights stay in NVFP4, with the arithmetic of vLLM on a CPU.

Takes the place of transformers' stacks of experts. A layer's experts round their inputs with one
scale, the largest of theirs, and their shares of a token are added up in float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scion.evaluation.offline.linear import NvFp4Linear


class NvFp4Experts(nn.Module):
    """Experts with a SiLU gate, one matrix a projection.

    Args:
        gate: By expert.
        up: By expert.
        down: By expert.
    """

    def __init__(
        self, gate: Sequence[NvFp4Linear], up: Sequence[NvFp4Linear], down: Sequence[NvFp4Linear]
    ) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.ModuleList(part) for part in (gate, up, down))

    def forward(self, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """Add up the experts of each token.

        Args:
            hidden: bf16 [tokens, H].
            chosen: Number of each of a token's experts, [tokens, k].
            shares: What each of them counts, [tokens, k].
        """
        out = torch.zeros(*chosen.shape, hidden.shape[1], device=hidden.device)
        for expert in chosen.unique().tolist():
            token, place = torch.where(chosen == expert)
            inputs = hidden[token]
            gate: Any = self.gate[expert](inputs)
            inner = (functional.silu(gate.float()) * self.up[expert](inputs).float()).to(gate.dtype)
            out[token, place] = self.down[expert](inner).float() * shares[token, place, None]
        return out.sum(1).to(hidden.dtype)
