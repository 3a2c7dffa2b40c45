"""Runs of the workflow at the same time on one store, and on file systems that lack something.

The conversion stages of the embedded pair, by the project's own rules, in copies of the project.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from project_copy import ProjectCopy
from two_releases import (
    FEWER,
    MORE,
    RELEASE,
    UNTIL,
    both_are_right,
    contents,
    forget,
    nothing,
    run,
    start,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("names", [(MORE, MORE), (MORE, FEWER, MORE, FEWER)], ids=len)
def test_runs_at_once_in_one_checkout(
    project: ProjectCopy, right: dict[str, dict[str, str]], names: tuple[str, ...]
) -> None:
    if FEWER in names:
        shutil.rmtree(project.folder / "results")
    else:
        forget(project, *right[MORE].values())
    runs = [start(project, name) for name in names]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), "".join(said)
    both_are_right(project, right)


def test_two_checkouts_at_once_on_one_store(
    project: ProjectCopy, right: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    projects = [project, ProjectCopy.make(tmp_path / "other")]
    for each in projects:
        each.configure("shared.yaml", store=[str(tmp_path / "shared")])
    runs = [start(each, "shared.yaml") for each in projects]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "".join(said)
    for each in projects:
        assert contents(each) == right[FEWER]
    # Whoever came second waited, or found it.
    logs = [each.log(RELEASE, "quantize_nvfp4") for each in projects]
    assert sum(log.count("estimate for nvfp4_default") for log in logs) == 1
    both = projects[1].run("scion", "store", "verify", "--store", str(tmp_path / "shared"))
    assert both.returncode == 0, both.stdout + both.stderr


# File systems


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many kilobytes, or gives it that size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def sized(kilobytes: int) -> Path:
        nonlocal mounted
        how = f"{'remount,' * mounted}size={kilobytes}k"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", how, "tmpfs", folder], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"only root can mount: {done.stderr}")
        mounted = True
        return folder

    yield sized
    if mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    project: ProjectCopy,
    right: dict[str, dict[str, str]],
    disk: Callable[[int], Path],
    request: pytest.FixtureRequest,
) -> None:
    whole = 26_000
    steps = 20 if request.config.getoption("--every-step") else 3
    stopped = 0
    for step in range(1, steps + 1):
        folder = disk(whole * step // (steps + 1))
        store = folder / f"store-{step}"
        project.configure(FEWER, store=[str(store)])
        done = project.run("snakemake", "--cores", "all", "--configfile", FEWER, *UNTIL)
        said = done.stdout + done.stderr
        if done.returncode:
            stopped += 1
            assert "room on the disk" in said or "no room" in said, said
            assert "Traceback" not in said
        disk(10 * whole)
        run(project, FEWER)
        assert contents(project) == right[FEWER]
        checked = project.run("scion", "store", "verify", "--store", str(store))
        assert checked.returncode == 0, checked.stdout
        shutil.rmtree(project.folder / "results" / RELEASE)
        shutil.rmtree(store)
    assert stopped >= steps // 2
    (project.folder / FEWER).unlink()


NO_LINKS = """
import errno, os
def link(*arguments, **named):
    raise OSError(errno.EPERM, "Operation not permitted")
os.link = link
"""


def test_without_hard_links_files_are_copied_and_digests_are_the_same(
    project: ProjectCopy, right: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    # As vfat and some network file systems answer; Python imports this before anything else.
    (project.folder / "workflow/sitecustomize.py").write_text(NO_LINKS)
    shutil.rmtree(project.folder / "results")
    said = run(project, FEWER)
    assert "quantize_nvfp4" in said
    copied = "no hard links here (Operation not permitted); files are copied"
    assert copied in project.log(RELEASE, "fetch_source")
    nothing(project)
    assert contents(project) == right[FEWER]
    store = project.folder / "results/.store"
    linked = [path for path in store.glob("artifacts/*/*") if path.stat().st_nlink > 1]
    assert linked == []
