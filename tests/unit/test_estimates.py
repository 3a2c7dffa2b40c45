import math
import random

import pytest
from scipy import stats
from support.interval_coverage import SCENARIOS, Scenario

from scion.evaluation.intervals import (
    Estimate,
    _student,
    bounded_ratio,
    clustered_proportion,
    difference_of_ratios,
    median,
    positive_ratio,
    proportion,
    ratio_of_sums,
    speedup,
)


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_wilson_at_both_ends_and_between():
    # Published values: 0 of 20 reaches 16.1 %, 10 of 20 is 29.9 to 70.1 %.
    assert proportion(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    middle = proportion(10, 20)
    assert (middle.low, middle.high) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    with pytest.raises(ValueError, match="2 of 1"):
        proportion(2, 1)


def test_a_median_needs_six_values_for_its_interval():
    assert median([1, 2, 3, 4, 5]).low is None
    six = median([6, 1, 5, 2, 4, 3])
    assert (six.value, six.low, six.high) == (3.5, 1, 6)
    twenty = median(list(range(1, 21)))
    assert (twenty.low, twenty.high) == (6, 15)


def test_speedup_is_the_tabled_mann_whitney_interval():
    # The critical value of U for 6 and 6 at 5 % is 5, so five ratios are cut at each end.
    values, baseline = [2, 4, 6, 8, 10, 12], [1, 1, 1, 1, 1, 1]
    ratio = speedup(values, baseline)
    assert (ratio.value, ratio.low, ratio.high) == (7, 2, 12)
    assert speedup([2, 2, 2], [1, 1, 1]).low is None
    with pytest.raises(ValueError, match="positive"):
        speedup([0.0], [1.0])


def test_a_ratio_takes_the_prompt_as_its_unit():
    alike = ratio_of_sums([5, 5, 5], [10, 10, 10])
    assert (alike.value, alike.low, alike.high, alike.count) == (0.5, None, None, 30)
    apart = ratio_of_sums([10, 0], [10, 10])
    assert apart.low is not None
    assert apart.low < 0 < 1 < (apart.high or 0)
    assert ratio_of_sums([3, 0], [4, 0]).low is None
    assert apart.record()["count"] == 20


@pytest.mark.parametrize("freedom", [*range(1, 40), 100, 541, 4000, 4001])
def test_the_bound_of_students_t_is_scipys(freedom: int):
    assert _student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-11)


def test_a_difference_of_ratios_leaves_a_prompt_out_of_both():
    chance = random.Random(3)
    one = [(chance.randint(0, 40), chance.randint(40, 90)) for _ in range(9)]
    other = [(chance.randint(0, 40), chance.randint(40, 90)) for _ in range(9)]

    def difference(left: int | None = None) -> float:
        ratios: list[float] = []
        for side in (one, other):
            kept = [pair for place, pair in enumerate(side) if place != left]
            ratios.append(sum(above for above, _ in kept) / sum(below for _, below in kept))
        return ratios[0] - ratios[1]

    whole = difference()
    squares = sum((difference(place) - whole) ** 2 for place in range(9))
    reach = stats.t.ppf(0.975, 8) * math.sqrt(8 / 9 * squares)
    found = difference_of_ratios(one, other)
    assert (found.value, found.low, found.high) == pytest.approx(
        (whole, whole - reach, whole + reach)
    )
    assert found.count == 9


def test_a_paired_difference_is_narrower_where_prompts_are_hard_for_both():
    shared = [0.2, 0.5, 0.7, 0.9, 0.4, 0.8]
    one = [(round(100 * rate) + 5 + place % 2, 100) for place, rate in enumerate(shared)]
    other = [(round(100 * rate), 100) for rate in shared]
    found, alone = difference_of_ratios(one, other), ratio_of_sums(*zip(*one, strict=True))
    assert 0 < width(found) < width(alone) / 10
    assert found.low is not None
    assert found.low > 0
    # Of the same denominators it is the ratio of the differences.
    differences = [above - below for (above, _), (below, _) in zip(one, other, strict=True)]
    plain = ratio_of_sums(differences, [100] * 6)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))


def test_a_difference_without_variation_has_no_interval():
    pairs = [(3, 4), (1, 9), (0, 0)]
    same = difference_of_ratios(pairs, pairs)
    assert (same.value, same.low, same.high, same.count) == (0, None, None, 2)
    assert difference_of_ratios([(3, 4), (0, 0)], [(3, 4), (2, 4)]).low is None
    with pytest.raises(ValueError, match="both sides"):
        difference_of_ratios([(1, 2)], [(0, 0)])
    with pytest.raises(ValueError, match="shorter"):
        difference_of_ratios([(1, 2)], [])


def test_a_share_near_its_bound_has_more_room_away_from_it():
    found = bounded_ratio([50, 48, 49, 40], [50, 50, 50, 50])
    assert found.low is not None
    assert found.high is not None
    assert found.value - found.low > 2 * (found.high - found.value) > 0
    assert found.high < 1
    # The same numbers as lengths from 1 to 4.
    lengths = bounded_ratio([200, 194, 197, 170], [50, 50, 50, 50], low=1, high=4)
    assert (lengths.value, lengths.low, lengths.high) == pytest.approx(
        tuple(1 + 3 * end for end in (found.value, found.low, found.high))
    )
    assert bounded_ratio([50, 50], [50, 50]).low is None


def test_a_divergence_is_never_negative():
    found = positive_ratio([1, 0, 0, 9], [10, 10, 10, 10])
    assert found.low is not None
    assert found.low > 0
    assert found.low * (found.high or 0) == pytest.approx(found.value**2)
    assert positive_ratio([0, 0], [10, 10]).high is None


def test_trials_of_a_prompt_are_not_more_than_one_where_all_agree():
    all_followed = clustered_proportion([3, 2, 1, 0], [3, 2, 1, 0])
    of_three = proportion(3, 3)
    assert (all_followed.low, all_followed.high, all_followed.count) == (
        of_three.low,
        of_three.high,
        6,
    )
    assert clustered_proportion([1, 1], [2, 2]).low is None


@pytest.mark.parametrize(
    "scenario", SCENARIOS, ids=lambda s: f"{s.method}, {s.card}, {s.data}".replace("/", " ")
)
def test_intervals_hold_the_truth(scenario: Scenario):
    # 600 samples tell coverage to 0.01 or so; docs/measurements/intervals.json has 10,000 of each.
    found = scenario.simulate(600)
    assert found["share_given"] > 0.9
    assert 0.91 <= found["coverage"] <= 1
