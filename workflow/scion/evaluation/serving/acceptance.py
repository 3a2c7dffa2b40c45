"""Acceptance of drafts by set of prompts, from the server's counters around each reply.

Replies end where the model ends them: past the end of its reply a model writes what nobody asked
for, and acceptance there means little. The prompt is the unit of the intervals, since the drafts
within one are not independent; one that is asked with and without thinking is one unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scion.engines.vllm.counters import SpecDecodeCounters
from scion.evaluation.decoding import Answer, Prompt
from scion.evaluation.intervals import bounded_ratio
from scion.evaluation.serving.prompts import SETS


@dataclass(frozen=True)
class CountedReply:
    """One reply, and what the server's counters counted meanwhile."""

    prompt: Prompt
    answer: Answer
    counters: SpecDecodeCounters


def acceptance_rows(replies: Sequence[CountedReply], drafted: int) -> list[dict[str, Any]]:
    """The rows that results record: one for each set and mode, and one for all.

    Args:
        replies: Of one server.
        drafted: Tokens of a draft, at least 1.

    Raises:
        ValueError: The counts of a row can't be those of a server that drafts so many tokens.
    """
    kinds = sorted(
        {(reply.prompt.set, reply.prompt.thinking) for reply in replies},
        key=lambda kind: (SETS.index(kind[0]), kind[1]),
    )
    rows = [
        _row(
            [reply for reply in replies if (reply.prompt.set, reply.prompt.thinking) == kind],
            *kind,
            drafted,
        )
        for kind in kinds
    ]
    return [*rows, _row(replies, "all", None, drafted)]


def _row(
    replies: Sequence[CountedReply], name: str, thinking: bool | None, drafted: int
) -> dict[str, Any]:
    zero = SpecDecodeCounters(0, 0, 0, ())
    prompts: dict[str, SpecDecodeCounters] = {}
    for reply in replies:
        prompts[reply.prompt.name] = prompts.get(reply.prompt.name, zero) + reply.counters
    total = sum(prompts.values(), zero)
    if fault := total.fault(drafted):
        mode = "" if thinking is None else f", {'with' if thinking else 'without'} thinking"
        raise ValueError(f"prompts {name}{mode}: {fault}")
    drafts = [counters.drafts for counters in prompts.values()]

    def by_draft(counts: list[int], low: float, high: float) -> dict[str, Any]:
        return bounded_ratio(counts, drafts, low=low, high=high).record()

    # A prompt that was answered without one draft shows no positions.
    places = [
        [(*counters.accepted_per_position, *(0,) * drafted)[place] for counters in prompts.values()]
        for place in range(drafted)
    ]
    return {
        "set": name,
        "thinking": thinking,
        "prompts": len(prompts),
        "drafts": total.drafts,
        "draft_tokens": total.draft_tokens,
        "accepted_by_position": list(total.accepted_per_position),
        "per_position": [by_draft(counts, 0, 1) for counts in places],
        # A step gives the accepted tokens, and one that the model adds itself.
        "mean_length": by_draft(
            [counters.accepted + counters.drafts for counters in prompts.values()], 1, drafted + 1
        ),
    }
