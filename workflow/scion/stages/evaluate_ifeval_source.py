"""Scores the bf16 source on IFEval, as evaluate_ifeval a release.

For the verdict, which holds the one beside the other, prompt by prompt. The source has no MTP head
and is served without drafts. `ifeval_source.json` and `ifeval_source_answers.jsonl` have the forms
of evaluate_ifeval. They depend on no release: those of one source, asked the same, share them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.engines.config import Launch, Serving
from scion.evaluation.harness.config import Ifeval
from scion.evaluation.verdict.records import IFEVAL_SOURCE
from scion.stages.evaluate_ifeval import IfevalSettings, evaluate_ifeval
from scion.stages.served import require_own_servers, run_served_stage


def evaluate_ifeval_source(
    *,
    fixed: Artifact,
    output: Output,
    launch: Launch,
    serving: Serving,
    ifeval: Ifeval,
    python: Path,
    evaluator_python: Path,
    log_folder: Path,
    environment: str,
    lock: Sequence[Path] = (),
) -> Artifact:
    """Ask a server of the source what the release is asked, and score the answers.

    Args:
        fixed: The bf16 source with sound keys.
        output: Where the artifact goes.
        launch: How the source is served.
        serving: The server.
        ifeval: As of `evaluate_ifeval`.
        python: Interpreter of the serving environment.
        evaluator_python: Interpreter of envs/evaluate.
        log_folder: Where the logs go.
        environment: Identity of the locked environments.
        lock: As of `evaluate_ifeval`.

    Raises:
        ScionError: As `evaluate_ifeval`; `serving.server_url` names a server.
    """
    require_own_servers(serving)
    return evaluate_ifeval(
        release=fixed,
        output=output,
        launch=launch,
        serving=serving,
        ifeval=ifeval,
        python=python,
        evaluator_python=evaluator_python,
        log_folder=log_folder,
        environment=environment,
        lock=lock,
        record=IFEVAL_SOURCE,
        role="fixed",
    )


def main() -> int:
    """Parse the command line and run the stage."""
    return run_served_stage(
        evaluate_ifeval_source,
        __doc__,
        settings=IfevalSettings,
        manifests={"fixed": "pointer of the bf16 source, with sound keys"},
        files={"evaluator-python": "interpreter of envs/evaluate"},
        locks=True,
    )


if __name__ == "__main__":
    sys.exit(main())
