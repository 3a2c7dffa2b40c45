"""How evenly a mixture's tokens are spread over its experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeTopKRouter


class Routing:
    """Watches the routers of some modules while gradients are recorded.

    Attributes:
        routers: How many there are; none in dense models.
    """

    def __init__(self, *models: nn.Module) -> None:
        self._seen: list[Tensor] = []
        found = [m for model in models for m in model.modules()]
        routers: list[Any] = [m for m in found if isinstance(m, Qwen3_5MoeTopKRouter)]
        for router in routers:
            router.register_forward_hook(self._watch)
        self.routers = len(routers)

    def _watch(self, router: Any, _inputs: object, output: tuple[Tensor, Tensor, Tensor]) -> None:
        if not torch.is_grad_enabled():
            return
        logits, _, chosen = output
        experts = router.num_experts
        probability = logits.float().softmax(-1).mean(0)
        share = functional.one_hot(chosen, experts).float().mean((0, 1))
        self._seen.append(experts * (share * probability).sum())

    def imbalance(self) -> Tensor:
        """The loss of the Switch Transformer since the last call: 1 if all experts get as much.

        Mean over layers and passes (https://arxiv.org/abs/2101.03961, section 2.2).
        """
        seen, self._seen = self._seen, []
        return torch.stack(seen).mean()
