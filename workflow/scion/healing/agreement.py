"""How often a head's drafts are what the body says, on texts that it does not learn from.

Along a text as it stands, a step of drafts begins at every place of a reply. That is no figure of
serving: there a step begins where the one before ended, and the text is what the release says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scion.evaluation.intervals import Estimate, bounded_ratio, ratio_of_sums
from scion.healing.batches import Batch
from scion.healing.losses import FrozenVocabulary

Counts = tuple[tuple[int, ...], ...]
Drafts = Callable[[Sequence[int]], tuple[Batch, Tensor, list[Tensor]]]


@dataclass(frozen=True)
class Agreement:
    """How often drafts are what the body says, text by text.

    Attributes:
        begun: By text, and by place in the draft, the steps that reach it within their reply.
        agreed: Those whose drafts are right up to it.
    """

    begun: Counts
    agreed: Counts

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """By place in the draft, the share that is right up to it; texts vary."""
        columns = zip(zip(*self.agreed, strict=True), zip(*self.begun, strict=True), strict=True)
        return tuple(bounded_ratio(agreed, begun) for agreed, begun in columns if any(begun))

    @property
    def tokens(self) -> float:
        """Mean tokens of a step: the drafts that are right, and the body's own."""
        return 1 + sum(estimate.value for estimate in self.estimates)

    def gain_over(self, other: "Agreement") -> Estimate:
        """How many more drafts of a step are right than another head's, on the same texts."""
        more = [
            sum(mine) - sum(others) for mine, others in zip(self.agreed, other.agreed, strict=True)
        ]
        return ratio_of_sums(more, [begun[0] for begun in self.begun])

    def record(self) -> dict[str, Any]:
        """As facts hold it."""
        return {
            "per_position": [estimate.record() for estimate in self.estimates],
            "tokens": round(self.tokens, 6),
        }


class HeldOut:
    """Texts that a head is looked at with.

    Args:
        groups: Of texts that are drafted for at once.
        drafts: From such a group, its batch, the body's states, and the states drafted.
        vocabulary: The body's `lm_head`.
    """

    def __init__(
        self, groups: Sequence[Sequence[int]], drafts: Drafts, vocabulary: FrozenVocabulary
    ) -> None:
        self._groups, self._drafts, self._vocabulary = groups, drafts, vocabulary
        # What the body says does not change.
        self._said: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def agreement(self) -> Agreement | None:
        """Count, the texts in the order of their places; None without any."""
        begun: list[list[int]] = []
        agreed: list[list[int]] = []
        for number, group in enumerate(self._groups):
            batch, states, drafted = self._drafts(group)
            right = torch.ones_like(batch.steps, dtype=torch.bool)
            counted: list[tuple[Tensor, Tensor]] = []
            for step, draft in enumerate(drafted):
                learned = batch.steps > step
                key = (number, step)
                if key not in self._said:
                    said = said_states(states, batch, step)[learned]
                    self._said[key] = self._vocabulary.best(said)
                drafts = self._vocabulary.best(draft[learned].to(torch.bfloat16))
                right[learned] &= self._said[key] == drafts
                counted.append((learned.sum(1), (right & learned).sum(1)))
            for counts, places in zip((begun, agreed), zip(*counted, strict=True), strict=True):
                counts += torch.stack(places, 1).tolist()
        if not begun:
            return None
        places = [place for group in self._groups for place in group]
        order = sorted(range(len(places)), key=places.__getitem__)
        return Agreement(
            tuple(tuple(begun[row]) for row in order), tuple(tuple(agreed[row]) for row in order)
        )


def said_states(states: Tensor, batch: Batch, step: int) -> Tensor:
    """The body's states that say what a step's drafts should: [B, R, H]."""
    places = (batch.rows + step + 1).clamp(max=states.shape[1] - 1)
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
