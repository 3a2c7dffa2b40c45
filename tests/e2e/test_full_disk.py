"""A scratch disk that is full, as a node may have one: said, nothing half made, gone on with."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from project_copy import ProjectCopy


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_said_and_a_larger_one_goes_on(small_disk: Path, tmp_path: Path) -> None:
    project = ProjectCopy.make(tmp_path / "project")
    project.configure("full.yaml", store=[str(small_disk / "store")])
    run = ("snakemake", "--cores", "all", "--configfile", "full.yaml", "--until", "lint_source")
    full = project.run(*run)
    assert full.returncode == 1
    assert "error: the store can't be written" in full.stderr
    assert "expected: room on the disk" in full.stderr
    assert "Traceback" not in full.stderr
    store = small_disk / "store"
    assert not list((store / "work").iterdir())
    assert not list(store.rglob("*.safetensors"))
    assert not list((project.folder / "results").rglob("fetch_source-*.json"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    done = project.run(*run)
    assert done.returncode == 0, done.stdout + done.stderr
    verified = project.run("scion", "store", "verify", "--store", str(store))
    assert verified.returncode == 0, verified.stdout + verified.stderr
