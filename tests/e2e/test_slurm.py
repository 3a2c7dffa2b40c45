"""The workflow on a real Slurm: releases at once, a node drained, a job ended for its memory.

What the cluster makes goes to a bucket of a real S3 server as well, from which another machine
takes all of it.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import setup_slurm
from cluster_run import CONFIG, SHORT_OF_MEMORY, UNTIL, WITHIN_SECONDS, command, contents, started
from conversion import SAMPLES
from project_copy import ProjectCopy
from s3_server import BUCKET, S3Server, s3_server
from slurm_cluster import Node, SlurmCluster, slurm_cluster
from two_releases import STAGES, from_store

pytestmark = [
    pytest.mark.skipif(setup_slurm.find_slurm() is None, reason="no Slurm could be unpacked"),
    pytest.mark.slow,
    # Snakemake's plugin looks for what has ended more and more seldom.
    pytest.mark.timeout(1500),
]

FIRST, SECOND = "pico-agent-nvfp4-text-mtp", "pico-agent-nvfp4-text-mtp-ct"
FETCHED = ("fetch_source", "fetch_donor", "lint_source", "fix_keys", "extract_text")
"""What is done where the cluster is logged in to, before its jobs."""
SHARED = f"s3://{BUCKET}/releases"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    folder = tmp_path_factory.mktemp("slurm")
    # More processors than there are: Slurm deals out what it is told that it has.
    nodes = {"first": Node(4, 9000), "second": Node(4, 9000)}
    with slurm_cluster(folder / "cluster", nodes) as started:
        yield started


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


def configure(project: ProjectCopy, *elsewhere: str) -> None:
    """Two releases of one model, in two spellings, calibrated as none was before.

    Args:
        project: Where.
        elsewhere: The second place of the store, if there is one.
    """
    project.configure(
        CONFIG,
        samples=SAMPLES + 1,
        store=["results/.store", *elsewhere],
        family={"name": "both", "title": "Both", "baseline": FIRST},
        releases=[{"release": FIRST}, {"release": SECOND, "spelling": "compressed-tensors"}],
    )


def drain_while_it_works(cluster: SlurmCluster, process: subprocess.Popen[str]) -> str:
    """Drain the node that has the first job of the run; a drained one ends what it has begun."""
    deadline = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        running = [job for job in cluster.jobs() if job["JobState"] == "RUNNING"]
        if running:
            name = running[0]["NodeList"]
            cluster.control("update", f"nodename={name}", "state=drain", "reason=maintenance")
            return name
        time.sleep(0.5)
    pytest.fail("no job began")


def share_what_is_fetched(project: ProjectCopy, s3: S3Server) -> None:
    """Let the stages before quantizing give what the store has of them to its second place."""
    for stage in FETCHED:
        for pointer in project.folder.glob(f"results/{FIRST}/.pointers/{stage}-*.json"):
            pointer.unlink()
    until = ("--until", "fetch_donor", "extract_text")
    options = ("--cores", "2", "--configfile", CONFIG, *until)
    done = project.run("snakemake", *options, **s3.environment("writer"))
    assert done.returncode == 0, done.stderr
    assert from_store(done.stdout + done.stderr) == set(FETCHED)


def in_bucket(s3: S3Server) -> dict[str, int]:
    """The size of every object that the cluster's jobs may have written."""
    found = s3.files().find(SHARED.removeprefix("s3://"), detail=True)
    return {name: entry["size"] for name, entry in found.items()}


def test_releases_are_made_on_a_cluster_as_they_are_here(
    cluster: SlurmCluster, s3: S3Server, converted_project: ProjectCopy, tmp_path: Path
) -> None:
    # In both the source is fetched and repaired: what follows takes minutes enough on a cluster.
    here, there = (converted_project.copy(tmp_path / name) for name in ("here", "there"))
    # Now, lest somebody edits the project meanwhile.
    elsewhere = ProjectCopy.make(tmp_path / "elsewhere")
    configure(here)
    configure(there, SHARED)
    share_what_is_fetched(there, s3)
    before = in_bucket(s3)
    options = ["--profile", "profiles/slurm", "--max-threads", "1", "--set-resources"]
    options += [SHORT_OF_MEMORY, "--slurm-status-command", "squeue"]
    options += ["--slurm-init-seconds-before-status-checks", "2"]
    cores = ("--cores", "1")
    with (
        started(
            command(*options), there, {**cluster.environment(), **s3.environment("writer")}
        ) as process,
        started(command(*cores), here, dict(os.environ)) as local,
    ):
        drained = drain_while_it_works(cluster, process)
        drained_at = cluster.jobs()[-1]["JobId"]
        said, _ = process.communicate(timeout=WITHIN_SECONDS)
        assert process.returncode == 0, said[-6000:] + cluster.logs()
        said, _ = local.communicate(timeout=WITHIN_SECONDS)
        assert local.returncode == 0, said[-6000:]
    jobs = cluster.jobs()
    # What began after the node was drained ran on the other: all but the first.
    later = [job for job in jobs if int(job["JobId"]) > int(drained_at)]
    assert len(later) >= 6
    assert all(job["NodeList"] != drained for job in later)
    # The first try was ended for its memory, and nothing else failed.
    (failed,) = (job for job in jobs if job["JobState"] != "COMPLETED")
    assert failed["MinMemoryNode"] == "300M"
    assert "quantize_nvfp4" in failed["Comment"]
    assert "memory limit" in Path(failed["StdOut"]).read_text()
    assert contents(there) == contents(here)
    assert {release for release, _ in contents(there)} == {FIRST, SECOND}
    # Nothing is left of the tries that were killed, and nothing is made twice.
    assert not list((there.folder / "results/.store/work").iterdir())
    plan = there.run("snakemake", "-n", "--configfile", CONFIG, *UNTIL)
    assert plan.returncode == 0, plan.stderr
    assert all(line.startswith("nothing to do: ") for line in plan.stdout.splitlines())
    assert len(in_bucket(s3)) > len(before)
    made = {key: content for key, content in contents(there).items() if key[1] != "fetch_base"}
    takes_all_of_it(elsewhere, s3, made)


def takes_all_of_it(project: ProjectCopy, s3: S3Server, made: dict[tuple[str, str], str]) -> None:
    """A machine that shares nothing but the bucket makes the same releases without any work.

    Its key can't write, so what it made itself would end the run.
    """
    configure(project, SHARED)
    before = in_bucket(s3)
    options = ("--cores", "2", "--configfile", CONFIG, *UNTIL)
    done = project.run("snakemake", *options, **s3.environment("reader"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert from_store(done.stdout + done.stderr) == {*STAGES, "respell"}
    logs = project.folder.glob("logs/pico-*/*.log")
    # Beside each lies a link that has the stage's name alone.
    said = {log.stem: log.read_text() for log in logs if not log.is_symlink()}
    assert len(said) == len({(stage, content) for (_, stage), content in made.items()})
    for name, text in said.items():
        assert f"{name.rpartition('-')[0]}: {SHARED} has it\n" in text
    assert contents(project) == made
    assert in_bucket(s3) == before
