"""How far drafts are from what the body says: the losses, and how often both agree.

Logits never stand whole: they are made for some rows at a time, and what a loss gives back to these
rows is kept in their place, so that nothing is made twice.
With p the body's distribution over the vocabulary and q the draft's:

- `cross_entropy`: -Σ p log q.
- `total_variation`: ½ Σ |p - q|, which is 1 - Σ min(p, q).
- `acceptance`: -log Σ min(p, q), the sum being the chance that rejection sampling accepts a draft
  (Leviathan et al., 2023, https://arxiv.org/abs/2211.17192).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scion.healing.config import LossName

# Numbers of logits that stand at once: a quarter of a gigabyte in float32, some copies of it on the
# way. Rows by multiples of a GPU's tiles.
_LOGITS, _TILE = 1 << 26, 128
_TINY = 1e-12


class _WithGradient(torch.autograd.Function):
    """A sum whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradient: Tensor, _drafted: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return None, None, gradient * slope.to(gradient.dtype)


class FrozenVocabulary:
    """The body's `lm_head`, frozen, over rows of hidden states.

    Args:
        head: From states [rows, H] to logits [rows, vocabulary], as the body computes them.
        weight: The head's weights, [vocabulary, H], for drafts, whose gradients pass it.
    """

    def __init__(self, head: Callable[[Tensor], Tensor], weight: Tensor) -> None:
        self._head, self._weight = head, weight
        rows = max(1, _LOGITS // weight.shape[0])
        self._rows = rows - rows % _TILE if rows > _TILE else rows

    def loss(self, drafted: Tensor, said: Tensor, name: LossName) -> Tensor:
        """The sum of a loss over rows.

        Args:
            drafted: States of the head that predict a token each, [rows, H].
            said: The body's states that predict the same tokens, bf16 [rows, H].
            name: Which loss.
        """
        total = drafted.new_zeros((), dtype=torch.float32)
        gradients: list[Tensor] = []
        parts = zip(drafted.detach().split(self._rows), said.split(self._rows), strict=True)
        for draft, body in parts:
            draft.requires_grad_(True)
            part = self._part(draft, body, name)
            gradients += torch.autograd.grad(part, draft)
            total += part.detach()
        result: Any = _WithGradient.apply(total, torch.cat(gradients), drafted)
        return result

    def _part(self, draft: Tensor, body: Tensor, name: LossName) -> Tensor:
        with torch.no_grad():
            goal = self._head(body).float().softmax(-1)
        chances = functional.linear(draft, self._weight.to(draft.dtype)).float().log_softmax(-1)
        if name == "cross_entropy":
            return -(goal * chances).sum()
        common = torch.minimum(goal, chances.exp()).sum(-1)
        return (1 - common).sum() if name == "total_variation" else -(common + _TINY).log().sum()

    @torch.no_grad()
    def best(self, states: Tensor) -> Tensor:
        """The most likely token of each row, int64 [rows]."""
        return torch.cat([self._head(part).argmax(-1) for part in states.split(self._rows)])
