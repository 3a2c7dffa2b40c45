"""What the workflow makes of several calibration sets, before any of them is read."""

import json
import re
from pathlib import Path

import pytest

from project_copy import ProjectCopy

CHATS = "resources/pico/calibration.jsonl"
TEXTS = "resources/pico/calibration_texts.jsonl"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    return ProjectCopy.make(tmp_path_factory.mktemp("project"))


def with_sets(tmp_path: Path, *datasets: str) -> tuple[str, str]:
    calibration = {"sets": [{"dataset": dataset} for dataset in datasets]}
    config = tmp_path / "sets.yaml"
    config.write_text(json.dumps({"quantization": {"calibration": calibration}}))
    return "--configfile", str(config)


def test_the_local_files_of_all_sets_are_inputs(project: ProjectCopy, tmp_path: Path) -> None:
    done = project.run("snakemake", "-n", "-p", *with_sets(tmp_path, CHATS, TEXTS))
    inputs = re.search(r"rule quantize_nvfp4:\n +input: (.*)", done.stdout)
    assert inputs, done.stdout + done.stderr
    assert {CHATS, TEXTS} <= set(inputs[1].split(", "))


def test_a_second_set_that_is_missing_is_named(project: ProjectCopy, tmp_path: Path) -> None:
    done = project.run("snakemake", "-n", *with_sets(tmp_path, CHATS, "absent.jsonl"))
    assert done.returncode != 0
    assert "quantization.calibration.sets.1.dataset: the data are not there" in done.stderr
    assert "absent.jsonl" in done.stderr


def test_a_second_set_that_is_not_pinned_stops_the_run(
    project: ProjectCopy, tmp_path: Path
) -> None:
    options = with_sets(tmp_path, CHATS, "hf://datasets/owner/data@main")
    done = project.run("snakemake", "--cores", "1", *options)
    assert done.returncode != 0
    assert "hf://datasets/owner/data@main" in done.stderr
    assert "scion pin" in done.stderr
    assert not (project.folder / "results").exists()
