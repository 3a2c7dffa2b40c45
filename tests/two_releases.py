"""Projects in which the conversion was run for two configurations, and what is asked of them.

FEWER and MORE calibrate with another number of samples. The fixtures are those of
`tests/e2e/conftest.py`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from project_copy import QUICK, ProjectCopy
from scion.artifacts.artifact import Artifact

RELEASE = "pico-agent-nvfp4-text-mtp"
STAGES = (
    *("fetch_source", "fetch_donor", "lint_source", "fix_keys", "extract_text"),
    *("quantize_nvfp4", "graft_mtp", "verify_release"),
)
BELOW_QUANTIZE = {"quantize_nvfp4", "graft_mtp", "verify_release"}
UNTIL = ("--until", "verify_release")
FEWER, MORE = QUICK, "more.yaml"


def run(project: ProjectCopy, name: str, *options: str) -> str:
    done = project.run("snakemake", "--cores", "all", "--configfile", name, *UNTIL, *options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return done.stdout + done.stderr


def from_store(said: str) -> set[str]:
    """The stages whose line in a run says that the store had what they were asked for."""
    return set(re.findall(r"^(\w+) .*, from the store$", said, re.MULTILINE))


def contents(project: ProjectCopy) -> dict[str, str]:
    """The content of each stage's artifact, as the folder of results shows it."""
    results = project.folder / "results" / RELEASE
    shown = {stage: Artifact.open(results / stage) for stage in STAGES}
    assert all(artifact.check() == [] for artifact in shown.values())
    return {stage: artifact.content for stage, artifact in shown.items()}


def verify(project: ProjectCopy) -> None:
    done = project.run("scion", "store", "verify")
    assert done.returncode == 0, done.stdout + done.stderr


def forget(project: ProjectCopy, *contents: str) -> None:
    """Let nothing in a project know any more what gave these contents, or keep them."""
    results = project.folder / "results"
    for named in (*results.glob(".store/records/*.json"), *results.glob("*/.pointers/*.json")):
        if json.loads(named.read_text())["content"] in contents:
            named.unlink()
    prune(project)


def prune(project: ProjectCopy) -> None:
    done = project.run("scion", "store", "prune")
    assert done.returncode == 0, done.stdout + done.stderr


def both_are_right(project: ProjectCopy, right: dict[str, dict[str, str]]) -> None:
    """The same command, then that of the older configuration: each gives its own."""
    for name in (MORE, FEWER):
        run(project, name)
        assert contents(project) == right[name]


def nothing(project: ProjectCopy) -> None:
    assert project.planned("--configfile", FEWER, *UNTIL) == set()


def start(project: ProjectCopy, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).with_name("snakemake"), "--cores", "2", "--configfile", name, *UNTIL],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(project.folder / "workflow")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
