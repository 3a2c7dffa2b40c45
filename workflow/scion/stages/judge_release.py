"""Judges whether the release may stand for its bf16 source, by thresholds stated before the run.

What was measured of both is held against each threshold of the section `verdict`, paired by prompt
where both were asked the same. A regression is a result and no failure: the artifact says so, and
so do the card and the end of the run.

`verdict.json`, E being a `scion.evaluation.intervals.Estimate`:

    {"outcome": "accept"|"regression"|"undecided", "reasons": [text],
     "weights": content digest of the release, "source": that of the bf16 source,
     "criteria": [{"criterion": key of the threshold, "title", "unit",
                   "bound": "at most"|"at least", "threshold", "neutral", "estimate": E | null,
                   "prompts": n,
                   "outcome": …|"not asked", "reason", "more": n | null, "counts": {…}}]}

render_verdict shows it.
"""

import sys
from collections.abc import Mapping
from typing import Any

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.config import Mtp
from scion.checkpoint.shards import read_json
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.common.jsonl import read_json_lines
from scion.common.section import Section
from scion.engines.config import Launch
from scion.evaluation.agent.config import RECORD as AGENT
from scion.evaluation.harness.config import (
    BFCL_RECORD,
    IFEVAL_RECORD,
    Bfcl,
    Ifeval,
    answers_file,
)
from scion.evaluation.quality.config import RECORD as QUALITY
from scion.evaluation.record_file import RecordFile
from scion.evaluation.serving.config import RECORD as SERVING
from scion.evaluation.verdict.answers import (
    Pairs,
    agent_replies,
    bfcl_replies,
    ifeval_replies,
    paired,
)
from scion.evaluation.verdict.config import Thresholds
from scion.evaluation.verdict.criteria import Evidence, judged, overall
from scion.evaluation.verdict.records import AGENT_SOURCE, BFCL_SOURCE, IFEVAL_SOURCE, RECORD
from scion.stages.common_options import (
    add_optional,
    add_settings,
    read_settings,
    run_stage,
    stage_parser,
)


class VerdictSettings(Section):
    """The sections of the configuration that this stage reads."""

    verdict: Thresholds
    launch: Launch
    mtp: Mtp
    ifeval: Ifeval
    bfcl: Bfcl


def judge_release(
    *,
    release: Artifact,
    fixed: Artifact,
    measured: Mapping[str, Artifact],
    settings: VerdictSettings,
    output: Output,
    environment: str,
) -> Artifact:
    """Hold what was measured against the thresholds.

    Args:
        release: The quantized checkpoint, whole.
        fixed: Its bf16 source.
        measured: By stage, what was measured of both, quantize_nvfp4 and verify_release; what
            lacks leaves its criteria undecided.
        settings: The thresholds, and what of the evaluations the configuration leaves out.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Raises:
        ScionError: Release and source were not asked the same, or a record can't be read.
    """

    def build(draft: Draft) -> None:
        try:
            criteria = judged(evidence(measured, settings), settings.verdict)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _unusable(", ".join(measured), f"{type(error).__name__}: {error}") from error
        outcome, reasons = overall(criteria)
        record = {
            "outcome": outcome,
            "reasons": reasons,
            "weights": release.content,
            "source": fixed.content,
            "criteria": [each.record() for each in criteria],
        }
        write_json(draft.folder / RECORD.name, record)
        draft.facts |= {"outcome": outcome, "reasons": reasons}
        for line in (f"verdict: {outcome}", *reasons):
            print(f"{RECORD.stage}: {line}", file=sys.stderr, flush=True)

    return remake(
        output,
        stage=RECORD.stage,
        inputs={"release": release, "fixed": fixed, **measured},
        settings={
            "verdict": settings.verdict.model_dump(mode="json"),
            "drafts": settings.launch.speculative_tokens,
            "left_out": left_out(settings, {}),
        },
        environment=environment,
        build=build,
    )


def evidence(measured: Mapping[str, Artifact], settings: VerdictSettings) -> Evidence:
    """What the criteria are measured by.

    Args:
        measured: As of `judge_release`.
        settings: Likewise.
    """
    quantized = _facts(measured, "quantize_nvfp4")
    return Evidence(
        quality=_record(measured, QUALITY),
        serving=_record(measured, SERVING),
        drafts=settings.launch.speculative_tokens,
        quantized=quantized,
        verified=_facts(measured, "verify_release"),
        agent=_agent(measured),
        ifeval=_ifeval(measured) if settings.ifeval.enabled else None,
        bfcl=_bfcl(measured) if settings.bfcl.enabled else None,
        left_out=left_out(settings, quantized or {}),
    )


