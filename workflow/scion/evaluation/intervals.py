"""Measured numbers with 95 % intervals, each by the method that fits what was counted.

- `proportion`: independent trials. Wilson's interval, which stays inside [0, 1] and is honest at
  0 and n of n (E. B. Wilson, 1927).
- `paired_difference`: the same questions asked of two models. Newcombe's hybrid score interval for
  paired proportions, made of both Wilson intervals and their correlation (R. G. Newcombe, 1998,
  method 10): honest where the models agree everywhere.
- `ratio_of_sums`: tokens or drafts that come in prompts or chats. What happens within one is not
  independent, so the prompt is the unit: the ratio estimator with its jackknife variance and
  Student's t (Cochran, Sampling Techniques, chapter 6).
- `bounded_ratio`, `positive_ratio`: such a ratio that lies between two bounds, or above zero. Its
  logit, or its logarithm, is nearer to normal than the ratio itself, so the interval is taken there
  and carried back (the delta method): near a bound, and with few prompts, the plain one is too
  narrow on the bound's other side.
- `difference_of_ratios`: two such ratios over the same prompts, as of two models that were asked
  the same. Jackknife of the difference, a prompt left out of both sides at once, so that what makes
  a prompt easy for both cancels; Student's t.
- `clustered_proportion`: trials that come in prompts, such as the instructions of IFEval.
- `median`: repeated timings. Order statistics, no assumption on their distribution.
- `speedup`: two sets of repeated timings. The median of all pairwise ratios with the interval that
  inverts the exact Mann-Whitney test (Hodges and Lehmann, 1963).

An interval covers the variation that was sampled: over the repeats of one server, or over the
prompts that were asked. It says nothing of another GPU, another engine or other prompts. How often
each method's interval holds the truth is in docs/measurements/intervals.json.

SciPy is imported where something is calculated: who only reads results needs none, nor who compares
them (`difference_of_ratios`).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import median as middle
from typing import Any

_LEVEL = 0.95
_LARGEST_LOGARITHM = 100.0


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval.

    Attributes:
        value: The number.
        low: Lower end; None where the data can't tell.
        high: Upper end; None where the data can't tell.
        count: What the number rests on: trials, tokens, drafts or repeats.
    """

    value: float
    low: float | None
    high: float | None
    count: int

    def record(self) -> dict[str, Any]:
        """The form that results hold, rounded to six places after the point."""
        return {
            key: round(part, 6) if isinstance(part, float) else part
            for key, part in asdict(self).items()
        }


def proportion(successes: int, trials: int) -> Estimate:
    """Share of independent trials that succeeded.

    Raises:
        ValueError: No trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials} is no proportion")
    from scipy import stats

    interval = stats.binomtest(successes, trials).proportion_ci(_LEVEL, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high), trials)


def paired_difference(pairs: Sequence[tuple[bool, bool]]) -> Estimate:
    """How much more often the first of two trials on the same thing succeeds than the second.

    Args:
        pairs: For each thing, whether the one and whether the other succeeded.

    Returns:
        The difference of the two shares; `count` is the number of pairs.

    Raises:
        ValueError: No pairs.
    """
    count = len(pairs)
    one, other = (proportion(sum(pair[side] for pair in pairs), count) for side in range(2))
    ends = [_wilson_reaches(share) for share in (one, other)]
    shared = _correlation(pairs)

    def reach(up: int, down: int) -> float:
        first, second = ends[0][up], ends[1][down]
        return math.sqrt(max(0.0, first**2 - 2 * shared * first * second + second**2))

    value = one.value - other.value
    return Estimate(value, value - reach(0, 1), value + reach(1, 0), count)


def _wilson_reaches(share: Estimate) -> tuple[float, float]:
    """How far a share's interval reaches down and up."""
    assert share.low is not None
    assert share.high is not None
    return share.value - share.low, share.high - share.value


def _correlation(pairs: Sequence[tuple[bool, bool]]) -> float:
    """Newcombe's phi, with his correction of a positive one; 0 where a side never varies."""
    count = len(pairs)
    both, first, second = (
        sum(pair == kind for pair in pairs) for kind in ((True, True), (True, False), (False, True))
    )
    neither = count - both - first - second
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if margins == 0:
        return 0.0
    moment = both * neither - first * second
    return (max(moment - count / 2, 0) if moment > 0 else moment) / math.sqrt(margins)


