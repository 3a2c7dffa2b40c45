"""A run on a cluster beside the same one here: the command, and what came of it."""

import contextlib
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

from project_copy import ProjectCopy
from scion.artifacts.artifact import Artifact

CONFIG = "cluster.yaml"
"""The configuration of such a run."""
UNTIL = ("--until", "verify_release")
SHORT_OF_MEMORY = "quantize_nvfp4:mem_mb=300 if attempt == 1 else 2500"
"""Of `--set-resources`: quantizing gets too little at its first try."""
WITHIN_SECONDS = 1200


def command(*options: str) -> list[str]:
    """The command that makes a release as far as it is checked."""
    snakemake = str(Path(sys.executable).with_name("snakemake"))
    return [snakemake, "--configfile", CONFIG, *UNTIL, *options]


@contextlib.contextmanager
def started(
    command: list[str], project: ProjectCopy, variables: Mapping[str, str]
) -> Generator[subprocess.Popen[str]]:
    """Run a command in a project; it is over when the block is."""
    process = subprocess.Popen(
        command,
        cwd=project.folder,
        env={**variables, "PYTHONPATH": str(project.folder / "workflow")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def contents(project: ProjectCopy) -> dict[tuple[str, str], str]:
    """The content of every artifact that the releases' folders show."""
    shown = sorted((project.folder / "results").glob("pico-*/*.json"))
    artifacts = {file: Artifact.open(file.with_suffix("")) for file in shown}
    assert all(artifact.check() == [] for artifact in artifacts.values())
    return {(file.parent.name, file.stem): each.content for file, each in artifacts.items()}
