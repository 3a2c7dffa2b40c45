"""What follows from an estimate and a threshold: accept, regression, or how many prompts more.

The interval decides, not the estimate: `accept` where even its bad end keeps the threshold,
`regression` where even its good end does not. In between the prompts were too few.
"""

import math
from dataclasses import dataclass
from typing import Literal

from scion.evaluation.intervals import Estimate

Judged = Literal["accept", "regression", "undecided", "not asked"]
Bound = Literal["at most", "at least"]

# So many prompts nobody asks.
_OUT_OF_REACH = 100_000


@dataclass(frozen=True)
class Ruling:
    """What follows.

    Attributes:
        outcome: Of this criterion.
        reason: Why, in a sentence without its full stop.
        more: How many more prompts would decide, if the estimate stays; None where none are needed
            or no number of them would.
    """

    outcome: Judged
    reason: str
    more: int | None = None


def decide(found: Estimate, threshold: float, bound: Bound, *, prompts: int) -> Ruling:
    """Hold an estimate against a threshold.

    Args:
        found: With its interval; without one nothing is decided.
        threshold: In the same unit.
        bound: On which side of it the release has to be.
        prompts: The units that the interval rests on. Its width falls with their square root.
    """
    value, low, high = found.value, found.low, found.high
    if low is None or high is None:
        return Ruling("undecided", "there is no interval: too few prompts vary", None)
    # Turned so that more is worse.
    turn = 1 if bound == "at most" else -1
    best, worst = sorted((turn * low, turn * high))
    middle, limit = turn * value, turn * threshold
    shown = f"{bound} {_number(threshold)}"
    if worst <= limit:
        return Ruling("accept", f"the interval's bad end, {_number(turn * worst)}, is {shown}")
    if best > limit:
        return Ruling(
            "regression",
            f"not even the interval's good end, {_number(turn * best)}, is {shown}",
        )
    # The end of the interval that has to come to the threshold, and how far that is.
    half = worst - middle if middle <= limit else middle - best
    return _undecided(half, abs(limit - middle), prompts)


def _undecided(half: float, margin: float, prompts: int) -> Ruling:
    told = (
        f"the half width of the interval is {_number(half)}, the margin between estimate and "
        f"threshold {_number(margin)}"
    )
    wanted = prompts * (half / margin) ** 2 if margin else math.inf
    if wanted > _OUT_OF_REACH:
        return Ruling(
            "undecided",
            f"{told}: the estimate lies so near to the threshold that not even {_OUT_OF_REACH:,} "
            "prompts would decide",
        )
    more = max(1, math.ceil(wanted - prompts))
    sums = f"{prompts} x ({_number(half)} / {_number(margin)})^2 - {prompts} = {more}"
    return Ruling(
        "undecided",
        f"{told}: {sums} more prompts would decide, if the estimate stays where it is",
        more,
    )


def _number(value: float) -> str:
    return f"{value:.4g}"
