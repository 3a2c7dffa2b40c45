"""What a run gives must be what its configuration asks for, whatever happened before or meanwhile.

The conversion stages of the embedded pair, by the project's own rules, in copies of the project.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from conversion import SAMPLES
from project_copy import ProjectCopy
from scion.artifacts.artifact import Artifact

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RELEASE = "pico-agent-nvfp4-text-mtp"
STAGES = (
    *("fetch_source", "fetch_donor", "lint_source", "fix_keys", "extract_text"),
    *("quantize_nvfp4", "graft_mtp", "verify_release"),
)
BELOW_QUANTIZE = {"quantize_nvfp4", "graft_mtp", "verify_release"}
UNTIL = ("--until", "verify_release")
FEWER, MORE = "fewer.yaml", "more.yaml"


def configuration(project: ProjectCopy, name: str, samples: int, **values: object) -> None:
    sets = {"sets": [{"samples": samples}]}
    quantization = {"recipe": "nvfp4_default", "calibration": sets}
    content = json.dumps({"quantization": quantization, **values})
    (project.folder / name).write_text(content)


def make(folder: Path) -> ProjectCopy:
    project = ProjectCopy.make(folder)
    configuration(project, FEWER, SAMPLES)
    configuration(project, MORE, SAMPLES + 1)
    return project


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    """A project in which both configurations were made; `contents` of each in `right`."""
    return make(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def right(whole: ProjectCopy) -> dict[str, dict[str, str]]:
    """What undisturbed runs give."""
    found: dict[str, dict[str, str]] = {}
    for name in (MORE, FEWER):
        run(whole, name)
        found[name] = contents(whole)
    assert found[MORE]["quantize_nvfp4"] != found[FEWER]["quantize_nvfp4"]
    return found


@pytest.fixture
def project(
    whole: ProjectCopy, right: dict[str, dict[str, str]], tmp_path: Path
) -> Iterator[ProjectCopy]:
    """A copy of that project, FEWER's release in it; sources and all are its own."""
    copy = make(tmp_path / "project")
    shutil.copytree(whole.folder / "results", copy.folder / "results", symlinks=True)
    run(copy, FEWER)
    yield copy
    verify(copy)


@pytest.fixture
def without_more(project: ProjectCopy, right: dict[str, dict[str, str]]) -> ProjectCopy:
    """The same, and its store has nothing that MORE alone has made."""
    of_more = set(right[MORE].values()) - set(right[FEWER].values())
    results = project.folder / "results"
    for named in (*results.glob(".store/records/*.json"), *results.glob("*/.pointers/*.json")):
        if json.loads(named.read_text())["content"] in of_more:
            named.unlink()
    prune(project)
    return project


def prune(project: ProjectCopy) -> None:
    done = project.run("scion", "store", "prune")
    assert done.returncode == 0, done.stdout + done.stderr


def both_are_right(project: ProjectCopy, right: dict[str, dict[str, str]]) -> None:
    """The same command, then that of the older configuration: each gives its own."""
    for name in (MORE, FEWER):
        run(project, name)
        assert contents(project) == right[name]


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
        shutil.rmtree(project.folder / "results")
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


def nothing(project: ProjectCopy) -> None:
    assert project.planned("--configfile", FEWER, *UNTIL) == set()


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


def forget(project: ProjectCopy) -> None:
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
    "without Snakemake's memory": forget,
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
    configuration(project, "other.yaml", SAMPLES, store=["other-store"])
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
    shutil.rmtree(project.folder / "results")
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
        # What is below stands without it, but a release does not; its rule can be asked for.
        done = project.run("snakemake", stage, "--cores", "all", "--configfile", FEWER)
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


def start(project: ProjectCopy, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).with_name("snakemake"), "--cores", "2", "--configfile", name, *UNTIL],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(project.folder / "workflow")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("names", [(MORE, MORE), (MORE, FEWER, MORE, FEWER)], ids=len)
def test_runs_at_once_in_one_checkout(
    project: ProjectCopy, right: dict[str, dict[str, str]], names: tuple[str, ...]
) -> None:
    shutil.rmtree(project.folder / "results")
    runs = [start(project, name) for name in names]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), "".join(said)
    both_are_right(project, right)


def test_two_checkouts_at_once_on_one_store(
    project: ProjectCopy, right: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    projects = [project, make(tmp_path / "other")]
    for each in projects:
        configuration(each, "shared.yaml", SAMPLES, store=[str(tmp_path / "shared")])
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
        configuration(project, FEWER, SAMPLES, store=[str(store)])
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
