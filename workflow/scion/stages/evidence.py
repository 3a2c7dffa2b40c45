"""The option of stages that read the artifacts of all others: the card, the seal."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from scion.artifacts.artifact import Artifact
from scion.artifacts.store.store import Store


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
