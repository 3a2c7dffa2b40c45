"""How fast other numbers of drafts are predicted to be, and what of it is recorded."""

import math

import pytest
from pydantic import ValidationError

import measured
from scion.evaluation.serving.config import MOST_DRAFTS, Measurement
from scion.evaluation.serving.depth import (
    MeasuredDepth,
    measured_depths,
    predict_depths,
    prediction_record,
)


def depth(drafted: int, rate: float, step: float) -> MeasuredDepth:
    """Each draft is accepted at `rate` once those before it were; a step takes `step` seconds."""
    drafts, accepted = 2**20, [round(2**20 * rate**place) for place in range(1, drafted + 1)]
    tokens = 1 + sum(accepted) / drafts
    return MeasuredDepth(drafted, drafts, tuple(accepted), tokens / step)


def best_directly(rate: float, base: float, more: float, nothing: float) -> int:
    """The best of 0 to 8 drafts, by the sum and the line themselves."""
    speeds = {
        n: sum(rate**place for place in range(n + 1)) / (base + more * n) for n in range(1, 9)
    }
    speeds[0] = 1 / nothing
    return max(speeds, key=lambda n: speeds[n])


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.8, 0.9, 0.97])
@pytest.mark.parametrize("more", [0.001, 0.01, 0.03, 0.2])
def test_the_best_is_that_of_the_sum_over_the_line(rate: float, more: float):
    base, nothing = 0.1, 0.09
    known = [depth(n, rate, base + more * n if n else nothing) for n in (0, 1, 3)]
    found = predict_depths(known)
    assert found is not None
    assert found.best == best_directly(rate, base, more, nothing)
    assert [speed.drafted for speed in found.speeds] == list(range(MOST_DRAFTS + 1))


def test_a_number_that_was_measured_is_predicted_as_it_was():
    known = [
        MeasuredDepth(3, 1000, (900, 700, 500), 250.0),
        MeasuredDepth(0, 0, (), 120.0),
        MeasuredDepth(1, 1000, (900,), 190.0),
    ]
    found = predict_depths(known)
    assert found is not None
    speeds = {speed.drafted: speed.tokens_per_second for speed in found.speeds}
    assert (speeds[0], speeds[1], speeds[3]) == pytest.approx((120, 190, 250))
    # Beyond the third position 5 of 7 drafts go on being accepted.
    by_hand = 3.1 + 0.5 * 5 / 7 + 0.5 * (5 / 7) ** 2
    step = 3.1 / 250 + (3.1 / 250 - 1.9 / 190)
    assert found.speeds[5].tokens_a_step == pytest.approx(by_hand)
    assert speeds[5] == pytest.approx(by_hand / step)


def test_drafting_nothing_gives_the_line_where_one_number_drafts():
    found = predict_depths([depth(0, 0.9, 0.1), depth(3, 0.9, 0.16)], most=5)
    assert found is not None
    assert [speed.step_seconds for speed in found.speeds] == pytest.approx(
        [0.1, 0.12, 0.14, 0.16, 0.18, 0.2]
    )


def test_drafting_nothing_is_no_candidate_unless_it_was_measured():
    found = predict_depths([depth(1, 0.1, 0.1), depth(3, 0.1, 0.5)])
    assert found is not None
    assert found.speeds[0].drafted == found.best == 1


def test_a_line_that_falls_is_level():
    found = predict_depths([depth(1, 0.9, 0.12), depth(3, 0.9, 0.1)])
    assert found is not None
    assert [speed.step_seconds for speed in found.speeds] == pytest.approx([0.11] * MOST_DRAFTS)
    assert found.best == MOST_DRAFTS


def test_a_head_of_which_nothing_is_accepted():
    known = [depth(0, 1, 0.1), MeasuredDepth(1, 9, (0,), 5.0), MeasuredDepth(3, 9, (0, 0, 0), 4.0)]
    found = predict_depths(known)
    assert found is not None
    assert found.best == 0
    assert all(math.isclose(speed.tokens_a_step, 1) for speed in found.speeds)


def test_more_than_the_most_are_predicted_where_they_were_measured():
    found = predict_depths([depth(1, 0.99, 0.1), depth(12, 0.99, 0.101)])
    assert found is not None
    assert found.best == 12


@pytest.mark.parametrize("known", [[], [depth(3, 0.9, 0.1)]])
def test_one_number_predicts_nothing(known: list[MeasuredDepth]):
    assert predict_depths(known) is None


def test_the_record_has_the_prediction_beside_what_was_measured():
    runs = measured.serving(drafted=(0, 1, 3, 5))["runs"]
    prediction = predict_depths(measured_depths(runs[:3]))
    assert prediction is not None
    record = prediction_record(prediction, runs)
    assert (record["launch"], record["tokens"], record["parallel"]) == ("pico", 200, 1)
    assert [step["speculative_tokens"] for step in record["measured_steps"]] == [0, 1, 3]
    for row in record["speeds"]:
        own = [run for run in runs if run["speculative_tokens"] == row["speculative_tokens"]]
        longest = [
            decode["tokens_per_second"]
            for run in own
            for decode in run["speed"]
            if (decode["tokens"], decode["parallel"]) == (200, 1)
        ]
        assert [row["measured"]] == (longest or [None])
    shown = {row["speculative_tokens"]: row["tokens_per_second"] for row in record["speeds"]}
    assert record["best"] == max(shown, key=lambda drafted: shown[drafted])


def test_requests_at_the_same_time_share_the_speed():
    runs = measured.serving(parallel=(2,))["runs"]
    prediction = predict_depths(measured_depths(runs))
    assert prediction is not None
    rows = prediction_record(prediction, runs)["speeds"]
    for row in (rows[0], rows[3]):
        assert row["tokens_per_second"] == pytest.approx(row["measured"]["value"])


def test_best_needs_two_numbers_to_be_predicted_from():
    asked = Measurement.model_validate({"speculative_tokens": [0, 3, "best"]})
    assert (asked.drafts, asked.best_drafts) == ((0, 3), True)
    assert not Measurement().best_drafts
    for listed in (["best"], [3, "best"], [3, 3, "best"]):
        with pytest.raises(ValidationError, match="two other numbers"):
            Measurement.model_validate({"speculative_tokens": listed})
