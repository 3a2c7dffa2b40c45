import pytest

from scion.evaluation.intervals import median, proportion, ratio_of_sums, read_estimate, speedup


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
    assert read_estimate(apart.record()).count == 20
