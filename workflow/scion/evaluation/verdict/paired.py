"""Release and source on the same prompts: who was right where, and what that tells.

`paired_rates` is the interval that decides. McNemar's test is told beside it: it asks whether the
two differ at all, which is another question than whether the difference is small enough.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scion.evaluation.intervals import Estimate, difference_of_ratios, paired_difference


@dataclass(frozen=True)
class Pair:
    """Something that release and source both did or did not do, asked the same.

    Attributes:
        prompt: What they were asked; pairs of one prompt are not independent.
        release: Whether it is true of the release's reply.
        source: Whether it is true of the source's.
    """

    prompt: str
    release: bool
    source: bool


def mcnemar(first: int, second: int) -> float:
    """Two-sided p of McNemar's exact test (Q. McNemar, 1947).

    Args:
        first: Pairs in which only the one is right.
        second: Those in which only the other is.

    Returns:
        How likely so uneven a split is if both are right equally often; 1 without such pairs.
    """
    count = first + second
    tail = sum(math.comb(count, few) for few in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**count)


def paired_rates(pairs: Sequence[Pair], *, less_is_worse: bool) -> tuple[Estimate, dict[str, Any]]:
    """How much worse the release is than the source, in points.

    The interval is Newcombe's for paired proportions, honest where hardly a pair differs. Where
    several pairs share a prompt it is widened to that of the jackknife over prompts, if that
    reaches further.

    Args:
        pairs: One or more.
        less_is_worse: Whether what was counted is good, such as a right answer.

    Returns:
        The estimate in points, positive where the release is worse, its count that of prompts; and
        the counts, with McNemar's p.

    Raises:
        ValueError: There are no pairs.
    """
    sides = [
        (pair.source, pair.release) if less_is_worse else (pair.release, pair.source)
        for pair in pairs
    ]
    found = paired_difference(sides)
    assert found.low is not None
    assert found.high is not None
    low, high = found.low, found.high
    prompts: dict[str, list[tuple[bool, bool]]] = {}
    for pair, side in zip(pairs, sides, strict=True):
        prompts.setdefault(pair.prompt, []).append(side)
    if len(prompts) < len(pairs):
        first, second = (
            [(sum(each[place] for each in own), len(own)) for own in prompts.values()]
            for place in range(2)
        )
        by_prompt = difference_of_ratios(first, second)
        if by_prompt.low is not None and by_prompt.high is not None:
            low, high = min(low, by_prompt.low), max(high, by_prompt.high)
    only_release = sum(pair.release and not pair.source for pair in pairs)
    only_source = sum(pair.source and not pair.release for pair in pairs)
    told = {
        "release": sum(pair.release for pair in pairs),
        "source": sum(pair.source for pair in pairs),
        "cases": len(pairs),
        "only_release": only_release,
        "only_source": only_source,
        "mcnemar_p": round(mcnemar(only_release, only_source), 6),
    }
    return Estimate(100 * found.value, 100 * low, 100 * high, len(prompts)), told
