"""Two spellings of one release in the workflow: quantized once."""

import json

import pytest

from project_copy import QUICK, ProjectCopy
from scion.artifacts.artifact import Artifact

RELEASE = "pico-agent-nvfp4-text-mtp"
WANTED = ("--configfile", QUICK, "--until", "verify_release")


@pytest.fixture(scope="module")
def project(
    converted_project: ProjectCopy, tmp_path_factory: pytest.TempPathFactory
) -> ProjectCopy:
    """A project that has a verified release, and now wants it in the other spelling."""
    copied = converted_project.copy(tmp_path_factory.mktemp("project"))
    copied.configure(QUICK, spelling="compressed-tensors")
    return copied


def test_the_other_spelling_needs_no_quantization(project: ProjectCopy) -> None:
    assert project.planned(*WANTED) == {"respell", "graft_mtp", "verify_release"}
    before = Artifact.open(project.folder / "results" / RELEASE / "quantize_nvfp4")
    done = project.run("snakemake", "--cores", "all", *WANTED)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert project.planned(*WANTED) == set()
    release = Artifact.open(project.folder / "results" / RELEASE / "graft_mtp")
    assert release.manifest["made_from"]["quantized"]["stage"] == "respell"
    declared = json.loads((release.folder / "config.json").read_bytes())["quantization_config"]
    assert declared["quant_method"] == "compressed-tensors"
    after = Artifact.open(project.folder / "results" / RELEASE / "quantize_nvfp4")
    assert after.root == before.root


def test_modelopt_s_spelling_is_found_again(project: ProjectCopy) -> None:
    project.configure(QUICK)
    assert project.planned(*WANTED) == set()


def test_an_engine_that_does_not_read_it_stops_the_plan(project: ProjectCopy) -> None:
    engines = {"engines": ["tensorrt-llm"]}
    project.configure(QUICK, spelling="compressed-tensors", lint=engines)
    done = project.run("snakemake", "-n", *WANTED)
    assert done.returncode != 0
    assert "tensorrt-llm 1.0.0 is not known to read compressed-tensors" in done.stderr
