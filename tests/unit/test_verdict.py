"""The verdict: what follows from an interval, from pairs, from records, and what is read of it."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

import measured
from conversion import Conversion
from scion.artifacts.file_tree import FolderTree
from scion.artifacts.release_check import check_release
from scion.artifacts.release_layout import CARD
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.config import load_config
from scion.engines.config import PICO_LAUNCH
from scion.evaluation.intervals import Estimate, paired_difference
from scion.evaluation.verdict.answers import (
    JudgedReply,
    agent_replies,
    bfcl_replies,
    ifeval_replies,
    paired,
)
from scion.evaluation.verdict.config import Thresholds
from scion.evaluation.verdict.criteria import Criterion, Evidence, judged, overall
from scion.evaluation.verdict.decision import decide
from scion.evaluation.verdict.paired import Pair, mcnemar, paired_rates
from scion.formats.modelopt import BLOCK
from scion.formats.nvfp4 import maximum_scales, rounding_errors, square_sums
from scion.report.summary import summary
from scion.report.verdict import read_verdict, verdict_brief, verdict_lines
from sealed import sealed

DENSE = {"quantized_modules": 12, "calibration": {"samples": 20, "tokens": 9056}}
VERIFIED = {"quantized_modules": 12, "relative_weight_error": 0.0953}


# What follows from an interval


@pytest.mark.parametrize(
    ("low", "value", "high", "bound", "outcome"),
    [
        (-1.0, 1.0, 3.0, "at most", "accept"),
        (-1.0, 1.0, 5.0, "at most", "accept"),
        (-1.0, 1.0, 5.1, "at most", "undecided"),
        (4.9, 6.0, 7.0, "at most", "undecided"),
        (5.1, 6.0, 7.0, "at most", "regression"),
        (5.0, 6.0, 7.0, "at least", "accept"),
        (4.9, 6.0, 7.0, "at least", "undecided"),
        (3.0, 4.0, 4.9, "at least", "regression"),
    ],
)
def test_the_interval_decides(
    low: float, value: float, high: float, bound: Any, outcome: str
) -> None:
    found = Estimate(value, low, high, 100)
    assert decide(found, 5.0, bound, prompts=100).outcome == outcome


def test_so_many_more_prompts_would_decide() -> None:
    decision = decide(Estimate(1.0, -5.0, 7.0, 110), 5.0, "at most", prompts=110)
    # The half width has to shrink from 6 to 4: (6 / 4)^2 times the prompts.
    assert decision.more == 138
    assert "110 x (6 / 4)^2 - 110 = 138 more prompts" in decision.reason
    wider = 6.0 * (110 / (110 + 138)) ** 0.5
    assert decide(Estimate(1.0, 0, 1 + wider, 248), 5.0, "at most", prompts=248).outcome == "accept"


def test_beyond_the_threshold_the_other_end_counts() -> None:
    decision = decide(Estimate(7.0, 3.0, 20.0, 50), 5.0, "at most", prompts=50)
    assert decision.more == 150
    narrower = Estimate(7.0, 7 - 4 / 2 + 1e-9, 20.0, 200)
    assert decide(narrower, 5.0, "at most", prompts=200).outcome == "regression"


def test_for_a_minimum_the_lower_end_is_the_bad_one() -> None:
    decision = decide(Estimate(0.6, 0.4, 0.7, 16), 0.5, "at least", prompts=16)
    assert (decision.outcome, decision.more) == ("undecided", 48)


@pytest.mark.parametrize("value", [5.0, 5.01, 4.99])
def test_an_estimate_on_the_threshold_is_said_to_be_there(value: float) -> None:
    decision = decide(Estimate(value, 2.0, 8.0, 110), 5.0, "at most", prompts=110)
    assert (decision.outcome, decision.more) == ("undecided", None)
    assert "so near to the threshold" in decision.reason


def test_without_an_interval_nothing_is_decided() -> None:
    found = decide(Estimate(0.0, None, None, 1), 5.0, "at most", prompts=1)
    assert (found.outcome, found.more) == ("undecided", None)


# Pairs


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (3, 9), (5, 5), (20, 4)])
def test_mcnemar_is_the_exact_binomial_test(one: int, other: int) -> None:
    expected = stats.binomtest(one, one + other, 0.5).pvalue if one + other else 1
    assert mcnemar(one, other) == mcnemar(other, one) == pytest.approx(expected)


def pairs(kinds: list[tuple[bool, bool]], *, share: int = 1) -> list[Pair]:
    return [Pair(str(place // share), *kind) for place, kind in enumerate(kinds)]


def test_independent_pairs_have_newcombes_interval() -> None:
    kinds = [(True, True)] * 97 + [(False, True)] * 7 + [(True, False)] * 3 + [(False, False)] * 3
    found, counts = paired_rates(pairs(kinds), less_is_worse=True)
    plain = paired_difference([(source, release) for release, source in kinds])
    assert plain.low is not None
    assert plain.high is not None
    assert found.value == pytest.approx(100 * 4 / 110)
    assert found.low == pytest.approx(100 * plain.low)
    assert found.high == pytest.approx(100 * plain.high)
    assert counts == {
        "release": 100,
        "source": 104,
        "cases": 110,
        "only_release": 3,
        "only_source": 7,
        "mcnemar_p": pytest.approx(0.34375),
    }
    faults, _ = paired_rates(pairs(kinds), less_is_worse=False)
    assert faults.value == pytest.approx(-100 * 4 / 110)


def test_cases_that_share_a_prompt_widen_the_interval() -> None:
    chance = random.Random(3)
    prompts = [(chance.random() < 0.7, chance.random() < 0.8) for _ in range(30)]
    kinds = [kind for kind in prompts for _ in range(5)]
    alone, _ = paired_rates(pairs(kinds), less_is_worse=True)
    shared, _ = paired_rates(pairs(kinds, share=5), less_is_worse=True)
    assert (alone.count, shared.count) == (150, 30)
    assert shared.value == alone.value
    widths = [(each.high or 0) - (each.low or 0) for each in (alone, shared)]
    assert widths[1] > 1.5 * widths[0]


def test_how_often_a_release_as_good_as_its_source_is_called_a_regression() -> None:
    """With losses at the threshold itself, in no more than 2.5 of 100 cases, the interval's end."""
    chance = random.Random(5)
    called = 0
    for _ in range(400):
        kinds: list[tuple[bool, bool]] = []
        for _ in range(110):
            source = chance.random() < 0.9
            # 5 points fewer, as the threshold allows.
            kinds.append((source and chance.random() > 0.05 / 0.9, source))
        found, _ = paired_rates(pairs(kinds), less_is_worse=True)
        called += decide(found, 5.0, "at most", prompts=110).outcome == "regression"
    assert called <= 0.05 * 400


