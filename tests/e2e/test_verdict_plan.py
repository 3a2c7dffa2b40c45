"""Plans with a verdict and without: the source is asked what the release is asked, and no more."""

import re
from pathlib import Path
from typing import Any

import pytest

from project_copy import QUICK, ProjectCopy

SOURCE = {"run_agent_tasks_source", "evaluate_ifeval_source", "evaluate_bfcl_source"}
JUDGING = {"judge_release", "render_verdict"}


@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        ({}, set[str]()),
        ({"verdict": {"enabled": True}}, SOURCE | JUDGING),
        (
            {"verdict": {"enabled": True}, "bfcl": {"enabled": False}},
            SOURCE - {"evaluate_bfcl_source"} | JUDGING,
        ),
    ],
)
def test_stages_of_a_verdict(tmp_path: Path, settings: dict[str, Any], stages: set[str]) -> None:
    project = ProjectCopy.make(tmp_path)
    project.configure(QUICK, **settings)
    done = project.run("snakemake", "-n", "--configfile", QUICK)
    assert done.returncode == 0, done.stderr
    planned = set(re.findall(r"^  (\w+) ", done.stdout, re.MULTILINE))
    assert "seal_release" in planned
    assert planned & (SOURCE | JUDGING) == stages


def test_a_threshold_of_the_verdict_asks_the_source_nothing_anew(tmp_path: Path) -> None:
    """The key of what the source is asked does not hold the thresholds."""
    project = ProjectCopy.make(tmp_path)
    keys: list[dict[str, str]] = []
    for points in (5, 6):
        project.configure(QUICK, verdict={"enabled": True, "agent_loss_points": points})
        done = project.run("snakemake", "-n", "--printshellcmds", "--configfile", QUICK)
        # What judges the weights is the proof that the release is verified by.
        assert re.search(
            r"--verify-release \S+/verify_release-\w+\.json", done.stdout + done.stderr
        )
        found = re.findall(r"\.pointers/(\w+)-([0-9a-f]{16})\.json", done.stdout + done.stderr)
        keys.append(dict(found))
    first, second = keys
    assert set(first) >= SOURCE | JUDGING, done.stdout
    for stage in SOURCE:
        assert first[stage] == second[stage]
    assert first["judge_release"] != second["judge_release"]
