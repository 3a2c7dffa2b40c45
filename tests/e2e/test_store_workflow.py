"""What a run gives must be what its configuration asks for, whatever happened before or meanwhile.

The conversion stages of the embedded pair, by the project's own rules, in copies of the project.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from project_copy import ProjectCopy
from two_releases import (
    BELOW_QUANTIZE,
    FEWER,
    MORE,
    RELEASE,
    STAGES,
    UNTIL,
    both_are_right,
    contents,
    forget,
    from_store,
    nothing,
    run,
    start,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def without_more(project: ProjectCopy, right: dict[str, dict[str, str]]) -> ProjectCopy:
    """The same, and its store has nothing that MORE alone has made."""
    of_more = set(right[MORE].values()) - set(right[FEWER].values())
    forget(project, *of_more)
    return project


def kill_stage(project: ProjectCopy, stage: str) -> None:
    """Start MORE, and kill the process of one stage as soon as it works in the store."""
    command = [Path(sys.executable).with_name("snakemake"), "--cores", "all", "--configfile", MORE]
    with subprocess.Popen(
        [*command, *UNTIL],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(project.folder / "workflow")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not (at_work := stage_processes(process.pid, stage)):
            assert process.poll() is None
            time.sleep(0.02)
        while not any(project.folder.glob("results/.store/work/*/*")):
            assert process.poll() is None
            time.sleep(0.002)
        at_work[0].send_signal(signal.SIGKILL)
        assert process.wait() != 0


def stage_processes(ancestor: int, stage: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.Process(ancestor).children(recursive=True):
        try:
            if process.cmdline()[1:3] == ["-m", f"scion.stages.{stage}"]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_stage_that_is_killed_over_an_older_artifact_does_not_leave_it_for_the_new_one(
    without_more: ProjectCopy, right: dict[str, dict[str, str]]
) -> None:
    kill_stage(without_more, "quantize_nvfp4")
    both_are_right(without_more, right)


def test_a_job_that_fails_after_its_stage_ended_well_mixes_nothing(
    without_more: ProjectCopy,
    right: dict[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As on a full disk below logs/: what writes the log fails, and the job with it.
    tee = tmp_path / "bin/tee"
    tee.parent.mkdir()
    tee.write_text('#!/bin/sh\ncat > "$2"\nexit 1\n')
    tee.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tee.parent}:{os.environ['PATH']}")
        done = without_more.run("snakemake", "--cores", "all", "--configfile", MORE, *UNTIL)
    assert done.returncode != 0
    assert "quantize_nvfp4: sha256" in without_more.log(RELEASE, "quantize_nvfp4")
    assert "error: quantize_nvfp4 ended without a word of its own" in done.stderr
    run(without_more, FEWER)
    assert contents(without_more) == right[FEWER]
    both_are_right(without_more, right)


def edit(path: Path, *, keep_times: bool) -> None:
    """Change the last byte of a shard, in place."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("keep_times", [False, True], ids=["edited", "edited, its date put back"])
def test_a_source_that_is_edited_in_place_is_another_source(
    project: ProjectCopy, right: dict[str, dict[str, str]], keep_times: bool
) -> None:
    shard = next((project.folder / "resources/pico/pico-agent").glob("model-00001*"))
    if keep_times:
        # Its own fetch, for a copy of results has no link to the source.
        forget(project, right[MORE]["fetch_source"])
        fetch = ("--until", "fetch_source", "--configfile", MORE)
        assert project.run("snakemake", "--cores", "all", *fetch).returncode == 0
    edit(shard, keep_times=keep_times)
    run(project, MORE)
    made = contents(project)
    assert made["fetch_source"] != right[MORE]["fetch_source"]
    assert made["extract_text"] != right[MORE]["extract_text"]
    edit(shard, keep_times=False)
    both_are_right(project, right)
    # Where the source is hard-linked, the bytes that it had in between are lost.
    repaired = project.run("scion", "store", "verify", "--repair")
    assert repaired.returncode in (0, 1), repaired.stdout + repaired.stderr
    both_are_right(project, right)


def set_clock_back(project: ProjectCopy) -> None:
    """What is there has dates of three days from now."""
    later = time.time() + 3 * 24 * 3600
    for path in (project.folder / "results").rglob("*"):
        os.utime(path, (later, later), follow_symlinks=False)


def move(project: ProjectCopy) -> None:
    (project.folder / "results").rename(project.folder / "elsewhere")
    (project.folder / "elsewhere").rename(project.folder / "results")


