"""Asks the release and its bf16 source about pictures, on a real server of each.

A release that keeps its vision tower is asked held-out questions, each with a picture in a real
`image_url` request to /v1/chat/completions at temperature 0, as its launch serves it; then the same
questions are asked of its source in bf16, without speculation.
The tower of both is the same, bit for bit. An answer is right if it holds one of the words that the
question calls right, and none that it calls wrong.

`images.json` in the artifact, E being a `scion.evaluation.intervals.Estimate`: rates with Wilson's
interval, the paired difference with Newcombe's:

    {"engine": {…as in serving.json}, "hardware": {…as there},
     "questions": {"file", "sha256", "asked": n}, "max_tokens": n,
     "models": [{"name": "release"|"fixed", "speculative_tokens": n,
                 "sets": [{"name", "passed": k, "questions": n, "rate": E}],
                 "results": [{"name", "set", "passed": bool, "answer",
                              "request": {…, each picture as its sha256}, "response": {…}}]}],
     "differences": [{"name", "difference": E}]}

The last of each list of sets, `all`, is of all questions. A difference is the release's rate less
the source's.
"""

import sys
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.common.progress import progress
from scion.common.text import share
from scion.engines.config import Launch, Serving
from scion.engines.served_model import ServedModel
from scion.evaluation.harness.options import parallel_requests
from scion.evaluation.images.asking import ask_all
from scion.evaluation.images.config import RECORD, Images
from scion.evaluation.images.questions import read_questions
from scion.evaluation.images.results import counted, differences
from scion.stages.served import (
    ServedSettings,
    ServedStage,
    recorded,
    require_own_servers,
    run_served_stage,
)

STAGE, RESULT = RECORD.stage, RECORD.name


class ImageSettings(ServedSettings):
    """The sections of the configuration that this stage reads."""

    images: Images


def evaluate_images(
    *,
    release: Artifact,
    fixed: Artifact,
    questions: Path,
    output: Output,
    serving: Serving,
    launch: Launch,
    images: Images,
    python: Path,
    log_folder: Path,
    environment: str,
) -> Artifact:
    """Ask both models every question and keep requests, answers and verdicts.

    Args:
        release: The quantized checkpoint, with its vision tower.
        fixed: Its bf16 source, with sound keys.
        questions: JSONL; see `scion.evaluation.images.questions`.
        output: Where the artifact goes.
        serving: The servers.
        launch: How people serve the release.
        images: How many questions are asked, and how long the answers may be.
        python: Interpreter of the serving environment.
        log_folder: Where `evaluate_images.<model>.server.log` go.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The release has no tower; the questions can't be used; a server can't be
            started or dies; a request fails.
    """
    asked = read_questions(questions, limit=images.limit)
    bf16 = {
        "speculative_tokens": 0,
        "max_model_len": min(images.context_tokens, launch.max_model_len),
    }
    launches = {"release": launch, "fixed": launch.model_copy(update=bf16)}
    models = {"release": release, "fixed": fixed}

    def build(draft: Draft) -> None:
        require_own_servers(serving)
        _require_tower(release)
        served = ServedStage(STAGE, serving, python, log_folder)
        about: dict[str, Any] = {}
        entries: list[dict[str, Any]] = []
        with progress("questions about pictures", len(models) * len(asked)) as told:
            for name, model in models.items():
                told.doing(f"{name}: starting the server")
                with served.server(model, launches[name], name) as server:
                    about = about or served.describe(server, launches[name])
                    told.doing(f"{name}: asking")
                    results = ask_all(
                        server,
                        asked,
                        max_tokens=images.max_tokens,
                        parallel=parallel_requests(launches[name]),
                        told=told,
                    )
                entries.append(_entry(name, launches[name], results))
        record = {
            **about,
            "questions": {
                "file": questions.name,
                "sha256": digest_file(questions),
                "asked": len(asked),
            },
            "max_tokens": images.max_tokens,
            "models": entries,
            "differences": differences(*(entry["results"] for entry in entries)),
        }
        write_json(draft.folder / RESULT, record)
        draft.facts |= {entry["name"]: entry["sets"][-1]["passed"] for entry in entries}
        for entry in entries:
            print(f"{STAGE}: {_line(entry)}", file=sys.stderr, flush=True)

    return remake(
        output,
        stage=STAGE,
        inputs={**models, "questions": questions},
        settings={
            "serving": recorded(serving),
            "launch": launch.model_dump(mode="json", exclude={"title"}),
            "images": images.model_dump(mode="json", exclude={"enabled", "questions"}),
        },
        environment=environment,
        build=build,
    )


def _entry(name: str, launch: Launch, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "speculative_tokens": launch.speculative_tokens,
        "sets": counted(results),
        "results": results,
    }


def _line(entry: dict[str, Any]) -> str:
    rates = (
        f"{row['name']} {row['passed']} of {row['questions']}, {share(row['rate'])}"
        for row in entry["sets"]
    )
    return f"{entry['name']}: {'; '.join(rates)}"


def _require_tower(release: Artifact) -> None:
    if ServedModel.read(release.folder).lost_tower:
        raise ScionError(
            "a release without a vision tower is to be asked about pictures",
            where=release.folder,
            expected="the tensors of its class's vision tower",
            found="none of them",
            hint="set images.enabled: false, or text_only: false to keep the tower",
        )


def main() -> int:
    """Parse the command line and run the stage."""
    return run_served_stage(
        evaluate_images,
        __doc__,
        settings=ImageSettings,
        manifests={
            "release": "pointer of the quantized checkpoint",
            "fixed": "pointer of its bf16 source, with sound keys",
        },
        files={"questions": "JSONL of questions about pictures"},
    )


if __name__ == "__main__":
    sys.exit(main())
