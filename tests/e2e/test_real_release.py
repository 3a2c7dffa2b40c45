"""The published 27B release, planned offline; a real run waits for its commits."""

from pathlib import Path

import pytest

from project_copy import ProjectCopy

CONFIG = "config/releases/carnice-v2-27b-nvfp4-text-mtp.yaml"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    return ProjectCopy.make(tmp_path_factory.mktemp("project"))


def test_it_is_planned_offline_from_one_file(project: ProjectCopy) -> None:
    assert project.planned("--configfile", CONFIG) == {
        "fetch_source",
        "fetch_donor",
        "fetch_base",
        "lint_source",
        "fix_keys",
        "extract_text",
        "quantize_nvfp4",
        "graft_mtp",
        "verify_release",
        "measure_serving",
        "run_agent_tasks",
        "evaluate_quality",
        "evaluate_ifeval",
        "evaluate_bfcl",
        "render_card",
        "seal_release",
    }


def test_a_run_is_refused_with_the_command_that_pins_it(project: ProjectCopy) -> None:
    done = project.run("snakemake", "--cores", "1", "--configfile", CONFIG)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "hf://kai-os/Carnice-V2-27b" in output
    assert f"scion pin {CONFIG}" in output
    assert not list(Path(project.folder, "results").rglob(".pointers/*.json"))