def copy_without_times(project: ProjectCopy) -> None:
    subprocess.run(["cp", "-rd", "results", "copy"], cwd=project.folder, check=True)
    shutil.rmtree(project.folder / "results")
    (project.folder / "copy").rename(project.folder / "results")


def forget_runs(project: ProjectCopy) -> None:
    for name in (".snakemake", "logs"):
        shutil.rmtree(project.folder / name)


def touch_all(project: ProjectCopy) -> None:
    for path in project.folder.rglob("*"):
        if not path.is_symlink() and ".venv" not in path.parts:
            os.utime(path)


UNCHANGED: dict[str, Callable[[ProjectCopy], object]] = {
    "the clock three days back": set_clock_back,
    "moved": move,
    "copied without times": copy_without_times,
    "without Snakemake's memory": forget_runs,
}


@pytest.mark.parametrize("change", UNCHANGED.values(), ids=UNCHANGED)
def test_what_is_there_counts_whatever_dates_and_places_say(
    project: ProjectCopy,
    right: dict[str, dict[str, str]],
    change: Callable[[ProjectCopy], object],
) -> None:
    change(project)
    nothing(project)
    both_are_right(project, right)


def test_a_dry_run_with_another_store_changes_nothing(project: ProjectCopy) -> None:
    project.configure("other.yaml", store=["other-store"])
    before = listing(project.folder / "results")
    assert set(STAGES) <= project.planned("--configfile", "other.yaml", *UNTIL)
    assert listing(project.folder / "results") == before
    assert not (project.folder / "other-store").exists()
    nothing(project)


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_code_that_is_edited_during_a_run_does_not_stand_under_the_old_name(
    project: ProjectCopy, right: dict[str, dict[str, str]]
) -> None:
    stage = project.folder / "workflow/scion/stages/extract_text.py"
    before = stage.read_text()
    # All is asked for anew, though the store has it.
    shutil.rmtree(project.folder / "results" / RELEASE)
    with start(project, FEWER) as run_by_hand:
        while not any((project.folder / "results").glob(f"{RELEASE}/.pointers/fetch_*.json")):
            assert run_by_hand.poll() is None
            time.sleep(0.01)
        stage.write_text(f"{before}\nEDITED = 1\n")
        said = run_by_hand.communicate()[0]
    assert run_by_hand.returncode != 0
    assert "something was edited since the run was planned" in said
    stage.write_text(before)
    run(project, FEWER)
    assert contents(project) == right[FEWER]


def test_touching_everything_makes_nothing_anew(
    project: ProjectCopy, right: dict[str, dict[str, str]]
) -> None:
    touch_all(project)
    said = run(project, FEWER)
    # Whether they changed can't be known before they were read.
    assert "fetch_source" in from_store(said)
    assert "taking" not in project.log(RELEASE, "fetch_source")
    nothing(project)
    assert contents(project) == right[FEWER]


@pytest.mark.parametrize("stage", ["fetch_source", "quantize_nvfp4"])
def test_an_artifact_that_is_gone_is_made_again(
    project: ProjectCopy, right: dict[str, dict[str, str]], stage: str
) -> None:
    place = (project.folder / "results" / RELEASE / stage).resolve()
    shutil.rmtree(place)
    assert stage in project.planned("--configfile", FEWER)
    run(project, FEWER)
    if stage == "quantize_nvfp4":
        # What is below stands without it, but a release does not; its stage can be asked for.
        options = ("--until", stage, "--configfile", FEWER)
        done = project.run("snakemake", "--cores", "all", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        run(project, FEWER)
    assert contents(project) == right[FEWER]


def test_a_comment_plans_nothing_and_a_constant_what_it_reaches(project: ProjectCopy) -> None:
    code = project.folder / "workflow/scion"
    for path in (code / "stages/fix_keys.py", code / "common/errors.py"):
        path.write_text(f"# A remark.\n{path.read_text()}")
    nothing(project)
    packer = code / "formats/packing_kernels.py"
    packer.write_text(f"{packer.read_text()}\n_REVISION = 2\n")
    assert project.planned("--configfile", FEWER, *UNTIL) == BELOW_QUANTIZE


def test_code_that_makes_the_same_bytes_makes_nothing_else_anew(
    project: ProjectCopy, right: dict[str, dict[str, str]]
) -> None:
    stage = project.folder / "workflow/scion/stages/fix_keys.py"
    stage.write_text(f"{stage.read_text()}\n_REVISION = 2\n")
    said = run(project, FEWER)
    assert "fix_keys" not in from_store(said)
    assert {"extract_text", *BELOW_QUANTIZE} <= from_store(said)
    assert contents(project) == right[FEWER]
