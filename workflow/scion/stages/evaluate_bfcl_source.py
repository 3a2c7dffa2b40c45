"""Scores the bf16 source on the Berkeley Function Calling Leaderboard, as evaluate_bfcl a release.

For the verdict, which holds the one beside the other, prompt by prompt. The source has no MTP head
and is served without drafts. `bfcl_source.json` and `bfcl_source_answers.jsonl` have the forms of
evaluate_bfcl. They depend on no release: those of one source, asked the same, share them.
"""

import sys
from pathlib import Path

from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.engines.config import Launch, Serving
from scion.evaluation.harness.config import Bfcl
from scion.evaluation.verdict.records import BFCL_SOURCE
from scion.stages.evaluate_bfcl import BfclSettings, evaluate_bfcl
from scion.stages.served import require_own_servers, run_served_stage


def evaluate_bfcl_source(
    *,
    fixed: Artifact,
    output: Output,
    launch: Launch,
    serving: Serving,
    bfcl: Bfcl,
    python: Path,
    evaluator_python: Path,
    log_folder: Path,
    environment: str,
) -> Artifact:
    """Ask a server of the source what the release is asked, and score the answers.

    Args:
        fixed: The bf16 source with sound keys.
        output: Where the artifact goes.
        launch: How the source is served.
        serving: The server.
        bfcl: As of `evaluate_bfcl`.
        python: Interpreter of the serving environment.
        evaluator_python: Interpreter of envs/evaluate.
        log_folder: Where the logs go.
        environment: Identity of the locked environments.

    Raises:
        ScionError: As `evaluate_bfcl`; `serving.server_url` names a server.
    """
    require_own_servers(serving)
    return evaluate_bfcl(
        release=fixed,
        output=output,
        launch=launch,
        serving=serving,
        bfcl=bfcl,
        python=python,
        evaluator_python=evaluator_python,
        log_folder=log_folder,
        environment=environment,
        record=BFCL_SOURCE,
        role="fixed",
    )


def main() -> int:
    """Parse the command line and run the stage."""
    return run_served_stage(
        evaluate_bfcl_source,
        __doc__,
        settings=BfclSettings,
        manifests={"fixed": "pointer of the bf16 source, with sound keys"},
        files={"evaluator-python": "interpreter of envs/evaluate"},
    )


if __name__ == "__main__":
    sys.exit(main())
