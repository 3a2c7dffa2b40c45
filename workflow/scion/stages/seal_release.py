"""Seal the release: the checkpoint, its card, and the proof of both, hashed once more as a whole.

Beside the weights the folder holds `provenance/<stage>.json`, the manifest of every stage, and
`provenance/results/`, what was measured, so that a reader who has only the folder can follow each
digest to the source and each number to its record, answers and timings included. The card's
pictures lie in `pictures/`. `SHA256SUMS` is for readers without Scion.
Every file is hashed from its bytes: one that was edited after its stage had finished is refused.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from scion.artifacts.artifact import MANIFEST, TENSORS, Artifact, Draft, remake
from scion.artifacts.release_check import PROVENANCE, RESULTS
from scion.common.errors import ScionError
from scion.common.files import atomic_file, copy_file, link_or_copy
from scion.stages.common_options import run_stage, stage_parser

SUMS = "SHA256SUMS"
PICTURES = "pictures"
_KINDS = (".json", ".jsonl")


def seal_release(
    *,
    release: Artifact,
    card: Artifact,
    evidence: Mapping[str, Artifact],
    output: Path,
    environment: str,
) -> Artifact:
    """Put the folder together that is published.

    Args:
        release: The verified checkpoint.
        card: The model card and its pictures.
        evidence: The artifacts of all other stages, by stage.
        output: The release folder.
        environment: Identity of the locked environment.

    Raises:
        ScionError: A file is not what the stage that wrote it recorded.
    """
    stages = {**evidence, "graft_mtp": release, "render_card": card}

    def build(draft: Draft) -> None:
        (draft.folder / RESULTS).mkdir(parents=True)
        for name in release.files:
            if name != TENSORS:
                # Small files are copied: people edit those of a folder that they publish, and a
                # hard link would carry the edit into the stage's own artifact.
                place = link_or_copy if name.endswith(".safetensors") else copy_file
                place(release.folder / name, draft.folder / name)
        for name in card.files:
            target = draft.folder / name
            target.parent.mkdir(exist_ok=True)
            copy_file(card.folder / name, target)
        for stage, artifact in stages.items():
            copy_file(artifact.folder / MANIFEST, draft.folder / PROVENANCE / f"{stage}.json")
        for artifact in evidence.values():
            for name in _reports(artifact):
                copy_file(artifact.folder / name, draft.folder / RESULTS / name)
        draft.hash_files()
        recorded = {**release.files, **card.files}
        recorded |= {
            f"{RESULTS}/{name}": artifact.files[name]
            for artifact in evidence.values()
            for name in _reports(artifact)
        }
        _check_recorded(draft, recorded)
        with atomic_file(draft.folder / SUMS) as file:
            for name, entry in sorted(draft.files.items()):
                file.write(f"{entry['sha256']}  {name}\n".encode())
        draft.facts |= {"weights": release.root, "card": card.root}

    return remake(
        output,
        stage="seal_release",
        inputs=stages,
        settings={},
        environment=environment,
        build=build,
    )


def _reports(artifact: Artifact) -> list[str]:
    """The result files of a stage that measures; a stage with weights has none."""
    if TENSORS in artifact.files:
        return []
    return [name for name in artifact.files if name.endswith(_KINDS)]


def _check_recorded(draft: Draft, recorded: Mapping[str, Mapping[str, object]]) -> None:
    for name, entry in draft.files.items():
        if name in recorded and entry != recorded[name]:
            raise ScionError(
                "a file is not what its stage wrote",
                where=name,
                expected=recorded[name]["sha256"],
                found=entry["sha256"],
                hint="it was edited below results/: remove the artifact it stands in and run again",
            )


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(
        __doc__, inputs={"release": "manifest of graft_mtp", "card": "manifest of render_card"}
    )
    add_evidence(parser)
    args = parser.parse_args()
    return run_stage(
        lambda: seal_release(
            release=Artifact.open(args.release),
            card=Artifact.open(args.card),
            evidence=open_evidence(args.evidence),
            output=args.output.parent,
            environment=args.environment,
        )
    )


def add_evidence(parser: argparse.ArgumentParser) -> None:
    """Add `--evidence`, the manifests of the other stages."""
    parser.add_argument(
        "--evidence",
        required=True,
        nargs="+",
        type=Path,
        metavar="MANIFEST",
        help="manifests of all other stages, in any order",
    )


def open_evidence(paths: list[Path]) -> dict[str, Artifact]:
    """The artifacts by stage."""
    artifacts = [Artifact.open(path) for path in paths]
    return {artifact.manifest["stage"]: artifact for artifact in artifacts}


if __name__ == "__main__":
    sys.exit(main())