def ratio_of_sums(numerators: Sequence[float], denominators: Sequence[int]) -> Estimate:
    """Sum of the numerators by sum of the denominators, the pairs being independent.

    Args:
        numerators: For each prompt or chat, such as accepted tokens or a loss in nats.
        denominators: For each, how many things were counted. A pair with 0 is left out.

    Returns:
        The ratio; no interval where no variation was seen: for a single pair, or where all pairs
        have the same ratio, such as prompts whose every draft was accepted.

    Raises:
        ValueError: Nothing was counted at all.
    """
    pairs = [pair for pair in zip(numerators, denominators, strict=True) if pair[1]]
    count = sum(below for _, below in pairs)
    if count == 0:
        raise ValueError("a ratio needs something that was counted")
    value = math.fsum(above for above, _ in pairs) / count
    if len(pairs) < 2:
        return Estimate(value, None, None, count)
    moves = _moves(pairs, value)
    if not any(moves):
        return Estimate(value, None, None, count)
    reach = _jackknife_reach(moves)
    return Estimate(value, value - reach, value + reach, count)


def _moves(pairs: Sequence[tuple[float, int]], value: float) -> list[float]:
    """How far each pair moves the ratio of the others, `value` being that of all.

    Where pairs differ in size, the plain linearised variance is too small. All are 0 where the
    ratios of the pairs are equal but for the rounding of the division.
    """
    if all(math.isclose(above, value * below, rel_tol=1e-12) for above, below in pairs):
        return [0.0] * len(pairs)
    count = sum(below for _, below in pairs)
    return [(above - value * below) / (count - below) for above, below in pairs]


def _jackknife_reach(moves: Sequence[float]) -> float:
    """Half the width of the interval of what the units move so far, each alone."""
    count = len(moves)
    error = math.sqrt(math.fsum(move**2 for move in moves) * (count - 1) / count)
    return _student(count - 1) * error


@cache
def _student(freedom: int) -> float:
    """What Student's t of so many degrees of freedom exceeds, either way, in 5 of 100 cases.

    By bisection of the finite sums for the chance that it does not (M. Abramowitz and I. A. Stegun,
    Handbook of Mathematical Functions, 26.7.3 and 26.7.4), without SciPy.
    """

    def within(angle: float) -> float:
        sine, cosine = math.sin(angle), math.cos(angle)
        odd = freedom % 2
        power = cosine if odd else 1.0
        terms: list[float] = []
        for place in range(1 + odd, freedom, 2):
            terms.append(power)
            power *= place / (place + 1) * cosine**2
        total = sine * math.fsum(terms)
        return 2 / math.pi * (angle + total) if odd else total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle_angle = (low + high) / 2
        low, high = (low, middle_angle) if within(middle_angle) > _LEVEL else (middle_angle, high)
    return math.sqrt(freedom) * math.tan(low)


def difference_of_ratios(
    one: Sequence[tuple[float, int]], other: Sequence[tuple[float, int]]
) -> Estimate:
    """How much larger one `ratio_of_sums` is than another over the same prompts.

    Args:
        one: For each prompt or chat, numerator and denominator, such as the accepted and the
            drafted tokens of one model.
        other: For each, in the same order, those of the other model.

    Returns:
        The ratio of `one` less that of `other`; `count` is the number of prompts in which
        something was counted. No interval where no variation was seen: where a side counted
        something in a single prompt, or each prompt moves both ratios alike.

    Raises:
        ValueError: The lists differ in length, or a side counted nothing at all.
    """
    both = [pair for pair in zip(one, other, strict=True) if pair[0][1] or pair[1][1]]
    sides = [[pair[0] for pair in both], [pair[1] for pair in both]]
    if not all(any(below for _, below in side) for side in sides):
        raise ValueError("a difference of ratios needs something that was counted on both sides")
    first, second = (
        math.fsum(above for above, _ in side) / sum(below for _, below in side) for side in sides
    )
    value = first - second
    if any(sum(below > 0 for _, below in side) < 2 for side in sides):
        return Estimate(value, None, None, len(both))
    moves = [
        move - counter
        for move, counter in zip(_moves(sides[0], first), _moves(sides[1], second), strict=True)
    ]
    if not any(moves):
        return Estimate(value, None, None, len(both))
    reach = _jackknife_reach(moves)
    return Estimate(value, value - reach, value + reach, len(both))