# Replies


def chat(
    content: str | None = "It is sunny.",
    *,
    calls: tuple[tuple[str, str], ...] = (),
    reasoning: str = "",
    end: str = "stop",
    tokens: int = 20,
) -> dict[str, Any]:
    message = {
        "content": content,
        "reasoning": reasoning,
        "tool_calls": [{"function": {"name": name, "arguments": text}} for name, text in calls],
    }
    usage = {
        "completion_tokens": tokens,
        "completion_tokens_details": {"reasoning_tokens": len(reasoning)},
    }
    return {"choices": [{"message": message, "finish_reason": end}], "usage": usage}


def case(name: str, response: dict[str, Any], *, passed: bool = True) -> dict[str, Any]:
    request = {
        "messages": [
            {"role": "system", "content": "You are helpful."},
            {"role": "user", "content": f"How is the weather in {name}?"},
        ],
        "tools": [{"function": {"name": "get_weather"}}],
    }
    return {"name": name, "passed": passed, "request": request, "response": response}


def replies(*cases: dict[str, Any]) -> list[JudgedReply]:
    return list(agent_replies({"tasks": [{"name": "weather", "results": list(cases)}]}))


GOOD = ("get_weather", '{"city": "Oslo"}')


@pytest.mark.parametrize(
    ("response", "malformed"),
    [
        (chat(), False),
        (chat(None, calls=(GOOD,), end="tool_calls"), False),
        (chat(None, calls=(("get_weather", '{"city": "Oslo"'),)), True),
        (chat(None, calls=(("get_weather", '["Oslo"]'),)), True),
        (chat(None, calls=(("get_whether", "{}"),)), True),
        (chat('<tool_call>\n{"name": "get_weather"'), True),
        # Cut off, so it may be incomplete.
        (chat(None, calls=(("get_weather", '{"city": "Oslo'),), end="length"), False),
    ],
)
def test_malformed_calls(response: dict[str, Any], malformed: bool) -> None:
    (reply,) = replies(case("Oslo", response))
    assert reply.is_malformed is malformed


