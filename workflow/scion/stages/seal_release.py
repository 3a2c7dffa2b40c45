"""Seal the release: the checkpoint, its card, and the proof of both, hashed once more as a whole.

Beside the weights the folder holds `provenance/<stage>.json`, the pointer of every stage;
`provenance/tensors/`, the tensor tables of the checkpoints before the release; and
`provenance/results/`, what was measured, so that a reader who has only the folder can follow each
tensor to the source and each number to its record, answers and timings included. The card's
pictures lie in `pictures/`. `SHA256SUMS` is for readers without Scion. What lies where is said by
`scion.artifacts.release_layout`, to which `scion check` holds the folder.
Every file is a link, with the digest that its stage recorded; one that was changed since is refused
when the artifact is opened. The workflow puts the sealed artifact into `results/<release>/release`,
a real folder with this stage's manifest in it.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.release_layout import (
    PROVENANCE,
    RENDERED,
    SEALED,
    SUMS,
    placed_files,
    sums,
)
from scion.artifacts.software import FACT
from scion.artifacts.store.store import Store
from scion.common.files import atomic_file, write_json
from scion.stages.common_options import run_stage, stage_parser


def seal_release(
    *,
    release: Artifact,
    card: Artifact,
    evidence: Mapping[str, Artifact],
    output: Output,
    environment: str,
) -> Artifact:
    """Put the folder together that is published.

    Args:
        release: The verified checkpoint.
        card: The model card and its pictures.
        evidence: The artifacts of all other stages, by stage.
        output: Where the artifact goes.
        environment: Identity of the locked environment.
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
        draft.hash_files()
        with atomic_file(draft.folder / SUMS) as file:
            file.write(sums(draft.files))
        draft.facts |= {"weights": release.content, "card": card.content, FACT: card.facts[FACT]}

    return remake(
        output,
        stage=SEALED,
        inputs=stages,
        settings={},
        environment=environment,
        build=build,
        quotes_manifests=True,
    )


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
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: seal_release(
            release=output.store.open_pointer(args.release),
            card=output.store.open_pointer(args.card),
            evidence=open_evidence(output.store, args.evidence),
            output=output,
            environment=args.environment,
        ),
    )


def add_evidence(parser: argparse.ArgumentParser) -> None:
    """Add `--evidence`, the pointers of the other stages."""
    parser.add_argument(
        "--evidence",
        required=True,
        nargs="+",
        type=Path,
        metavar="POINTER",
        help="pointers of all other stages, in any order",
    )


def open_evidence(store: Store, pointers: Iterable[Path]) -> dict[str, Artifact]:
    """The artifacts by stage."""
    artifacts = [store.open_pointer(pointer) for pointer in pointers]
    return {artifact.stage: artifact for artifact in artifacts}


if __name__ == "__main__":
    sys.exit(main())
