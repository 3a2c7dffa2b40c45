"""How often 95 % intervals hold the truth, for data as the card's numbers rest on them.

Every scenario names the method of `scion.evaluation.intervals` and draws samples of which the true
value is known. An interval that a method does not give (no variation was seen, too few repeats)
claims nothing: `share_given` tells how many are given, and coverage counts those alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scion.evaluation.intervals import (
    Estimate,
    bounded_ratio,
    clustered_proportion,
    difference_of_ratios,
    median,
    positive_ratio,
    proportion,
    ratio_of_sums,
    speedup,
)

Random = np.random.Generator
Draw = Callable[[Random], tuple[Estimate, float]]


@dataclass(frozen=True)
class Scenario:
    """Samples of one kind.

    Attributes:
        card: Where the card prints such an interval.
        method: Of `scion.evaluation.intervals`.
        data: What is drawn.
        draw: Draws a sample: its estimate and the true value.
    """

    card: str
    method: str
    data: str
    draw: Draw

    def simulate(self, times: int, seed: int = 0) -> dict[str, Any]:
        """Coverage over so many samples."""
        random, held, given = np.random.default_rng(seed), 0, 0
        for _ in range(times):
            found, truth = self.draw(random)
            if found.low is None or found.high is None:
                continue
            given += 1
            held += found.low <= truth <= found.high
        return {
            "card": self.card,
            "method": self.method,
            "data": self.data,
            "samples": times,
            "share_given": round(given / times, 4),
            "coverage": round(held / given, 4),
        }


def _rates(random: Random, mean: float, correlation: float, count: int) -> Any:
    """Rates of so many clusters, of which things in one correlate so: a beta distribution."""
    size = 1 / correlation - 1
    return random.beta(mean * size, (1 - mean) * size, count)


def _acceptance(prompts: int, mean: float) -> Draw:
    def draw(random: Random) -> tuple[Estimate, float]:
        drafts = random.integers(30, 90, prompts)
        accepted = random.binomial(drafts, _rates(random, mean, 0.08, prompts))
        return bounded_ratio(accepted.tolist(), drafts.tolist()), mean

    return draw


def _mean_length(prompts: int) -> Draw:
    places = np.array([0.9, 0.8, 0.7])

    def draw(random: Random) -> tuple[Estimate, float]:
        drafts = random.integers(30, 90, prompts)
        shift = _rates(random, 0.9, 0.08, prompts)[:, None] / 0.9
        # A place is taken only if those before it were.
        stays = np.clip(places * shift, 0, 1)
        first = random.binomial(drafts, stays[:, 0])
        second = random.binomial(first, stays[:, 1] / np.maximum(stays[:, 0], 1e-9))
        third = random.binomial(second, stays[:, 2] / np.maximum(stays[:, 1], 1e-9))
        tokens = (first + second + third + drafts).tolist()
        return bounded_ratio(tokens, drafts.tolist(), low=1, high=4), _MEAN_LENGTH

    return draw


def _mean_length_truth() -> float:
    shift = _rates(np.random.default_rng(1), 0.9, 0.08, 2_000_000)[:, None] / 0.9
    return 1 + float(np.clip(np.array([0.9, 0.8, 0.7]) * shift, 0, 1).sum(1).mean())


_MEAN_LENGTH = _mean_length_truth()


def _paired_acceptance(prompts: int, gain: float) -> Draw:
    """Two heads on the same prompts: what makes one easy for the first does so for the second."""

    def draw(random: Random) -> tuple[Estimate, float]:
        rates = _rates(random, 0.8, 0.08, prompts)
        sides: list[list[tuple[float, int]]] = []
        # The first head gains a share of what the second leaves.
        for own in (rates + gain * (1 - rates), rates):
            drafts = random.integers(30, 90, prompts)
            accepted = random.binomial(drafts, own)
            sides.append(list(zip(accepted.tolist(), drafts.tolist(), strict=True)))
        return difference_of_ratios(*sides), gain * 0.2

    return draw


def _instructions(prompts: int, mean: float, correlation: float) -> Draw:
    def draw(random: Random) -> tuple[Estimate, float]:
        counts = random.choice([1, 2, 3], prompts, p=[0.56, 0.33, 0.11])
        passed = random.binomial(counts, _rates(random, mean, correlation, prompts))
        return clustered_proportion(passed.tolist(), counts.tolist()), mean

    return draw


def _independent(trials: int, mean: float) -> Draw:
    return lambda random: (proportion(int(random.binomial(trials, mean)), trials), mean)


def _tasks(random: Random) -> tuple[Estimate, float]:
    """Five tasks of 22 cases, some of them hard: they are the same tasks each time."""
    means = np.array([0.98, 0.95, 0.9, 0.8, 0.6])
    return proportion(int(random.binomial(22, means).sum()), 110), float(means.mean())


def _repeats(count: int) -> Draw:
    return lambda random: (median(random.lognormal(0, 0.1, count).tolist()), 1.0)


def _ratio_of_repeats(count: int) -> Draw:
    def draw(random: Random) -> tuple[Estimate, float]:
        values = 1.7 * random.lognormal(0, 0.1, count)
        return speedup(values.tolist(), random.lognormal(0, 0.1, count).tolist()), 1.7

    return draw


def _documents(random: Random, count: int, spread: float) -> tuple[Any, Any]:
    """Tokens of documents, and a positive mean for each that has the mean 1."""
    tokens = random.integers(150, 700, count)
    return tokens, random.lognormal(-(spread**2) / 2, spread, count)


def _divergence(count: int, spread: float) -> Draw:
    def draw(random: Random) -> tuple[Estimate, float]:
        tokens, means = _documents(random, count, spread)
        return positive_ratio((tokens * means).tolist(), tokens.tolist()), 1.0

    return draw


def _loss(count: int) -> Draw:
    def draw(random: Random) -> tuple[Estimate, float]:
        tokens, means = _documents(random, count, 0.3)
        return ratio_of_sums((2 * tokens * means).tolist(), tokens.tolist()), 2.0

    return draw


def _change(count: int) -> Draw:
    def draw(random: Random) -> tuple[Estimate, float]:
        tokens, means = _documents(random, count, 0.5)
        changes = 0.02 * means + random.normal(0, 0.02, count)
        return ratio_of_sums((tokens * changes).tolist(), tokens.tolist()), 0.02

    return draw


def _agreement(count: int) -> Draw:
    def draw(random: Random) -> tuple[Estimate, float]:
        tokens = random.integers(150, 700, count)
        agreed = random.binomial(tokens, _rates(random, 0.96, 0.01, count))
        return bounded_ratio(agreed.tolist(), tokens.tolist()), 0.96

    return draw


SCENARIOS = (
    *(
        Scenario(
            "acceptance by position, by server and offline",
            "bounded_ratio",
            f"{prompts} prompts, {mean:g} accepted, correlation 0.08 within a prompt",
            _acceptance(prompts, mean),
        )
        for prompts in (4, 8, 24)
        for mean in (0.9, 0.6)
    ),
    *(
        Scenario(
            "mean length, by server and offline",
            "bounded_ratio",
            f"{prompts} prompts, 3 tokens drafted",
            _mean_length(prompts),
        )
        for prompts in (4, 8, 24)
    ),
    *(
        Scenario(
            "acceptance beside another head",
            "difference_of_ratios",
            f"{prompts} prompts, 0.8 accepted by one and {0.8 + 0.2 * gain:g} by the other, "
            "correlation 0.08 within a prompt",
            _paired_acceptance(prompts, gain),
        )
        for prompts, gain in ((4, 0.3), (16, 0.3), (16, 0.05))
    ),
    *(
        Scenario(
            "IFEval, by instruction",
            "clustered_proportion",
            f"{prompts} prompts of 1 to 3, {mean:g} followed, correlation 0.4 within a prompt",
            _instructions(prompts, mean, 0.4),
        )
        for prompts, mean in ((24, 0.8), (100, 0.8), (541, 0.85))
    ),
    *(
        Scenario(card, "proportion", f"{trials} cases, {mean:g} pass", _independent(trials, mean))
        for card, trials, mean in (
            ("IFEval, by prompt", 541, 0.8),
            ("agent tasks, one task", 22, 0.9),
            ("BFCL, a category", 50, 0.85),
            ("BFCL, a category", 200, 0.95),
        )
    ),
    Scenario("agent tasks, all", "proportion", "5 tasks of 22 cases, 0.6 to 0.98 pass", _tasks),
    *(
        Scenario("speed", "median", f"{count} repeats, spread 0.1", _repeats(count))
        for count in (6, 10)
    ),
    *(
        Scenario("speed beside no drafts", "speedup", f"{n} repeats each", _ratio_of_repeats(n))
        for n in (4, 10)
    ),
    *(
        Scenario(
            "KL divergence",
            "positive_ratio",
            f"{count} documents, spread {spread:g}",
            _divergence(count, spread),
        )
        for count, spread in ((8, 0.4), (16, 0.4), (24, 0.6))
    ),
    *(
        Scenario(card, "ratio_of_sums", f"{count} documents", draw(count))
        for card, draw in (("loss and perplexity", _loss), ("change of loss and of KL", _change))
        for count in (8, 24)
    ),
    *(
        Scenario("same token", "bounded_ratio", f"{count} documents", _agreement(count))
        for count in (8, 24)
    ),
)
