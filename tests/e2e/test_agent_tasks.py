"""The stage run_agent_tasks against one real server of the release, a few cases of each task."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from checkpoints import half_made
from conversion import Conversion
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.common.errors import ScionError
from scion.engines.config import PICO_LAUNCH, Serving
from scion.engines.server import Server
from scion.engines.vllm import server as vllm
from scion.evaluation.agent.config import AgentTasks
from scion.evaluation.intervals import proportion
from scion.stages.run_agent_tasks import run_agent_tasks
from serving_python import PYTHON

pytestmark = pytest.mark.serve

PROJECT = Path(__file__).parents[2]
TASKS = PROJECT / "workflow/scion/evaluation/agent/agent_tasks.yaml"


@pytest.fixture(scope="module")
def server(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("agent_tasks") / "server.log"
    with vllm.serve(
        release, name="release", launch=PICO_LAUNCH, serving=Serving(), python=PYTHON, log=log
    ) as running:
        yield running


def run(
    conversion: Conversion,
    server: Server,
    folder: Path,
    tasks: Path = TASKS,
    *,
    parallel: int = 2,
    **agent_tasks: Any,
) -> Artifact:
    return run_agent_tasks(
        release=conversion.graft_mtp,
        tasks=tasks,
        output=Output.at(folder / "results/run_agent_tasks"),
        serving=Serving(server_url=server.openai_url),
        launch=PICO_LAUNCH.model_copy(update={"max_num_seqs": parallel}),
        agent_tasks=AgentTasks.model_validate(agent_tasks),
        python=PYTHON,
        log_folder=folder / "logs",
        environment="sha256:tests",
    )


def result_of(artifact: Artifact) -> dict[str, Any]:
    return json.loads((artifact.folder / "agent_tasks.json").read_text())


def test_results(conversion: Conversion, server: Server, tmp_path: Path):
    artifact = run(conversion, server, tmp_path, cases=2)
    result = result_of(artifact)
    given = yaml.safe_load(TASKS.read_text())["tasks"]
    assert [task["name"] for task in result["tasks"]] == [task["name"] for task in given]
    for task, wanted in zip(result["tasks"], given, strict=True):
        names = [entry["name"] for entry in task["results"]]
        assert names == [case["name"] for case in wanted["cases"][:2]]
        assert task["results"][0]["passed"], task["results"][0]["reason"]
        passed = sum(entry["passed"] for entry in task["results"])
        assert (task["passed"], task["cases"]) == (passed, 2)
        assert task["rate"] == proportion(passed, 2).record()
        for entry, case in zip(task["results"], wanted["cases"], strict=False):
            assert entry["request"]["messages"][1]["content"] == case["user"]
            assert entry["response"]["choices"][0]["finish_reason"] in ("stop", "tool_calls")
    assert result["total"] == 10
    assert result["passed"] == sum(task["passed"] for task in result["tasks"])
    assert result["rate"] == proportion(result["passed"], 10).record()
    assert result["speculative_tokens"] == PICO_LAUNCH.speculative_tokens
    assert result["engine"]["name"] == "vLLM"
    assert artifact.facts == {"passed": result["passed"], "total": 10}
    assert not (tmp_path / "logs/run_agent_tasks.failed.json").exists()


def unanswerable(path: Path) -> Path:
    """The tasks with one second case that wants the wrong city, and one that is cut short."""
    tasks = yaml.safe_load(TASKS.read_text())
    tasks["tasks"][1]["cases"][1]["tool_calls"][0] = {
        "name": "get_weather",
        "arguments": {"city": "Rome"},
    }
    tasks["tasks"][3]["max_tokens"] = 3
    path.write_text(yaml.safe_dump(tasks))
    return path


def test_too_few_passes(
    conversion: Conversion, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tasks = unanswerable(tmp_path / "tasks.yaml")
    with pytest.raises(ScionError, match="agent cases passed") as caught:
        run(conversion, server, tmp_path, tasks, parallel=4, cases=2, minimum_rate=0.9)
    error = caught.value
    assert "at least 5 of the tasks' first cases passed (agent_tasks.required_passes)" in (
        error.expected
    )
    assert "not 4" in error.expected
    assert "at least 90 % of all cases passed (agent_tasks.minimum_rate)" in error.expected
    assert "weather_in_paris: tool calls: expected get_weather" in error.found
    assert "final_synthesis, tokyo_and_paris_as_a_table: truncated" in error.found
    errors = capsys.readouterr().err
    assert "run_agent_tasks: Final synthesis after the results: 0 of 2 passed" in errors
    assert "run_agent_tasks: all tasks: " in errors
    kept = json.loads((tmp_path / "logs/run_agent_tasks.failed.json").read_text())
    assert [len(task["results"]) for task in kept["tasks"]] == [2] * 5
    assert half_made(tmp_path / "results") == []


def test_a_smaller_demand_lets_the_same_answers_pass(
    conversion: Conversion, server: Server, tmp_path: Path
):
    tasks = unanswerable(tmp_path / "tasks.yaml")
    artifact = run(
        conversion, server, tmp_path, tasks, cases=1, required_passes=4, minimum_rate=0.5
    )
    assert [task["passed"] for task in result_of(artifact)["tasks"]] == [1, 1, 1, 0, 1]


def test_a_refused_request(conversion: Conversion, server: Server, tmp_path: Path):
    """More tokens than the context holds: the server refuses it, and the stage says so."""
    tasks = yaml.safe_load(TASKS.read_text())
    tasks["tasks"][2]["max_tokens"] = 5000
    path = tmp_path / "tasks.yaml"
    path.write_text(yaml.safe_dump(tasks))
    with pytest.raises(ScionError, match="a request to the server failed") as caught:
        run(conversion, server, tmp_path, path, cases=1)
    assert "task continue_after_tool_result, tokyo_then_paris" in caught.value.where
    assert "max_model_len=2048" in caught.value.found
    assert half_made(tmp_path / "results") == []


def test_a_server_without_tool_parser(conversion: Conversion, tmp_path: Path):
    with pytest.raises(ScionError, match="a request to the server failed") as caught:
        run_agent_tasks(
            release=conversion.graft_mtp,
            tasks=TASKS,
            output=Output.at(tmp_path / "results/run_agent_tasks"),
            serving=Serving(arguments=("--no-enable-auto-tool-choice",)),
            launch=PICO_LAUNCH,
            agent_tasks=AgentTasks(cases=1),
            python=PYTHON,
            log_folder=tmp_path / "logs",
            environment="sha256:tests",
        )
    assert "--enable-auto-tool-choice" in caught.value.found
    assert half_made(tmp_path / "results") == []
