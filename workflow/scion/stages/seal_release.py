"""Seal the release: the checkpoint, its card, and the proof of both, hashed once more as a whole.

Beside the weights the folder holds `provenance/<stage>.json`, the pointer of every stage;
`provenance/tensors/`, the tensor tables of the checkpoints before the release; and
`provenance/results/`, what was measured, so that a reader who has only the folder can follow each
tensor to the source and each number to its record, answers and timings included. The card's
pictures lie in `pictures/`. What others' tools read of all that is derived from the manifests:
SLSA provenance, an ML-BOM, an RO-Crate, `reproduce/`. `SHA256SUMS` is for readers without Scion.
What lies where is said by
`scion.artifacts.release_layout`, to which `scion check` holds the folder.
Every file is a link, with the digest that its stage recorded; one that was changed since is refused
when the artifact is opened. The workflow puts the sealed artifact into `results/<release>/release`,
a real folder with this stage's manifest in it.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.release_layout import (
    PROVENANCE,
    RENDERED,
    SEALED,
    SUMS,
    WORKFLOW,
    placed_files,
    sums,
)
from scion.artifacts.software import FACT, Software
from scion.common.files import atomic_file, copy_file, write_json
from scion.common.section import Section
from scion.stages.common_options import (
    add_optional,
    add_settings,
    read_settings,
    run_stage,
    stage_parser,
)
from scion.stages.evidence import add_evidence, open_evidence


class SealSettings(Section):
    """What of the configuration this stage reads."""

    config: dict[str, Any] | None = Field(
        default=None,
        description="all of it, but for where artifacts are kept, which attestations name; null: "
        "the release is not attested",
    )


def seal_release(
    *,
    release: Artifact,
    card: Artifact,
    evidence: Mapping[str, Artifact],
    output: Output,
    environment: str,
    settings: SealSettings = SealSettings(),  # noqa: B008 (frozen)
    workflow: Path | None = None,
) -> Artifact:
    """Put the folder together that is published.

    Args:
        release: The verified checkpoint.
        card: The model card and its pictures.
        evidence: The artifacts of all other stages, by stage.
        output: Where the artifact goes.
        environment: Identity of the locked environment.
        settings: What attestations say of how the release was asked for.
        workflow: The workflow's Snakefile, which an attested release holds.

    Raises:
        ScionError: A stage recorded nothing that an attestation has to name.
    """
    stages = {**evidence, release.stage: release, RENDERED: card}

    def build(draft: Draft) -> None:
        (draft.folder / PROVENANCE).mkdir(parents=True)
        draft.link_all(release)
        draft.link_all(card)
        for stage, artifact in stages.items():
            write_json(draft.folder / PROVENANCE / f"{stage}.json", artifact.manifest)
        for stage, artifact in evidence.items():
            for name, placed in placed_files(stage, artifact.manifest).items():
                draft.link(artifact, name, placed)
        draft.facts |= {"weights": release.content, "card": card.content, FACT: card.facts[FACT]}
        if workflow is not None and settings.config is not None:
            (draft.folder / WORKFLOW).parent.mkdir()
            copy_file(workflow, draft.folder / WORKFLOW)
            draft.hash_files()
            _attest(draft, stages, settings.config)
        draft.hash_files()
        with atomic_file(draft.folder / SUMS) as file:
            file.write(sums(draft.files))

    return remake(
        output,
        stage=SEALED,
        inputs={**stages, **({WORKFLOW: workflow} if workflow else {})},
        settings=settings.model_dump(mode="json", exclude_none=True),
        environment=environment,
        build=build,
        quotes_manifests=True,
    )


def _attest(draft: Draft, stages: Mapping[str, Artifact], config: Mapping[str, Any]) -> None:
    """Write the attestations of a draft whose other files are there."""
    from scion.report.attestation.attestations import write_attestations
    from scion.report.attestation.sealed_release import (
        SEALED_AT,
        SealedRelease,
        attested,
        sealing_time,
    )

    sealed_at = sealing_time()
    draft.facts[SEALED_AT] = sealed_at.isoformat()
    release = SealedRelease(
        files=attested(draft.files),
        manifests={stage: artifact.manifest for stage, artifact in stages.items()},
        config=config,
        made_by=Software(**draft.facts[FACT]),
        sealed_at=sealed_at,
    )
    write_attestations(release, draft.folder)


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(
        __doc__,
        inputs={
            "release": "pointer of graft_mtp, heal_mtp or quantize_mtp",
            "card": "pointer of render_card",
        },
    )
    add_evidence(parser)
    add_settings(parser, SealSettings)
    add_optional(parser, "workflow", "FILE", "the workflow's Snakefile, where it is attested")
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: seal_release(
            release=output.store.open_pointer(args.release),
            card=output.store.open_pointer(args.card),
            evidence=open_evidence(output.store, args.evidence),
            output=output,
            environment=args.environment,
            settings=read_settings(args.settings, SealSettings),
            workflow=args.workflow,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
