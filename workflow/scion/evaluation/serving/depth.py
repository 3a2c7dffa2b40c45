"""How fast each number of drafts would be, predicted from the numbers that were measured.

A step verifies n drafts and gives 1 + p₁ + p₁p₂ + … + p₁…pₙ tokens, where pₖ is how often the k-th
draft is accepted once those before it were. It takes s(n) seconds. Tokens a second are the first
divided by the second.

- pₖ comes from the measured number with the most drafts. Beyond its last position pₖ stays what it
  was there, so that acceptance goes on falling geometrically.
- s(n) of a measured number is its tokens a step by its tokens a second: all time of a decode, its
  prefill included. For drafting nothing it is as measured. For n ≥ 1 it lies on the line of least
  squares through the measured n ≥ 1; if there is one of them alone, on the line through it and
  drafting nothing. A line that falls is taken as level:
  no draft is free.

Tokens a step are those of the replies, tokens a second those of a timed decode: where the two
accept differently, as past the end of a reply, the prediction is off by that. It has no interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from statistics import fmean, linear_regression
from typing import Any

from scion.evaluation.serving.config import MOST_DRAFTS
from scion.evaluation.serving.leading import longest_decode


@dataclass(frozen=True)
class MeasuredDepth:
    """What one number of drafts showed.

    Attributes:
        drafted: Tokens that a step drafts; 0 without drafts.
        drafts: Steps that drafted, during the replies; more than 0 unless nothing is drafted.
        accepted: In how many of them the draft at each position was accepted.
        tokens_per_second: Of a timed decode, of one of its requests.
    """

    drafted: int
    drafts: int
    accepted: tuple[int, ...]
    tokens_per_second: float

    @property
    def tokens_a_step(self) -> float:
        """The accepted tokens, and one that the model adds itself."""
        return 1 + sum(self.accepted) / self.drafts if self.drafted else 1.0

    @property
    def step_seconds(self) -> float:
        """What a step took."""
        return self.tokens_a_step / self.tokens_per_second

    @property
    def conditional_acceptance(self) -> tuple[float, ...]:
        """How often the draft at each position was accepted, once those before it were."""
        reached = (self.drafts, *self.accepted)
        return tuple(
            taken / before if before else 0.0
            for taken, before in zip(self.accepted, reached, strict=False)
        )


@dataclass(frozen=True)
class PredictedDepth:
    """What is predicted of one number of drafts.

    Attributes:
        drafted: Tokens that a step drafts.
        tokens_a_step: Tokens that it gives.
        step_seconds: What it takes.
    """

    drafted: int
    tokens_a_step: float
    step_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of one request."""
        return self.tokens_a_step / self.step_seconds


@dataclass(frozen=True)
class DepthPrediction:
    """What follows from the numbers of drafts that were measured.

    Attributes:
        measured: Those, the fewest drafts first.
        speeds: The numbers that are predicted, the fewest drafts first; drafting nothing is one
            of them if it was measured.
    """

    measured: tuple[MeasuredDepth, ...]
    speeds: tuple[PredictedDepth, ...]

    @property
    def best(self) -> int:
        """The number of drafts that is predicted to be fastest; of several the smallest."""
        return max(self.speeds, key=lambda speed: speed.tokens_per_second).drafted


def predict_depths(
    measured: Sequence[MeasuredDepth], *, most: int = MOST_DRAFTS
) -> DepthPrediction | None:
    """Predict the speed of each number of drafts up to `most`.

    Args:
        measured: The numbers that were measured, each once, of one launch and one kind of decode.
        most: The largest number that is predicted, unless a larger one was measured (tokens).

    Returns:
        The prediction; None where fewer than two numbers were measured.
    """
    if len(measured) < 2:
        return None
    known = tuple(sorted(measured, key=lambda depth: depth.drafted))
    rates = known[-1].conditional_acceptance
    deepest = max(most, known[-1].drafted)
    chances = [*rates, *[rates[-1]] * (deepest - len(rates))]
    # Tokens of a step that drafts 0, 1, …
    tokens = list(accumulate(accumulate(chances, mul), initial=1.0))
    first, more = _step_line(known)
    speeds = [PredictedDepth(n, tokens[n], first + more * n) for n in range(1, deepest + 1)]
    if known[0].drafted == 0:
        speeds.insert(0, PredictedDepth(0, 1.0, known[0].step_seconds))
    return DepthPrediction(known, tuple(speeds))


def _step_line(known: Sequence[MeasuredDepth]) -> tuple[float, float]:
    """What a step that drafts takes in seconds: of itself, and more for each draft."""
    drafting = [depth for depth in known if depth.drafted]
    points = drafting if len(drafting) > 1 else known
    places = [depth.drafted for depth in points]
    seconds = [depth.step_seconds for depth in points]
    line = linear_regression(places, seconds)
    return (line.intercept, line.slope) if line.slope > 0 else (fmean(seconds), 0.0)


def measured_depths(runs: Sequence[Mapping[str, Any]]) -> list[MeasuredDepth]:
    """What the runs of one launch showed, each number of drafts once.

    Args:
        runs: As `serving.json` records them, with acceptance where they draft.
    """
    depths: dict[int, MeasuredDepth] = {}
    for run in runs:
        drafted, decode = run["speculative_tokens"], longest_decode(run["speed"])
        row = next((row for row in run["acceptance"] or () if row["set"] == "all"), None)
        depths[drafted] = MeasuredDepth(
            drafted,
            row["drafts"] if row else 0,
            tuple(row["accepted_by_position"]) if row else (),
            decode["tokens_per_second"]["value"] / decode["parallel"],
        )
    return list(depths.values())


def prediction_record(
    prediction: DepthPrediction, runs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The prediction as `serving.json` records it, beside what was measured.

    Args:
        prediction: The prediction.
        runs: Those of its launch, also of a number that was measured because of it.
    """
    decode = longest_decode(runs[0]["speed"])
    shown = {run["speculative_tokens"]: longest_decode(run["speed"]) for run in runs}
    return {
        "launch": runs[0]["launch"],
        "tokens": decode["tokens"],
        "parallel": decode["parallel"],
        "conditional_acceptance": [
            round(rate, 6) for rate in prediction.measured[-1].conditional_acceptance
        ],
        "measured_steps": [
            {
                "speculative_tokens": depth.drafted,
                "tokens_a_step": round(depth.tokens_a_step, 6),
                "step_ms": round(1000 * depth.step_seconds, 6),
            }
            for depth in prediction.measured
        ],
        "speeds": [
            {
                "speculative_tokens": speed.drafted,
                "tokens_a_step": round(speed.tokens_a_step, 6),
                "step_ms": round(1000 * speed.step_seconds, 6),
                "tokens_per_second": round(decode["parallel"] * speed.tokens_per_second, 6),
                "measured": shown[speed.drafted]["tokens_per_second"]
                if speed.drafted in shown
                else None,
            }
            for speed in prediction.speeds
        ],
        "best": prediction.best,
    }