def test_broken_replies() -> None:
    loop = "We should look at the weather now. " * 10
    sound, empty, looping, ended, turned = replies(
        case("a", chat()),
        case("b", chat("\n", reasoning="I think so.")),
        case("c", chat(None, reasoning=loop, end="length")),
        case("d", chat(loop)),
        case("e", chat("天气晴朗")),
    )
    assert not sound.is_broken
    assert (empty.is_empty, empty.is_broken) == (True, True)
    assert (looping.loops, looping.is_empty) == (True, True)
    assert not ended.is_broken, "what ends by itself may repeat what it likes"
    assert (turned.turns, turned.is_broken) == (True, True)


def test_pairs_are_of_the_same_question() -> None:
    release = replies(case("Oslo", chat()), case("Rome", chat()))
    source = replies(case("Rome", chat("Hot.")))
    ((own, other),) = paired(release, source)
    assert (own.case, other.content) == ("agent: weather, Rome", "Hot.")
    with pytest.raises(ScionError, match="not asked the same"):
        paired(release, replies(case("Bern", chat())))
    changed = case("Rome", chat())
    changed["request"]["messages"][1]["content"] = "What is Rome like?"
    with pytest.raises(ScionError, match="not asked the same") as caught:
        paired(release, replies(changed))
    assert caught.value.where == "agent: weather, Rome"


def test_answers_of_the_benchmarks() -> None:
    scored = {"key": 7, "prompt": "Write no comma.", "prompt_level_strict_acc": True}
    counts = {"tokens": 30, "thinking_tokens": 0, "cut": True}
    (reply,) = ifeval_replies([{**scored, "answer": "Yes " * 40, **counts}])
    assert (reply.passed, reply.tokens, reply.loops) == (True, 30, True)
    (older,) = ifeval_replies([{**scored, "answer": "Yes"}])
    assert (older.tokens, older.cut, older.is_malformed) == (None, False, False)
    call = {"function": {"name": "area", "arguments": '{"base": 3'}}
    answer = {
        "category": "simple_python",
        "id": "simple_0",
        "passed": False,
        "output_token_count": 20,
        "choice": {"message": {"tool_calls": [call]}},
    }
    (ended,) = bfcl_replies([answer], max_tokens=64)
    (cut,) = bfcl_replies([answer], max_tokens=20)
    assert (ended.is_malformed, cut.is_malformed) == (True, False)


# Criteria


def weather(count: int, *, lost: int = 0, longer: float = 1.0) -> list[JudgedReply]:
    cases = [
        case(
            f"city {place}",
            chat(
                None,
                calls=(GOOD,),
                reasoning="x" * int((10 + place % 7) * longer),
                tokens=int((40 + place % 13) * longer),
            ),
            passed=place >= lost,
        )
        for place in range(count)
    ]
    return replies(*cases)


def evidence(**changes: Any) -> Evidence:
    source = weather(110)
    known: dict[str, Any] = {
        "quality": measured.quality(),
        "serving": measured.serving(),
        "drafts": PICO_LAUNCH.speculative_tokens,
        "quantized": DENSE,
        "verified": VERIFIED,
        "agent": paired(weather(110), source),
        "ifeval": None,
        "bfcl": None,
        "left_out": {"ifeval_loss_points": "off", "bfcl_loss_points": "off"},
    }
    return Evidence(**(known | changes))


BOUNDS = Thresholds(enabled=True, tool_format_points=5, broken_text_points=5)


def by_key(found: Evidence, bounds: Thresholds = BOUNDS) -> dict[str, Criterion]:
    return {each.criterion: each for each in judged(found, bounds)}


def test_a_release_that_answers_as_its_source_is_accepted() -> None:
    criteria = judged(evidence(), BOUNDS)
    assert overall(criteria) == ("accept", [])
    thresholds = [name for name in Thresholds.model_fields if name not in ("enabled",)]
    assert [each.criterion for each in criteria] == [
        name for name in thresholds if name != "context_tokens"
    ]
    assert {each.outcome for each in criteria} == {"accept", "not asked"}


