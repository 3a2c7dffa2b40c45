"""Score the release's tool calls on the Berkeley Function Calling Leaderboard.

The cases come with the package `bfcl-eval` and are asked and judged by it, in envs/evaluate
(`scion.evaluation.harness.bfcl_driver`), as many at a time as the launch decodes in parallel. Cases
that do not fit the context are left out before anything is asked, counted and named; a category of
which fewer are left than `limit` asks for fails the stage. The interval takes the cases as
independent.

`bfcl.json` in the artifact (E: an estimate with its interval, see `scion.evaluation.intervals`):

    {"engine": {…}, "hardware": {…}, "launch": {…}, "harness": {"name", "version"}, "limit",
     "thinking", "max_tokens", "categories": [{"name", "cases": n, "passed": k, "accuracy": E,
     "harness_accuracy", "cut": n, "left_out": [{"id", "tokens"}]}]}

`bfcl_answers.jsonl`: for each case `category`, `id`, `result` as the package records it, `passed`,
`error`, and the server's `choice`.
"""

import sys
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.common.files import write_json
from scion.engines.config import Launch, Serving
from scion.engines.server import Server
from scion.evaluation import intervals as estimates
from scion.evaluation.harness import bfcl_driver, child
from scion.evaluation.harness.config import BFCL_RECORD, Bfcl, answers_file
from scion.evaluation.harness.options import (
    REQUEST_SECONDS,
    parallel_requests,
    served_context,
    write_lines,
)
from scion.evaluation.record_file import RecordFile
from scion.stages.served import ServedSettings, ServedStage, recorded, run_served_stage


class BfclSettings(ServedSettings):
    """The sections of the configuration that this stage reads."""

    bfcl: Bfcl


def evaluate_bfcl(
    *,
    release: Artifact,
    output: Output,
    launch: Launch,
    serving: Serving,
    bfcl: Bfcl,
    python: Path,
    evaluator_python: Path,
    log_folder: Path,
    environment: str,
    record: RecordFile = BFCL_RECORD,
    role: str = "release",
) -> Artifact:
    """Ask a server of the release the cases of each category and have the answers judged.

    Args:
        release: A complete checkpoint, or another model that is asked beside it.
        output: Where the artifact goes.
        launch: How it is served.
        serving: The server.
        bfcl: Categories, and how they are asked.
        python: Interpreter of the serving environment.
        evaluator_python: Interpreter of envs/evaluate.
        log_folder: Where `evaluate_bfcl.server.log` and `evaluate_bfcl.harness.log` go.
        environment: Identity of the locked environments.
        record: The stage, and the file that it writes.
        role: What the manifest calls the checkpoint.

    Raises:
        ScionError: Too few cases fit the context; the server can't be started, dies or does not
            parse tool calls; a request fails.
    """
    served = ServedStage(record.stage, serving, python, log_folder)

    def build(draft: Draft) -> None:
        child.require(evaluator_python)
        with served.server(release, launch) as server:
            about = served.describe(server, launch) | {"launch": launch.model_dump(mode="json")}
            answered = child.run_driver(
                bfcl_driver,
                _request(server, launch, bfcl),
                python=evaluator_python,
                log=served.log("harness"),
                server=server,
            )
        result: dict[str, Any] = about | summary(answered, bfcl)
        write_json(draft.folder / record.name, result)
        write_lines(
            draft.folder / answers_file(record),
            (
                {"category": category["name"], **answer}
                for category in answered["categories"]
                for answer in category["answers"]
            ),
        )
        draft.facts |= {
            category["name"]: category["accuracy"]["value"] for category in result["categories"]
        }
        shown = ", ".join(
            f"{category['name']} {category['passed']} of {category['cases']}"
            for category in result["categories"]
        )
        print(f"{record.stage}: passed: {shown}", file=sys.stderr, flush=True)

    return remake(
        output,
        stage=record.stage,
        inputs={role: release},
        settings={
            "launch": launch.model_dump(mode="json"),
            "serving": recorded(serving),
            "bfcl": bfcl.model_dump(mode="json"),
        },
        environment=environment,
        build=build,
    )


def summary(answered: dict[str, Any], bfcl: Bfcl) -> dict[str, Any]:
    """What the result records of the driver's: accuracies with intervals."""
    return {
        "harness": answered["harness"],
        "limit": bfcl.limit,
        "thinking": bfcl.enable_thinking,
        "max_tokens": bfcl.max_tokens,
        "categories": [_category(category, bfcl) for category in answered["categories"]],
    }


def _category(category: dict[str, Any], bfcl: Bfcl) -> dict[str, Any]:
    answers = category["answers"]
    passed = sum(answer["passed"] for answer in answers)
    return {
        "name": category["name"],
        "cases": len(answers),
        "passed": passed,
        "accuracy": estimates.proportion(passed, len(answers)).record(),
        "harness_accuracy": category["accuracy"],
        # The finish reason does not tell: it is `tool_calls` where the last of them is cut.
        "cut": sum(answer["output_token_count"] >= bfcl.max_tokens for answer in answers),
        "left_out": category["left_out"],
    }


def _request(server: Server, launch: Launch, bfcl: Bfcl) -> dict[str, Any]:
    return {
        "server": server.url,
        "model": server.model,
        "context": served_context(server),
        "parallel": parallel_requests(launch),
        "timeout_seconds": REQUEST_SECONDS,
        "categories": bfcl.categories,
        "limit": bfcl.limit,
        "skip": bfcl.skip_longer_than_context,
        "max_tokens": bfcl.max_tokens,
        "enable_thinking": bfcl.enable_thinking,
    }


def main() -> int:
    """Parse the command line and run the stage."""
    files = {"evaluator-python": "interpreter of envs/evaluate"}
    return run_served_stage(evaluate_bfcl, __doc__, settings=BfclSettings, files=files)


if __name__ == "__main__":
    sys.exit(main())
