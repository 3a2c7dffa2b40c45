"""How often a head's drafts are what the body says, on texts that it does not learn from.

Counted as a server steps along a reply: after its first token, each step beginning where the one
before it ended. What is hard to draft for takes more steps, so it counts for more than its length.
Of a reply that the body said greedily this is what a server counts, but for drafts beyond its end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scion.evaluation.intervals import Estimate, bounded_ratio, difference_of_ratios
from scion.healing.batches import Batch
from scion.healing.losses import FrozenVocabulary
from scion.healing.texts import LearnedText

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
        """How many more tokens a step are than with another head, over the same texts.

        Drafts beyond a reply's end are none here, so it is a little less than that of `tokens`.
        """
        mine, others = (
            [
                (begun[0] + sum(agreed), begun[0])
                for begun, agreed in zip(found.begun, found.agreed, strict=True)
            ]
            for found in (self, other)
        )
        return difference_of_ratios(mine, others)

    def record(self) -> dict[str, Any]:
        """As facts hold it."""
        return {
            "per_position": [estimate.record() for estimate in self.estimates],
            "tokens": round(self.tokens, 6),
        }


class HeldOut:
    """Texts that a head is looked at with.

    Args:
        texts: All texts.
        groups: Of the places in `texts` that are drafted for at once.
        drafts: From such a group, its batch, the body's states, and the states drafted.
        vocabulary: The body's `lm_head`.
    """

    def __init__(
        self,
        texts: Sequence[LearnedText],
        groups: Sequence[Sequence[int]],
        drafts: Drafts,
        vocabulary: FrozenVocabulary,
    ) -> None:
        self._texts, self._groups = texts, groups
        self._drafts, self._vocabulary = drafts, vocabulary
        # What the body says does not change.
        self._said: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def agreement(self) -> Agreement | None:
        """Count, the texts in the order of their places; None without any."""
        found: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for number, group in enumerate(self._groups):
            batch, states, drafted = self._drafts(group)
            right = torch.ones_like(batch.steps, dtype=torch.bool)
            leading = torch.zeros_like(batch.steps)
            for step, draft in enumerate(drafted):
                learned = batch.steps > step
                key = (number, step)
                if key not in self._said:
                    said = said_states(states, batch, step)[learned]
                    self._said[key] = self._vocabulary.best(said)
                drafts = self._vocabulary.best(draft[learned].to(torch.bfloat16))
                right[learned] &= self._said[key] == drafts
                leading += right & learned
            for place, lengths in zip(group, leading.tolist(), strict=True):
                chains = self._texts[place].chains(len(drafted))
                found[place] = steps_along(chains, lengths, len(drafted))
        if not found:
            return None
        counts = [found[place] for place in sorted(found)]
        return Agreement(tuple(begun for begun, _ in counts), tuple(right for _, right in counts))


def steps_along(
    chains: Sequence[tuple[int, int]], leading: Sequence[int], drafts: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Step along the replies of a text, and count by place in the draft.

    Args:
        chains: Of the text, as `LearnedText.chains` gives them.
        leading: For each, how many of its drafts are right before one is wrong.
        drafts: Of a step.

    Returns:
        The steps that reach a place within their reply, and those whose drafts are right up to it.
    """
    begun, agreed, following = [0] * drafts, [0] * drafts, -1
    for (position, inside), right in zip(chains, leading, strict=False):
        # Another reply begins beyond where the last step of this one has led.
        if position < following:
            continue
        for counted, reached in ((begun, inside), (agreed, right)):
            for place in range(reached):
                counted[place] += 1
        following = position + right + 1
    return tuple(begun), tuple(agreed)


def said_states(states: Tensor, batch: Batch, step: int) -> Tensor:
    """The body's states that say what a step's drafts should: [B, R, H]."""
    places = (batch.rows + step + 1).clamp(max=states.shape[1] - 1)
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