def test_each_criterion_can_be_a_regression() -> None:
    noisy = measured.quality()
    for model in noisy["models"]:
        if model["name"] == "release":
            for part in model["parts"].values():
                for name in ("loss_change", "kl"):
                    part[name] = Estimate(0.5, 0.4, 0.6, 9000).record()
    serving = measured.serving()
    for run in serving["runs"]:
        for row in run["acceptance"] or ():
            row["mean_length"] = Estimate(1.2, 1.1, 1.3, 500).record()
    source = weather(110)
    words = replies(
        *(
            case(f"city {place}", chat("<tool_call> 天气", tokens=80), passed=False)
            for place in range(110)
        )
    )
    experts = {"experts": {"experts": 256, "unreached": {"layers.3": [4, 9]}}}
    asked = paired(words, source)
    benchmarks = paired(weather(110, lost=60), source)
    found = by_key(
        evidence(
            quality=noisy,
            serving=serving,
            quantized=DENSE | experts,
            verified=VERIFIED | {"relative_weight_error": 1.4139},
            agent=asked,
            ifeval=benchmarks,
            bfcl=benchmarks,
            left_out={},
        )
    )
    assert {key: each.outcome for key, each in found.items()} == dict.fromkeys(found, "regression")
    assert found["calibrated_share"].counts == {"of": "experts", "all": 256, "reached": 254}
    assert found["broken_text_points"].counts["other_script"] == {"release": 110, "source": 0}
    outcome, reasons = overall(list(found.values()))
    assert outcome == "regression"
    assert len(reasons) == len(found)


@pytest.mark.parametrize(
    ("lacking", "criteria"),
    [
        ("quality", {"loss_nats_per_token", "kl_nats_per_token"}),
        ("serving", {"mtp_accepted_share"}),
        ("quantized", {"calibrated_share"}),
        ("verified", {"weight_error"}),
        (
            "agent",
            {"agent_loss_points", "verbosity_ratio", "tool_format_points", "broken_text_points"},
        ),
    ],
)
def test_what_was_not_measured_is_never_accepted(lacking: str, criteria: set[str]) -> None:
    found = by_key(evidence(**{lacking: None}))
    undecided = {key for key, each in found.items() if each.outcome == "undecided"}
    assert undecided == criteria
    assert all("not measured" in found[key].reason for key in criteria)
    assert overall(list(found.values()))[0] == "undecided"
    # What the configuration leaves out is no gap.
    off = dict.fromkeys([*criteria, "ifeval_loss_points", "bfcl_loss_points"], "switched off")
    assert overall(judged(evidence(**{lacking: None}, left_out=off), BOUNDS)) == ("accept", [])


def test_one_regression_outweighs_what_is_undecided() -> None:
    found = judged(
        evidence(serving=None, agent=paired(weather(110, lost=40), weather(110))), BOUNDS
    )
    outcome, reasons = overall(found)
    assert outcome == "regression"
    assert [reason.split(":")[0] for reason in reasons] == ["agent cases lost"]


def test_longer_replies_are_told_in_tokens_and_thinking() -> None:
    longer = by_key(evidence(agent=paired(weather(110, longer=1.5), weather(110))))
    criterion = longer["verbosity_ratio"]
    assert criterion.outcome == "regression"
    assert criterion.estimate is not None
    counts = criterion.counts
    assert criterion.estimate.value == pytest.approx(
        counts["release_tokens"] / counts["source_tokens"]
    )
    assert counts["release_thinking_tokens"] > 1.3 * counts["source_thinking_tokens"]


def test_acceptance_is_that_of_the_drafts_that_are_served() -> None:
    one, three = (by_key(evidence(drafts=drafts))["mtp_accepted_share"] for drafts in (1, 3))
    assert (one.counts["speculative_tokens"], three.counts["speculative_tokens"]) == (1, 3)
    assert three.estimate is not None
    length = three.counts["tokens_a_step"]
    assert three.estimate.value == pytest.approx((length - 1) / 3, abs=1e-6)


def test_rounding_alone_can_not_leave_the_error_that_the_default_refuses() -> None:
    """By maximum scales, whatever the weights are.

    The largest weight of a block gives its scale, and then each other one its own error, so no
    block is worse than that of the worst number fifteen times.
    """
    one = torch.tensor(1.0)
    # Between one power of two and the next all scales round alike.
    largest, rest = torch.linspace(6, 12, 300)[:, None], torch.linspace(0, 1, 300)
    weight = (largest * rest).reshape(-1, 1).repeat(1, BLOCK)
    weight[:, 0] = largest.repeat(1, len(rest)).flatten()
    errors = rounding_errors(weight, maximum_scales(weight, one), one)
    worst = (errors / square_sums(weight)).sqrt().max().item()
    assert 0.19 < worst < Thresholds().weight_error


