"""Which decodes are asked, and what their timings and the counters around replies come to."""

import json
from pathlib import Path
from typing import Any

import pytest

from scion.common.errors import ScionError
from scion.common.progress_report import Work
from scion.engines.config import PICO_LAUNCH
from scion.engines.vllm.bench import Timing, _fault, _timing
from scion.engines.vllm.counters import SpecDecodeCounters
from scion.evaluation.decoding import Answer, Prompt
from scion.evaluation.intervals import difference_of_ratios
from scion.evaluation.serving.acceptance import (
    CountedReply,
    acceptance_rows,
    paired_acceptance,
    reply_rows,
)
from scion.evaluation.serving.config import Measurement
from scion.evaluation.serving.progress import MeasurementProgress, serving_work
from scion.evaluation.serving.prompts import check_room, count_sets, read_prompt_sets
from scion.evaluation.serving.speed import Wave, speed_records, waves

PROJECT = Path(__file__).parents[2]


def result(**changes: object) -> dict[str, object]:
    """What vLLM's benchmark tells of two requests of five tokens, the drafts coming in pieces."""
    return {
        "completed": 2,
        "failed": 0,
        "start_times": [100.0, 100.1],
        "ttfts": [0.2, 0.3],
        "itls": [[0.4, 0.4], [0.2, 0.2, 0.2]],
        "output_lens": [5, 5],
        "errors": ["", ""],
        **changes,
    }


def test_a_wave_is_timed_from_the_first_request_to_the_last_token():
    timing = _timing(result(), 5)
    assert timing.tokens_per_second == pytest.approx(10 / 1.0)
    assert timing.ttft_ms == pytest.approx(250)
    assert timing.itl_ms == pytest.approx(1000 * (0.8 + 0.6) / 2 / 4)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"completed": 1, "failed": 1, "errors": ["", "Traceback\nOSError: gone\n"]}, "OSError"),
        ({"completed": 1, "failed": 1}, "1 of 2 requests answered"),
        ({"output_lens": [5, 4]}, "answers of 5, 4 tokens"),
        ({"output_lens": [5]}, "answers of 5 tokens"),
        ({"error": "ValueError: no dataset"}, "ValueError: no dataset"),
    ],
)
def test_a_wave_with_a_failed_request_is_not_timed(changes: dict[str, object], fault: str):
    assert fault in str(_fault(result(**changes), 2, 5))


def test_a_good_wave_has_no_fault():
    assert _fault(result(), 2, 5) is None


def test_waves_repeat_everything_with_prompts_of_their_own():
    settings = Measurement(decode_tokens=(10, 20), parallel_requests=(1, 2), repeats=5)
    work = waves(settings, 4)
    assert len(work) == 2 * 2 * 5
    assert work[:4] == [
        Wave(0, 10, (0,)),
        Wave(0, 20, (0,)),
        Wave(0, 10, (0, 1)),
        Wave(0, 20, (0, 1)),
    ]
    assert [wave.prompts for wave in work if wave.tokens == 20][-2:] == [(0,), (0, 1)]


def timed(rates: list[float]) -> list[tuple[Wave, Timing]]:
    return [(Wave(i, 10, (i,)), Timing(rate, 5.0, 2.0)) for i, rate in enumerate(rates)]


def test_speed_is_a_median_and_a_ratio_to_the_baseline():
    slow, fast = timed([10, 11, 12, 13, 14, 15]), timed([20, 22, 24, 26, 28, 30])
    (record,) = speed_records(fast, slow)
    assert (record["tokens"], record["parallel"], record["repeats"]) == (10, 1, 6)
    assert record["tokens_per_second"] == {"value": 25.0, "low": 20, "high": 30, "count": 6}
    assert record["ratio_to_baseline"]["value"] == pytest.approx(2, abs=0.02)
    assert record["ratio_to_baseline"]["low"] > 1
    assert speed_records(slow, None)[0]["ratio_to_baseline"] is None


def reply(name: str, kind: str, thinking: bool, counters: SpecDecodeCounters) -> CountedReply:
    prompt = Prompt(name, kind, thinking, [1])
    return CountedReply(prompt, Answer(prompt.label, 9, [1]), counters)