def bounded_ratio(
    numerators: Sequence[float], denominators: Sequence[int], *, low: float = 0, high: float = 1
) -> Estimate:
    """`ratio_of_sums` of something that lies between `low` and `high`, such as a share.

    Raises:
        ValueError: Nothing was counted at all.
    """
    plain = ratio_of_sums(numerators, denominators)
    if plain.high is None or not low < plain.value < high:
        return Estimate(plain.value, None, None, plain.count)
    from scipy import special

    width = high - low
    share = (plain.value - low) / width
    reach = (plain.high - plain.value) / width / (share * (1 - share))
    middle = special.logit(share)
    ends = [low + width * float(special.expit(middle + sign * reach)) for sign in (-1, 1)]
    return Estimate(plain.value, ends[0], ends[1], plain.count)


def positive_ratio(numerators: Sequence[float], denominators: Sequence[int]) -> Estimate:
    """`ratio_of_sums` of something that is never negative, such as a divergence.

    Raises:
        ValueError: Nothing was counted at all.
    """
    plain = ratio_of_sums(numerators, denominators)
    if plain.high is None or plain.value <= 0:
        return plain
    # Beyond that the upper end would say nothing, and overflow.
    factor = math.exp(min((plain.high - plain.value) / plain.value, _LARGEST_LOGARITHM))
    return Estimate(plain.value, plain.value / factor, plain.value * factor, plain.count)


def clustered_proportion(successes: Sequence[int], trials: Sequence[int]) -> Estimate:
    """Share of trials that succeeded, those of one cluster not being independent.

    Args:
        successes: By cluster, such as a prompt.
        trials: By cluster.

    Returns:
        The share; where all or none succeeded, with Wilson's interval as if each cluster were one
        trial.

    Raises:
        ValueError: There are no trials.
    """
    found = bounded_ratio(successes, trials)
    clusters = sum(count > 0 for count in trials)
    if found.low is not None:
        return found
    if found.value in (0, 1):
        whole = proportion(round(found.value * clusters), clusters)
        return Estimate(found.value, whole.low, whole.high, found.count)
    return found


def median(values: Sequence[float]) -> Estimate:
    """Median with an interval of at least 95 % from order statistics; six values give one.

    Raises:
        ValueError: No values.
    """
    if not values:
        raise ValueError("no values have no median")
    ordered, count = sorted(values), len(values)
    from scipy import stats

    # How many values may be cut off at each end: they all lie on one side with at most 2.5 %.
    cut = int(stats.binom.ppf((1 - _LEVEL) / 2, count, 0.5))
    if stats.binom.cdf(cut, count, 0.5) > (1 - _LEVEL) / 2:
        cut -= 1
    if cut < 0:
        return Estimate(middle(ordered), None, None, count)
    return Estimate(middle(ordered), ordered[cut], ordered[count - 1 - cut], count)


def speedup(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """How many times larger `values` are than `baseline`; both positive, four of each at least.

    Returns:
        The Hodges-Lehmann ratio and its exact interval; `count` is the smaller number of repeats.
        No interval where there are too few repeats for 95 %.

    Raises:
        ValueError: No values, or one that is not positive.
    """
    if not values or not baseline or min(*values, *baseline) <= 0:
        raise ValueError("a ratio of timings needs positive values on both sides")
    ratios = sorted(value / reference for value in values for reference in baseline)
    count = min(len(values), len(baseline))
    cut = _mann_whitney_cut(len(values), len(baseline))
    if cut < 0:
        return Estimate(middle(ratios), None, None, count)
    return Estimate(middle(ratios), ratios[cut], ratios[-1 - cut], count)


def _mann_whitney_cut(first: int, second: int) -> int:
    """The largest u with P(U <= u) <= 2.5 % for samples of these sizes, -1 if there is none."""
    # ways[u]: orders of the two samples with u pairs in which the first is the larger.
    ways = [1]
    for size in range(1, second + 1):
        ways = _times_quotient(ways, first + size, size)
    total, sum_so_far = math.comb(first + second, second), 0
    for u, count in enumerate(ways):
        sum_so_far += count
        if sum_so_far > (1 - _LEVEL) / 2 * total:
            return u - 1
    return len(ways) - 1


def _times_quotient(ways: list[int], up: int, down: int) -> list[int]:
    """The polynomial times (1 - x^up) / (1 - x^down), as the Gaussian binomial is built."""
    longer = ways + [0] * up
    for power in range(len(longer) - 1, up - 1, -1):
        longer[power] -= longer[power - up]
    for power in range(down, len(longer)):
        longer[power] += longer[power - down]
    while longer and longer[-1] == 0:
        longer.pop()
    return longer