def test_a_release_of_equal_numbers_needs_no_interval() -> None:
    equal = measured.quality()
    for model in equal["models"]:
        if model["name"] == "release":
            for part in model["parts"].values():
                for name in ("loss_change", "kl"):
                    part[name] = Estimate(0.0, None, None, 9000).record()
    assert by_key(evidence(quality=equal))["kl_nats_per_token"].outcome == "accept"


# The configuration


def test_a_named_server_can_not_serve_both() -> None:
    values = {"verdict": {"enabled": True}, "serving": {"server_url": "http://127.0.0.1:8000/v1"}}
    with pytest.raises(ScionError, match="not valid") as caught:
        load_config(values, where="x.yaml")
    assert "verdict.enabled" in caught.value.found


def test_the_source_is_served_without_drafts_in_a_context_that_fits() -> None:
    launch = Thresholds(context_tokens=512).source_launch(PICO_LAUNCH)
    assert (launch.speculative_tokens, launch.max_model_len) == (0, 512)
    assert Thresholds().source_launch(PICO_LAUNCH).max_model_len == PICO_LAUNCH.max_model_len


# What is read of it


def record(outcome: str = "regression") -> dict[str, Any]:
    criteria = judged(evidence(agent=paired(weather(110, lost=40), weather(110))), BOUNDS)
    return {
        "outcome": outcome,
        "reasons": overall(criteria)[1],
        "weights": "sha256:aa",
        "source": "sha256:bb",
        "criteria": [each.record() for each in criteria],
    }


def test_a_program_reads_the_verdict_of_a_folder(tmp_path: Path) -> None:
    assert read_verdict(tmp_path) is None
    path = tmp_path / "provenance/results/verdict.json"
    path.parent.mkdir(parents=True)
    write_json(path, record())
    found = read_verdict(tmp_path)
    assert found is not None
    assert (found.outcome, found.weights) == ("regression", "sha256:aa")
    assert found.reasons[0].startswith("agent cases lost: not even the interval's good end")


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.pop("outcome"),
        lambda found: found.update(outcome="not asked"),
        lambda found: found.update(reasons="none"),
        lambda found: found.update(reasons=[1]),
        lambda found: found.update(weights=None),
    ],
)
def test_what_is_no_verdict_is_refused(tmp_path: Path, damage: Callable[[Any], object]) -> None:
    path = tmp_path / "provenance/results/verdict.json"
    path.parent.mkdir(parents=True)
    damaged = copy.deepcopy(record())
    damage(damaged)
    path.write_text(json.dumps(damaged))
    with pytest.raises(ScionError, match="can't be read"):
        read_verdict(tmp_path)


def test_the_summary_says_what_stands_against_the_release() -> None:
    lines = verdict_lines(record())
    assert lines[0].startswith("verdict:     regression: it is worse than its bf16 source")
    assert lines[1].strip().startswith("agent cases lost: 36.36 (")
    assert lines[1].endswith(", at most 5 points")
    few = judged(evidence(agent=paired(weather(30), weather(30))), BOUNDS)
    undecided = {
        "outcome": overall(few)[0],
        "reasons": overall(few)[1],
        "criteria": [each.record() for each in few],
    }
    assert verdict_lines(undecided)[1].endswith("at most 5 points; 125 more prompts would decide")
    assert verdict_brief(record()) == "regression (8 accept, 1 regression, 2 not asked)"


def test_card_release_and_summary_have_it(conversion: Conversion, tmp_path: Path) -> None:
    release = sealed(conversion, tmp_path, measured.results() | {"judge_release": record()})
    assert check_release(FolderTree(release))[1] == []
    found = read_verdict(release)
    assert found is not None
    assert found.outcome == "regression"
    card = (release / CARD).read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "| **verdict** | regression: by the thresholds of its configuration it is worse" in card
    assert "### Verdict" in card
    assert "](pictures/verdict.svg)" in card
    assert "| malformed tool calls added | at most 5 points | 0.00 (\N{MINUS SIGN}3.3" in card
    picture = (release / "pictures/verdict.svg").read_text()
    assert "agent cases lost" in picture
    assert "IFEval" not in picture, "what nobody asked for is not drawn"
    lines = [line for line in summary(tmp_path) if not line.startswith("note:")]
    assert lines[-2].startswith("verdict:     regression")
    assert lines[-1].lstrip().startswith("agent cases lost")


def test_a_release_that_was_not_judged_says_nothing_of_it(sealed_release: Path) -> None:
    assert read_verdict(sealed_release) is None
    card = (sealed_release / CARD).read_text()
    assert "**verdict**" not in card
    assert "### Verdict" not in card
