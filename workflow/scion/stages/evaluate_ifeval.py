"""Score the release on IFEval: instructions whose following a program can check.

The prompts are asked and scored by lm-evaluation-harness, in envs/evaluate
(`scion.evaluation.harness.ifeval_driver`), as many at a time as the launch decodes in parallel. Its
task and its scorer are the published ones; the thinking is no part of an answer, and an answer that
is cut within the thinking is an empty one. All prompts are checked before the server is started.

`ifeval.json` in the artifact (E: an estimate with its interval, see `scion.evaluation.intervals`):

    {"engine": {…}, "hardware": {…}, "launch": {…}, "harness": {"name", "version", "task_version",
     "scores": {the harness's own}}, "dataset": {"file", "sha256", "prompts"} or {"repository",
     "revision", "file", "sha256", "prompts"}, "limit", "thinking", "max_tokens",
     "answers": {"empty": n, "cut": n}, "scores": {"prompt_strict": E, "prompt_loose": E,
     "instruction_strict": E, "instruction_loose": E}}

`ifeval_answers.jsonl`: for each prompt `key`, `prompt`, `instruction_id_list`, `answer`, whether it
was `cut`, its `tokens` and, of these, the `thinking_tokens` as the server counts them (null if it
does not), and the harness's verdicts.

The interval of an instruction score takes the instructions as independent; a prompt holds one to
three of them.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.hub.client import download_files
from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.checkpoint.hub.lock_check import held_files, require_read
from scion.checkpoint.shards import read_object
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.engines.config import Launch, Serving
from scion.engines.server import Server
from scion.evaluation import intervals as estimates
from scion.evaluation.chats import Chat, token_ids
from scion.evaluation.harness import child, ifeval_driver
from scion.evaluation.harness.config import IFEVAL_RECORD, Ifeval, answers_file
from scion.evaluation.harness.ifeval_prompts import read_ifeval_prompts
from scion.evaluation.harness.options import (
    REQUEST_SECONDS,
    parallel_requests,
    served_context,
    write_lines,
)
from scion.evaluation.record_file import RecordFile
from scion.stages.served import ServedSettings, ServedStage, recorded, run_served_stage

# The one file of google/IFEval.
_HUB_FILE = "ifeval_input_data.jsonl"
_SCORES = {
    "prompt_strict": "prompt_level_strict_acc",
    "prompt_loose": "prompt_level_loose_acc",
    "instruction_strict": "inst_level_strict_acc",
    "instruction_loose": "inst_level_loose_acc",
}


class IfevalSettings(ServedSettings):
    """The sections of the configuration that this stage reads."""

    ifeval: Ifeval


def evaluate_ifeval(
    *,
    release: Artifact,
    output: Output,
    launch: Launch,
    serving: Serving,
    ifeval: Ifeval,
    python: Path,
    evaluator_python: Path,
    log_folder: Path,
    environment: str,
    lock: Sequence[Path] = (),
    record: RecordFile = IFEVAL_RECORD,
    role: str = "release",
) -> Artifact:
    """Ask a server of the release all prompts and score the answers.

    Args:
        release: A complete checkpoint, or another model that is asked beside it.
        output: Where the artifact goes.
        launch: How it is served.
        serving: The server.
        ifeval: Prompts, and how they are asked.
        python: Interpreter of the serving environment.
        evaluator_python: Interpreter of envs/evaluate.
        log_folder: Where `evaluate_ifeval.server.log` and `evaluate_ifeval.harness.log` go.
        environment: Identity of the locked environments.
        lock: Say what the prompts of the hub have to be; none: nobody has locked them.
        record: The stage, and the file that it writes.
        role: What the manifest calls the checkpoint.

    Raises:
        ScionError: The prompts are missing, are not what was locked, are not in IFEval's form or do
            not fit the context; the server can't be started or dies; a request fails.
    """
    location = parse_location(ifeval.dataset)
    local = None if isinstance(location, HubRepository) else Path(ifeval.dataset)
    if local is not None:
        read_ifeval_prompts(local, ifeval)
    served = ServedStage(record.stage, serving, python, log_folder)

    def build(draft: Draft) -> None:
        with tempfile.TemporaryDirectory(prefix="scion-ifeval-") as name:
            path = local or _download(location, Path(name), lock)
            rows = read_ifeval_prompts(path, ifeval)
            chosen = Path(name) / f"chosen.{path.name}"
            chosen.write_text("".join(json.dumps(row) + "\n" for row in rows))
            ask = partial(
                child.run_driver,
                ifeval_driver,
                python=evaluator_python,
                log=served.log("harness"),
            )
            request: dict[str, Any] = {"dataset": str(chosen), "name": ifeval.dataset}
            ask(request)
            with served.server(release, launch) as server:
                _check_fit(server, rows, ifeval)
                about = served.describe(server, launch) | {"launch": launch.model_dump(mode="json")}
                print(f"{record.stage}: {len(rows)} prompts", file=sys.stderr, flush=True)
                answered = ask(request | _how(server, launch, ifeval), server=server)
            _check_complete(rows, answered["samples"])
            data = {**_name(location), "file": path.name, "sha256": digest_file(path)}
            result = about | summary(answered, ifeval) | {"dataset": data | {"prompts": len(rows)}}
        _write(draft, result, answered["samples"], record)

    artifact = remake(
        output,
        stage=record.stage,
        inputs={role: release, **({"dataset": local} if local is not None else {})},
        settings={
            "launch": launch.model_dump(mode="json"),
            "serving": recorded(serving),
            # A local file counts by its content.
            "ifeval": ifeval.model_dump(
                mode="json", exclude=set() if local is None else {"dataset"}
            ),
        },
        environment=environment,
        build=build,
    )
    if local is None and lock:
        # Of one that an earlier run has made, too.
        data = read_object(artifact.folder / record.name)["dataset"]
        require_read({ifeval.dataset: {data["file"]: data["sha256"]}}, lock)
    return artifact


def _how(server: Server, launch: Launch, ifeval: Ifeval) -> dict[str, Any]:
    """What makes the driver ask, not only check."""
    return {
        "url": f"{server.openai_url}/chat/completions",
        "model": server.model,
        "parallel": parallel_requests(launch),
        "timeout_seconds": REQUEST_SECONDS,
        "max_tokens": ifeval.max_tokens,
        "enable_thinking": ifeval.enable_thinking,
    }


def _write(
    draft: Draft,
    result: dict[str, Any],
    samples: Sequence[dict[str, Any]],
    record: RecordFile,
) -> None:
    write_json(draft.folder / record.name, result)
    write_lines(draft.folder / answers_file(record), samples)
    draft.facts |= {name: score["value"] for name, score in result["scores"].items()}
    shown = ", ".join(f"{name} {score['value']:.1%}" for name, score in result["scores"].items())
    print(f"{record.stage}: {len(samples)} prompts answered: {shown}", file=sys.stderr, flush=True)


def summary(answered: dict[str, Any], ifeval: Ifeval) -> dict[str, Any]:
    """What the result records of the driver's: scores with intervals, from the verdicts' counts."""
    samples = answered["samples"]
    harness = {"task_version": answered["task_version"], "scores": answered["scores"]}
    return {
        "harness": answered["harness"] | harness,
        "limit": ifeval.limit,
        "thinking": ifeval.enable_thinking,
        "max_tokens": ifeval.max_tokens,
        "answers": {
            "empty": sum(not sample["answer"].strip() for sample in samples),
            "cut": answered["cut"],
        },
        "scores": {name: _score(samples, metric).record() for name, metric in _SCORES.items()},
    }


def _score(samples: Sequence[dict[str, Any]], metric: str) -> estimates.Estimate:
    verdicts = [sample[metric] for sample in samples]
    if not all(isinstance(verdict, list) for verdict in verdicts):
        return estimates.proportion(sum(verdicts), len(verdicts))
    # The instructions of one prompt stand or fall together.
    return estimates.clustered_proportion([sum(v) for v in verdicts], [len(v) for v in verdicts])


def _name(location: object) -> dict[str, Any]:
    if not isinstance(location, HubRepository):
        return {}
    return {"repository": location.name, "revision": location.require_pinned()}


def _download(location: object, folder: Path, locks: Sequence[Path]) -> Path:
    assert isinstance(location, HubRepository)
    location.require_pinned()
    download_files(location, [_HUB_FILE], folder, listing=held_files(location, locks))
    return folder / _HUB_FILE


def _check_fit(server: Server, rows: Sequence[dict[str, Any]], ifeval: Ifeval) -> None:
    """Refuse a prompt that leaves no room for its answer, before any is asked."""
    limit = served_context(server)
    for row in rows:
        message = {"role": "user", "content": row["prompt"]}
        template = {"enable_thinking": ifeval.enable_thinking}
        count = len(token_ids(server, Chat("", [message], None, template), reply=True))
        if count + ifeval.max_tokens > limit:
            raise ScionError(
                "an IFEval prompt does not fit the server's context",
                where=f"{ifeval.dataset}: key {row['key']}",
                expected=f"at most {limit - ifeval.max_tokens} tokens, which leave "
                f"{ifeval.max_tokens} (ifeval.max_tokens) of {limit} for the answer",
                found=f"{count} tokens",
                hint="lower ifeval.max_tokens, or serve with a launch of a longer context",
            )


def _check_complete(rows: Sequence[dict[str, Any]], samples: Sequence[dict[str, Any]]) -> None:
    asked, answered = [row["key"] for row in rows], [sample["key"] for sample in samples]
    if asked != answered:
        missing = sorted(set(asked) - set(answered))
        raise ScionError(
            "not every prompt was scored",
            where="the harness's answers",
            expected=f"{len(asked)} prompts, each once",
            found=f"{len(answered)} answers; without one: keys {missing[:10]}",
            hint="run the stage again, and report it if that does not help",
        )


def main() -> int:
    """Parse the command line and run the stage."""
    files = {"evaluator-python": "interpreter of envs/evaluate"}
    return run_served_stage(
        evaluate_ifeval, __doc__, settings=IfevalSettings, files=files, locks=True
    )


if __name__ == "__main__":
    sys.exit(main())
