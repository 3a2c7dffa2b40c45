"""Runs the agent capability test: chats and tool calls against a real server of the release.

One server with `speculative_tokens` drafted tokens; each task is one request to
/v1/chat/completions by the `openai` client at temperature 0, with the tool and reasoning parsers
that users have. `scion.agent_judge` decides. With fewer passes than `required_passes` the stage
fails and leaves no artifact; the answers then stand in `run_agent_tasks.failed.json` beside the
server's log.

`agent_tasks.json` in the artifact:

    {"engine": {…as in serving.json}, "hardware": {…as there}, "speculative_tokens": n,
     "tasks": [{"name", "title", "passed": bool, "reason", "request": {…}, "response": {…}}],
     "passed": k, "total": n}
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import openai

from scion.agent_judge import Task, TaskFile, judge, read_tasks
from scion.artifact import Artifact, Draft, remake
from scion.config import AgentTasks, Section, Serving
from scion.engines import vllm
from scion.engines.options import UNMEASURED, add_server_options
from scion.engines.server import Server
from scion.errors import ScionError
from scion.files import write_json
from scion.stage_cli import add_settings, read_settings, run_stage, stage_parser

STAGE = "run_agent_tasks"
RESULT = "agent_tasks.json"


class Settings(Section):
    """The sections of the configuration that this stage reads."""

    serving: Serving
    agent_tasks: AgentTasks


def run_agent_tasks(
    *,
    release: Artifact,
    tasks: Path,
    output: Path,
    serving: Serving,
    agent_tasks: AgentTasks,
    python: Path,
    log_folder: Path,
    environment: str,
) -> Artifact:
    """Run every task against a server of the release and keep requests, answers and verdicts.

    Args:
        release: A complete checkpoint with its MTP head.
        tasks: YAML of tasks; see `scion.agent_judge`.
        output: Folder of the artifact.
        serving: The server.
        agent_tasks: Drafted tokens, and how many tasks must pass.
        python: Interpreter of the serving environment.
        log_folder: Where `run_agent_tasks.server.log` goes.
        environment: Identity of the locked environment.

    Raises:
        ScionError: Fewer tasks pass than required; the server can't be started or dies; a request
            fails; the tasks can't be used.
    """

    def build(draft: Draft) -> None:
        task_file = read_tasks(tasks)
        with vllm.serve(
            release.folder,
            name="release",
            speculative_tokens=agent_tasks.speculative_tokens,
            serving=serving,
            python=python,
            log=log_folder / f"{STAGE}.server.log",
        ) as server:
            results = [_run(server, task_file, task) for task in task_file.tasks]
            passed = sum(entry["passed"] for entry in results)
            result = {
                "engine": vllm.describe(server, serving),
                "hardware": vllm.hardware(serving),
                "speculative_tokens": agent_tasks.speculative_tokens,
                "tasks": results,
                "passed": passed,
                "total": len(results),
            }
        if passed < agent_tasks.required_passes:
            kept = log_folder / f"{STAGE}.failed.json"
            write_json(kept, result)
            raise _too_few(results, agent_tasks.required_passes, tasks, kept)
        write_json(draft.folder / RESULT, result)
        draft.facts |= {"passed": passed, "total": len(results)}

    return remake(
        output,
        stage=STAGE,
        inputs={"release": release, "tasks": tasks},
        settings={
            "serving": serving.model_dump(mode="json", exclude=UNMEASURED),
            "agent_tasks": agent_tasks.model_dump(mode="json"),
        },
        environment=environment,
        build=build,
    )


def _run(server: Server, task_file: TaskFile, task: Task) -> dict[str, Any]:
    """One task: the request, the whole answer, the verdict."""
    request: dict[str, Any] = {
        "model": server.model,
        "messages": task.messages,
        "temperature": 0,
        "max_tokens": task.max_tokens,
    }
    if task.tools:
        tools = task_file.tools_of(task)
        request |= {"tools": tools, "tool_choice": "auto", "parallel_tool_calls": True}
    # What is not part of OpenAI's interface; the client puts it beside the rest.
    extra = {"chat_template_kwargs": {"enable_thinking": task.enable_thinking}}
    response = _ask(server, task.name, request, extra)
    passed, reason = judge(task, response)
    verdict = "passed" if passed else "FAILED"
    print(f"{STAGE}: {task.title}: {verdict}: {reason}", file=sys.stderr, flush=True)
    return {
        "name": task.name,
        "title": task.title,
        "passed": passed,
        "reason": reason,
        "request": request | extra,
        "response": response,
    }


def _ask(
    server: Server, name: str, request: dict[str, Any], extra: dict[str, Any]
) -> dict[str, Any]:
    # No proxy of the environment's, as in scion.engines.server; no retries: a failure counts.
    with openai.OpenAI(
        base_url=server.openai_url,
        api_key="none",
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    ) as client:
        try:
            response = client.chat.completions.create(**request, extra_body=extra)
        except openai.OpenAIError as error:
            raise server.failure(
                "a request to the server failed",
                where=f"task {name}, {server.openai_url}/chat/completions",
                expected="a chat completion",
                found=error,
            ) from error
    return cast("dict[str, Any]", response.model_dump(mode="json"))


def _too_few(
    results: Sequence[dict[str, Any]], required: int, tasks: Path, kept: Path
) -> ScionError:
    failed = [entry for entry in results if not entry["passed"]]
    lines = "".join(f"\n    - {entry['title']}: {entry['reason']}" for entry in failed)
    return ScionError(
        f"{len(results) - len(failed)} of {len(results)} agent tasks passed",
        where=tasks,
        expected=f"at least {required} (agent_tasks.required_passes)",
        found=f"these failed:{lines}",
        hint=f"the answers stand in {kept}",
    )


def main() -> int:
    """Parse the command line and run the stage."""
    parser = stage_parser(__doc__, inputs={"release": "manifest of a complete checkpoint"})
    parser.add_argument("--tasks", required=True, type=Path, metavar="FILE", help="YAML of tasks")
    add_server_options(parser)
    add_settings(parser, Settings)
    arguments = parser.parse_args()

    def command() -> Artifact:
        settings = read_settings(arguments.settings, Settings)
        return run_agent_tasks(
            release=Artifact.open(arguments.release),
            tasks=arguments.tasks,
            output=arguments.output.parent,
            serving=settings.serving,
            agent_tasks=settings.agent_tasks,
            python=arguments.python,
            log_folder=arguments.log_folder,
            environment=arguments.environment,
        )

    return run_stage(command)


if __name__ == "__main__":
    sys.exit(main())
