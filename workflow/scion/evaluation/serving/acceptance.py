"""Acceptance of drafts by set of prompts, from the server's counters around each reply.

Replies end where the model ends them: past the end of its reply a model writes what nobody asked
for, and acceptance there means little. The prompt is the unit of the intervals, since the drafts
within one are not independent; one that is asked with and without thinking is one unit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scion.engines.vllm.counters import SpecDecodeCounters
from scion.evaluation.decoding import Answer, Prompt
from scion.evaluation.intervals import bounded_ratio, difference_of_ratios
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
    rows = [
        _row(
            [reply for reply in replies if (reply.prompt.set, reply.prompt.thinking) == kind],
            *kind,
            drafted,
        )
        for kind in _kinds((reply.prompt.set, reply.prompt.thinking) for reply in replies)
    ]
    return [*rows, _row(replies, "all", None, drafted)]


def _kinds(asked: Iterable[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The sets of prompts with and without thinking, in the order of the rows."""
    return sorted(set(asked), key=lambda kind: (SETS.index(kind[0]), kind[1]))


def reply_rows(replies: Sequence[CountedReply], drafted: int) -> list[dict[str, Any]]:
    """The counts of each reply, which `paired_acceptance` takes.

    Args:
        replies: Of one server.
        drafted: Tokens of a draft, at least 1.
    """
    return [
        {
            "prompt": reply.prompt.name,
            "set": reply.prompt.set,
            "thinking": reply.prompt.thinking,
            "drafts": reply.counters.drafts,
            # A server that has not drafted yet shows no positions.
            "accepted_by_position": [*reply.counters.accepted_per_position, *(0,) * drafted][
                :drafted
            ],
        }
        for reply in replies
    ]


def paired_acceptance(
    one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """How much more one server accepted than another that was asked the same, prompt by prompt.

    Args:
        one: The replies of a server that drafts, as `reply_rows` has them.
        other: Those of the other; it may draft another number of tokens.

    Returns:
        A row for each set and mode, and one for all: `set`, `thinking` and the number of `prompts`
        as of `acceptance_rows`; the plain `per_position` and `mean_length` (tokens a step) of `one`
        and of `other`; and their `difference`, the one less the other, each an estimate by
        `scion.evaluation.intervals.difference_of_ratios`, of the positions that both draft.

    Raises:
        ValueError: They were asked other prompts, or one counted no drafts for a set.
    """
    sides = [{_asked(reply): reply for reply in replies} for replies in (one, other)]
    if sides[0].keys() != sides[1].keys():
        raise ValueError("the replies are not to the same prompts")
    kinds = _kinds((name, thinking) for _, name, thinking in sides[0])
    rows = [
        _paired_row(
            [[reply for asked, reply in side.items() if asked[1:] == kind] for side in sides], *kind
        )
        for kind in kinds
    ]
    return [*rows, _paired_row([list(side.values()) for side in sides], "all", None)]


def _asked(reply: Mapping[str, Any]) -> tuple[str, str, bool]:
    return reply["prompt"], reply["set"], reply["thinking"]


def _paired_row(
    sides: Sequence[Sequence[Mapping[str, Any]]], name: str, thinking: bool | None
) -> dict[str, Any]:
    prompts = list(dict.fromkeys(reply["prompt"] for reply in sides[0]))
    one, other = ([_of_prompt(side, prompt) for prompt in prompts] for side in sides)
    places = zip(_by_position(one), _by_position(other), strict=False)
    difference = {
        "per_position": [difference_of_ratios(*place).record() for place in places],
        "mean_length": difference_of_ratios(_lengths(one), _lengths(other)).record(),
    }
    return {
        "set": name,
        "thinking": thinking,
        "prompts": len(prompts),
        "one": _plain(one),
        "other": _plain(other),
        "difference": difference,
    }


_Counts = Sequence[tuple[int, list[int]]]
"""Of each prompt: drafts, and accepted tokens by position."""


def _by_position(counts: _Counts) -> list[list[tuple[int, int]]]:
    """For each position, of each prompt the accepted tokens and the drafts."""
    positions = range(len(counts[0][1]))
    return [[(accepted[place], drafts) for drafts, accepted in counts] for place in positions]


def _lengths(counts: _Counts) -> list[tuple[int, int]]:
    """Of each prompt the tokens of its steps, and the steps."""
    return [(drafts + sum(accepted), drafts) for drafts, accepted in counts]


def _plain(counts: _Counts) -> dict[str, Any]:
    def of_all(pairs: Sequence[tuple[int, int]]) -> float:
        return round(sum(above for above, _ in pairs) / sum(below for _, below in pairs), 6)

    return {
        "per_position": [of_all(pairs) for pairs in _by_position(counts)],
        "mean_length": of_all(_lengths(counts)),
    }


def _of_prompt(replies: Sequence[Mapping[str, Any]], prompt: str) -> tuple[int, list[int]]:
    """Drafts and accepted tokens by position, with thinking and without together."""
    own = [reply for reply in replies if reply["prompt"] == prompt]
    by_position = zip(*(reply["accepted_by_position"] for reply in own), strict=True)
    return sum(reply["drafts"] for reply in own), [sum(counts) for counts in by_position]


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