def test_acceptance_by_set_and_mode_with_the_prompt_as_unit():
    replies = [
        reply("b", "code", True, SpecDecodeCounters(10, 20, 10, (8, 2))),
        reply("a", "chat", False, SpecDecodeCounters(10, 20, 20, (10, 10))),
        reply("c", "chat", False, SpecDecodeCounters(30, 60, 30, (20, 10))),
        reply("a", "chat", True, SpecDecodeCounters(0, 0, 0, ())),
        reply("c", "chat", True, SpecDecodeCounters(10, 20, 10, (5, 5))),
    ]
    rows = acceptance_rows(replies, 2)
    assert [(row["set"], row["thinking"], row["prompts"]) for row in rows] == [
        ("chat", False, 2),
        ("chat", True, 2),
        ("code", True, 1),
        ("all", None, 3),
    ]
    chat = rows[0]
    assert (chat["drafts"], chat["draft_tokens"], chat["accepted_by_position"]) == (
        40,
        80,
        [30, 20],
    )
    assert [estimate["value"] for estimate in chat["per_position"]] == [0.75, 0.5]
    assert chat["mean_length"]["value"] == 2.25
    assert chat["mean_length"]["high"] == 3, "cut to what is possible"
    assert rows[2]["mean_length"]["low"] is None, "one prompt shows no variation"
    assert rows[3]["drafts"] == 60


def test_counts_of_each_reply_are_kept_and_add_up_to_the_rows():
    counted = [
        reply("a", "chat", False, SpecDecodeCounters(10, 20, 20, (10, 10))),
        reply("a", "chat", True, SpecDecodeCounters(0, 0, 0, ())),
        reply("c", "chat", True, SpecDecodeCounters(10, 20, 10, (5, 5))),
    ]
    rows = reply_rows(counted, 2)
    assert rows[1] == {
        "prompt": "a",
        "set": "chat",
        "thinking": True,
        "drafts": 0,
        "accepted_by_position": [0, 0],
    }
    overall = acceptance_rows(counted, 2)[-1]
    assert sum(row["drafts"] for row in rows) == overall["drafts"]
    positions = zip(*(row["accepted_by_position"] for row in rows), strict=True)
    assert [sum(counts) for counts in positions] == overall["accepted_by_position"]


def counts(
    name: str, thinking: bool, drafts: int, *accepted: int, kind: str = "chat"
) -> dict[str, Any]:
    return {
        "prompt": name,
        "set": kind,
        "thinking": thinking,
        "drafts": drafts,
        "accepted_by_position": list(accepted),
    }


def test_acceptance_of_two_servers_is_paired_by_prompt():
    before = [
        counts("a", False, 20, 10, 4),
        counts("b", False, 40, 30, 20),
        counts("a", True, 10, 6, 2),
        counts("c", True, 30, 24, 12, kind="code"),
    ]
    # In another order, and with a draft more.
    after = [
        counts("c", True, 28, 25, 14, 9, kind="code"),
        counts("a", True, 9, 7, 3, 1),
        counts("b", False, 36, 30, 22, 11),
        counts("a", False, 18, 11, 5, 2),
    ]
    rows = paired_acceptance(after, before)
    assert [(row["set"], row["thinking"], row["prompts"]) for row in rows] == [
        ("chat", False, 2),
        ("chat", True, 1),
        ("code", True, 1),
        ("all", None, 3),
    ]
    chat, alone, _, overall = rows
    assert chat["one"] == {
        "per_position": pytest.approx([41 / 54, 27 / 54, 13 / 54], abs=1e-6),
        "mean_length": 2.5,
    }
    assert chat["other"]["per_position"] == pytest.approx([40 / 60, 24 / 60], abs=1e-6)
    # With thinking and without, a prompt is one unit.
    expected = difference_of_ratios([(18, 27), (30, 36), (25, 28)], [(16, 30), (30, 40), (24, 30)])
    assert overall["difference"]["per_position"][0] == expected.record()
    lengths = difference_of_ratios(
        [(27 + 18 + 8 + 3, 27), (36 + 63, 36), (28 + 48, 28)],
        [(30 + 16 + 6, 30), (40 + 50, 40), (30 + 36, 30)],
    )
    assert overall["difference"]["mean_length"] == lengths.record()
    assert len(overall["difference"]["per_position"]) == 2, "positions that both have"
    assert alone["difference"]["mean_length"]["low"] is None, "one prompt shows no variation"


