"""Runs the agent capability test: chats and tool calls against a real server of the release.

One server; each case of a task is one request to /v1/chat/completions by the `openai` client at
temperature 0, with the tool and reasoning parsers that users have. As many requests run at once as
the launch decodes in parallel. `scion.evaluation.agent.judge` decides. If fewer of the tasks' first
cases pass than `required_passes`, or a smaller share of all cases than `minimum_rate`, the stage
fails and leaves no artifact; the answers then stand in `run_agent_tasks.failed.json` beside the
server's log.

`agent_tasks.json` in the artifact, E being a `scion.evaluation.intervals.Estimate`, Wilson's
interval:

    {"engine": {…as in serving.json}, "hardware": {…as there}, "speculative_tokens": n,
     "tasks": [{"name", "title", "passed": k, "cases": n, "rate": E,
                "results": [{"name", "passed": bool, "reason", "request": {…}, "response": {…}}]}],
     "passed": k, "total": n, "rate": E}

The first result of each task is that of its first case, which `agent_tasks.required_passes` counts.
"""

import sys
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.engines.config import Launch, Serving
from scion.evaluation.agent.asking import ask_all
from scion.evaluation.agent.config import RECORD, AgentTasks
from scion.evaluation.agent.results import count, failures, print_verdicts
from scion.evaluation.agent.tasks import read_tasks
from scion.evaluation.harness.options import parallel_requests
from scion.evaluation.record_file import RecordFile
from scion.stages.served import ServedSettings, ServedStage, recorded, run_served_stage


class AgentTaskSettings(ServedSettings):
    """The sections of the configuration that this stage reads."""

    agent_tasks: AgentTasks


def run_agent_tasks(
    *,
    release: Artifact,
    tasks: Path,
    output: Output,
    serving: Serving,
    launch: Launch,
    agent_tasks: AgentTasks,
    python: Path,
    log_folder: Path,
    environment: str,
    record: RecordFile = RECORD,
    role: str = "release",
) -> Artifact:
    """Ask every case of every task and keep requests, answers and verdicts.

    Args:
        release: A complete checkpoint with its MTP head, or another model that is asked beside it.
        tasks: YAML of tasks; see `scion.evaluation.agent.tasks`.
        output: Where the artifact goes.
        serving: The server.
        launch: Context, batch and speculation that it is started with.
        agent_tasks: How many cases are asked, and how many must pass.
        python: Interpreter of the serving environment.
        log_folder: Where `run_agent_tasks.server.log` goes.
        environment: Identity of the locked environment.
        record: The stage, and the file that it writes.
        role: What the manifest calls the checkpoint.

    Raises:
        ScionError: Fewer cases pass than required; the server can't be started or dies; a request
            fails; the tasks can't be used.
    """
    served = ServedStage(record.stage, serving, python, log_folder)

    def build(draft: Draft) -> None:
        task_file = read_tasks(tasks)
        with served.server(release, launch) as server:
            about = served.describe(server, launch) | {
                "speculative_tokens": launch.speculative_tokens
            }
            results = ask_all(server, task_file, agent_tasks.cases, parallel_requests(launch))
        result = about | count(task_file, results)
        print_verdicts(record.stage, result)
        if shortfall := _shortfall(result, agent_tasks):
            kept = log_folder / f"{record.stage}.failed.json"
            write_json(kept, result)
            raise _too_few(result, shortfall, tasks, kept)
        write_json(draft.folder / record.name, result)
        draft.facts |= {"passed": result["passed"], "total": result["total"]}

    return remake(
        output,
        stage=record.stage,
        inputs={role: release, "tasks": tasks},
        settings={
            "serving": recorded(serving),
            "launch": launch.model_dump(mode="json", exclude={"title"}),
            "agent_tasks": agent_tasks.model_dump(mode="json"),
        },
        environment=environment,
        build=build,
    )


def _shortfall(result: dict[str, Any], wanted: AgentTasks) -> str:
    """What was expected and did not come true; empty if all did."""
    first = sum(task["results"][0]["passed"] for task in result["tasks"])
    parts: list[str] = []
    if first < wanted.required_passes:
        parts.append(
            f"at least {wanted.required_passes} of the tasks' first cases passed "
            f"(agent_tasks.required_passes), not {first}"
        )
    if result["passed"] / result["total"] < wanted.minimum_rate:
        parts.append(
            f"at least {100 * wanted.minimum_rate:.0f} % of all cases passed "
            "(agent_tasks.minimum_rate)"
        )
    return "; ".join(parts)


def _too_few(result: dict[str, Any], expected: str, tasks: Path, kept: Path) -> ScionError:
    lines = "".join(f"\n    - {failure}" for failure in failures(result))
    return ScionError(
        f"{result['passed']} of {result['total']} agent cases passed",
        where=tasks,
        expected=expected,
        found=f"these failed:{lines}",
        hint=f"the answers stand in {kept}",
    )


def main() -> int:
    """Parse the command line and run the stage."""
    files = {"tasks": "YAML of tasks"}
    return run_served_stage(run_agent_tasks, __doc__, settings=AgentTaskSettings, files=files)


if __name__ == "__main__":
    sys.exit(main())
