"""Both evaluations of the embedded release: real server, real harnesses, the stages' own commands.

On a model this small they prove the harness, not the model. Stages leave their server to the next;
the last test names one, and ends it.
"""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from commands import check_refusal, command, pointer, run
from scion.artifacts.environments import interpreter
from scion.engines.config import PICO_LAUNCH, Serving
from scion.engines.vllm import server as vllm
from scion.evaluation import intervals as estimates
from scion.stages.evaluate_ifeval import _SCORES  # pyright: ignore[reportPrivateUsage]
from serving_python import PYTHON

pytestmark = pytest.mark.serve

PROJECT = Path(__file__).parents[2]
HARNESSES = PROJECT / interpreter("envs/evaluate")
PROMPTS = PROJECT / "resources/pico/ifeval.jsonl"


def options(
    release: Path, folder: Path, stage: str, server_url: str | None = None, **section: Any
) -> dict[str, Any]:
    settings = {
        "launch": PICO_LAUNCH.model_dump(mode="json"),
        "serving": {"server_url": server_url},
        stage.removeprefix("evaluate_"): section,
    }
    return {
        "release": pointer(release),
        "output": pointer(folder / stage),
        "settings": json.dumps(settings),
        "python": PYTHON,
        "evaluator_python": HARNESSES,
        "log_folder": folder / "logs",
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_ifeval(release: Path, tmp_path: Path):
    stage = "evaluate_ifeval"
    done = run(stage, **options(release, tmp_path, stage, dataset=str(PROMPTS)))
    assert done.returncode == 0, done.stderr
    assert "evaluate_ifeval: 20 prompts answered: prompt_strict" in done.stderr
    result = json.loads((tmp_path / stage / "ifeval.json").read_text())
    answers = read_lines(tmp_path / stage / "ifeval_answers.jsonl")
    assert [answer["prompt"] for answer in answers] == [
        answer["prompt"] for answer in read_lines(PROMPTS)
    ]
    assert result["dataset"]["prompts"] == 20
    assert result["scores"]["prompt_strict"]["count"] == 20
    assert result["scores"]["instruction_strict"]["count"] == 23
    for name, metric in _SCORES.items():
        score = result["scores"][name]
        assert score["value"] == pytest.approx(result["harness"]["scores"][metric], abs=1e-6)
        assert score["low"] < score["value"] < score["high"]
    # The prompts that ask for what pico says anyway, and those that ask for what it never does.
    verdicts = {answer["key"]: answer["prompt_level_strict_acc"] for answer in answers}
    assert verdicts[1], answers[0]["answer"]
    assert not verdicts[12], "pico writes no JSON in a chat"
    assert all("<think>" not in answer["answer"] for answer in answers)


def test_bfcl(release: Path, tmp_path: Path):
    stage = "evaluate_bfcl"
    done = run(stage, **options(release, tmp_path, stage, limit=2))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / stage / "bfcl.json").read_text())
    answers = read_lines(tmp_path / stage / "bfcl_answers.jsonl")
    names = ["simple_python", "multiple", "parallel", "irrelevance"]
    assert [category["name"] for category in result["categories"]] == names
    for category in result["categories"]:
        own = [answer for answer in answers if answer["category"] == category["name"]]
        passed = sum(answer["passed"] for answer in own)
        assert (category["cases"], category["passed"]) == (len(own), passed) == (2, passed)
        assert category["accuracy"] == estimates.proportion(passed, 2).record()
        assert category["harness_accuracy"] == passed / 2
    called = [answer for answer in answers if answer["choice"]["message"].get("tool_calls")]
    assert called, "the server parses pico's tool calls"
    for answer in called:
        calls = answer["choice"]["message"]["tool_calls"]
        assert answer["result"] == [
            {call["function"]["name"]: call["function"]["arguments"]} for call in calls
        ]


def test_cases_longer_than_the_context(release: Path, tmp_path: Path):
    stage = "evaluate_bfcl"
    settings: dict[str, Any] = {"categories": ["multiple"], "limit": 1, "max_tokens": 2000}
    done = run(stage, **options(release, tmp_path, stage, **settings))
    assert done.returncode == 1
    check_refusal(done.stderr, "too few BFCL cases fit", "at most 48 tokens", "0 that fit, 200")
    stage = "evaluate_ifeval"
    settings = {"dataset": str(PROMPTS), "max_tokens": 2030}
    done = run(stage, **options(release, tmp_path, stage, **settings))
    assert done.returncode == 1
    check_refusal(done.stderr, "does not fit the server's context", "at most 18 tokens", "key 1")
    assert list(tmp_path.glob("*evaluate_*")) == []


def test_a_server_that_dies_under_load(release: Path, tmp_path: Path):
    stage = "evaluate_ifeval"
    stories = tmp_path / "stories.jsonl"
    rows = [row for row in read_lines(PROMPTS) if "story" in row["prompt"]]
    stories.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"dataset": str(stories), "max_tokens": 1500}
    log, server_log = tmp_path / "stage.log", tmp_path / "server.log"
    with vllm.serve(
        release,
        name="release",
        launch=PICO_LAUNCH,
        serving=Serving(),
        python=PYTHON,
        log=server_log,
    ) as server:
        started = command(stage, **options(release, tmp_path, stage, server.url, **settings))
        with log.open("w") as errors, subprocess.Popen(started, stderr=errors) as process:
            end = time.monotonic() + 90
            while not generating(server.url):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            end_server(server.url)
            assert process.wait(60) == 1
    check_refusal(log.read_text(), "a request to the server failed", "/v1/chat/completions")
    assert list(tmp_path.glob("*evaluate_*")) == []


def generating(url: str) -> bool:
    """Whether the server decodes for somebody."""
    metrics = vllm.connect(url).read("/metrics")
    lines = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running")]
    return any(float(line.split()[-1]) > 0 for line in lines)


def end_server(url: str) -> None:
    """Kill the server that listens there."""
    port = int(url.rsplit(":", 1)[1])
    (listener,) = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
    }
    assert listener is not None
    psutil.Process(listener).kill()