def test_replies_to_other_prompts_are_not_paired():
    with pytest.raises(ValueError, match="same prompts"):
        paired_acceptance([counts("a", False, 9, 3)], [counts("a", True, 9, 3)])


def test_acceptance_of_a_set_without_drafts_is_an_error():
    replies = [
        reply("a", "chat", False, SpecDecodeCounters(10, 20, 20, (10, 10))),
        reply("b", "code", True, SpecDecodeCounters(0, 0, 0, ())),
    ]
    with pytest.raises(ValueError, match="code, with thinking: 0 drafts"):
        acceptance_rows(replies, 2)


def test_a_prompt_is_asked_both_ways_unless_it_says_which(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    chat = {"set": "chat", "messages": [{"role": "user", "content": "?"}]}
    rows = [{**chat, "name": "a"}, {**chat, "name": "b", "enable_thinking": True}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chats = read_prompt_sets(path)
    modes = [(chat.name, chat.template["enable_thinking"]) for chat in chats]
    assert modes == [("a", False), ("a", True), ("b", True)]
    assert count_sets(chats) == {"chat": 2}


@pytest.mark.parametrize(("change", "found"), [({"set": "poem"}, "set poem"), ({}, "stands there")])
def test_prompts_that_results_could_not_tell_apart(tmp_path: Path, change, found: str):
    path = tmp_path / "prompts.jsonl"
    row = {"name": "a", "set": "chat", "messages": [{"role": "user", "content": "?"}]}
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, **change}) + "\n")
    with pytest.raises(ScionError, match="can't be told") as caught:
        read_prompt_sets(path)
    assert found in caught.value.found


@pytest.mark.parametrize(
    "file", ["resources/prompts/serving.jsonl", "resources/pico/prompts.jsonl"]
)
def test_the_prompts_that_are_there(file: str):
    chats = read_prompt_sets(PROJECT / file)
    counts = count_sets(chats)
    assert list(counts) == ["chat", "code", "tools", "long_form"]
    assert min(counts.values()) >= 4
    assert all(chat.tools for chat in chats if chat.set == "tools")


def test_a_prompt_without_room_for_its_answer_is_named():
    prompts = [Prompt("short", "chat", True, [1]), Prompt("long", "chat", True, [1] * 90)]
    check_room(prompts, answer=10, context=100, path=Path("p"))
    with pytest.raises(ScionError, match="does not fit") as caught:
        check_room(prompts, answer=11, context=100, path=Path("p"))
    assert caught.value.where == "p: long"
    assert "90 tokens of prompt" in caught.value.found


def test_all_that_is_asked_is_known_before_the_first_server_is_started(
    capsys: pytest.CaptureFixture[str],
):
    measurement = Measurement(decode_tokens=(10, 20), parallel_requests=(1, 2), repeats=5)
    other = PICO_LAUNCH.model_copy(update={"name": "other"})
    launches = [PICO_LAUNCH, PICO_LAUNCH.model_copy(update={"speculative_tokens": 3}), other]
    amounts = serving_work(launches, measurement, prompts=4, servers=3)
    assert amounts == {
        "server starts": 3,
        # The first launch's servers alone are asked for those.
        "replies": 2 * 4,
        "warm-ups of 1 at once": 3,
        "tokens of 1 at once": 3 * 5 * 30,
        "warm-ups of 2 at once": 3,
        "tokens of 2 at once": 3 * 5 * 30,
    }
    with Work("measuring", amounts) as work:
        told = MeasurementProgress("stage", servers=len(launches), told=work)
        for launch in launches:
            server = told.next_server(launch.name)
            server.ready()
            for number in range(4 if launch.name == "pico" else 0):
                server.replied(f"reply {number}")
            for wave in (every := waves(measurement, 4)):
                if wave.repeat == 0 and wave.tokens == 10:
                    server.warmed_up(len(wave.prompts))
            for wave in every:
                server.decoded("decode", tokens=wave.tokens, parallel=len(wave.prompts))
        told.done()
        # What was told is all that was to be done.
        assert work.state().left == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "stage: pico (1 of 3): starting the server",
        "stage: pico (1 of 3): reply 0",
    ]
    assert lines[-2] == "stage: other (3 of 3): decode"
    assert lines[-1].startswith("stage: done, 3 servers in ")