def left_out(settings: VerdictSettings, quantized: Mapping[str, Any]) -> dict[str, str]:
    """By criterion why the configuration does not ask for it.

    Args:
        settings: The sections.
        quantized: The facts of quantize_nvfp4.
    """
    reasons: dict[str, str] = {}
    if not settings.ifeval.enabled:
        reasons["ifeval_loss_points"] = "ifeval.enabled is false"
    if not settings.bfcl.enabled:
        reasons["bfcl_loss_points"] = "bfcl.enabled is false"
    if settings.mtp.origin == "none":
        reasons["mtp_accepted_share"] = "mtp.origin is none: nothing drafts"
    calibration = quantized.get("calibration")
    if calibration is not None and not calibration["samples"]:
        reasons["calibrated_share"] = "the recipe calibrates nothing"
    return reasons


def _facts(measured: Mapping[str, Artifact], stage: str) -> Mapping[str, Any] | None:
    artifact = measured.get(stage)
    return None if artifact is None else artifact.facts


def _record(measured: Mapping[str, Artifact], record: RecordFile) -> dict[str, Any] | None:
    artifact = measured.get(record.stage)
    return None if artifact is None else read_json(artifact.folder / record.name)


def _agent(measured: Mapping[str, Artifact]) -> Pairs | None:
    release, source = (_record(measured, record) for record in (AGENT, AGENT_SOURCE))
    if release is None or source is None:
        return None
    return paired(agent_replies(release), agent_replies(source))


def _answers(measured: Mapping[str, Artifact], record: RecordFile) -> list[dict[str, Any]] | None:
    artifact = measured.get(record.stage)
    if artifact is None:
        return None
    path = artifact.folder / answers_file(record)
    return read_json_lines(path, lambda row, _: row, refusal=_unusable)


def _unusable(where: object, found: object) -> ScionError:
    return ScionError(
        "what was measured can't be judged",
        where=where,
        expected="a record as its stage writes it",
        found=found,
        hint="another version of Scion may have written it: run that stage again",
    )


def _ifeval(measured: Mapping[str, Artifact]) -> Pairs | None:
    release, source = (_answers(measured, record) for record in (IFEVAL_RECORD, IFEVAL_SOURCE))
    if release is None or source is None:
        return None
    return paired(ifeval_replies(release), ifeval_replies(source))


def _bfcl(measured: Mapping[str, Artifact]) -> Pairs | None:
    release, source = (_answers(measured, record) for record in (BFCL_RECORD, BFCL_SOURCE))
    about = [_record(measured, record) for record in (BFCL_RECORD, BFCL_SOURCE)]
    if release is None or source is None:
        return None
    lengths = [record["max_tokens"] for record in about if record]
    return paired(
        bfcl_replies(release, max_tokens=lengths[0]), bfcl_replies(source, max_tokens=lengths[1])
    )


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(
        __doc__,
        inputs={
            "release": "pointer of graft_mtp, heal_mtp or quantize_mtp",
            "fixed": "pointer of the bf16 source, with sound keys",
        },
    )
    for stage in MEASURED:
        add_optional(parser, stage.replace("_", "-"), "POINTER", f"pointer of {stage}")
    add_settings(parser, VerdictSettings)
    args = parser.parse_args()

    def command(output: Output) -> Artifact:
        pointers = {stage: getattr(args, stage) for stage in MEASURED}
        return judge_release(
            release=output.store.open_pointer(args.release),
            fixed=output.store.open_pointer(args.fixed),
            measured={
                stage: output.store.open_pointer(pointer)
                for stage, pointer in pointers.items()
                if pointer is not None
            },
            settings=read_settings(args.settings, VerdictSettings),
            output=output,
            environment=args.environment,
        )

    return run_stage(args, command)


MEASURED = (
    *("quantize_nvfp4", "verify_release"),
    *(QUALITY.stage, SERVING.stage),
    *(AGENT.stage, AGENT_SOURCE.stage),
    *(IFEVAL_RECORD.stage, IFEVAL_SOURCE.stage),
    *(BFCL_RECORD.stage, BFCL_SOURCE.stage),
)
"""The stages whose artifacts a verdict rests on, besides the two checkpoints."""


if __name__ == "__main__":
    sys.exit(main())
