"""A run that is played through beforehand: by hand where one can, and beside Snakemake's DAG."""

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from scion.common.errors import ScionError
from scion.config.simulation.comparison import forecast, lines, simulate
from scion.config.simulation.costs import Assumptions, measured_seconds, simulated_jobs
from scion.config.simulation.events import Cluster, JobStep, SimulatedJob, play
from scion.config.simulation.run_plan import PlannedJob, planned_run, read_plan, write_plan

PROJECT = Path(__file__).parents[2]
FAMILY = Path("config/families/pico.yaml")
ONE = Cluster(nodes=1, cores=8, gpus=1, network=100, disk=1000)


def on_gpu(seconds: float) -> SimulatedJob:
    return SimulatedJob("quantize_nvfp4", (JobStep(seconds=seconds),), gpus=1)


# Played by hand


def test_two_jobs_on_one_gpu_take_turns() -> None:
    jobs = [on_gpu(10), on_gpu(5)]
    assert play(jobs, ONE).spans == ((0, 10), (10, 15))
    assert play(jobs, replace(ONE, gpus=2)).spans == ((0, 10), (0, 5))


def test_a_job_that_fits_nowhere_lets_others_go_before_it() -> None:
    jobs = [on_gpu(10), on_gpu(10), SimulatedJob("lint_source", (JobStep(seconds=1),))]
    assert play(jobs, ONE).spans == ((0, 10), (10, 20), (0, 1))


def test_of_jobs_that_could_start_the_highest_priority_does() -> None:
    jobs = [on_gpu(10), on_gpu(5), replace(on_gpu(1), priority=1)]
    assert play(jobs, ONE).spans == ((1, 11), (11, 16), (0, 1))


def test_a_job_takes_the_cores_and_gpus_of_one_node() -> None:
    cluster = Cluster(nodes=2, cores=8, gpus=2, network=100, disk=1000)
    wide = SimulatedJob("compare_family", (JobStep(seconds=10),), cores=64)
    assert play([wide, wide, wide], cluster).seconds == 20
    with pytest.raises(ScionError, match="a stage wants more GPUs than a node has"):
        play([replace(on_gpu(1), gpus=2)], cluster)


def test_jobs_share_a_rate_alike() -> None:
    """100 a second: both have 50 until the smaller has its 100, then the other has all of it."""
    jobs = [SimulatedJob("fetch_source", (JobStep(network=amount),)) for amount in (300, 100)]
    played = play(jobs, ONE)
    assert [end for _, end in played.spans] == pytest.approx([4, 2])
    assert played.network == pytest.approx(4)
    assert played.disk == 0


def test_a_step_ends_with_the_last_of_its_parts() -> None:
    steps = (JobStep(network=300, disk=300, seconds=1), JobStep(disk=500, seconds=2))
    assert play([SimulatedJob("fetch_source", steps)], ONE).seconds == pytest.approx(5)


def chain() -> list[SimulatedJob]:
    """A source, a stage that links it and one that reads that, and the release."""
    return [
        SimulatedJob("fetch_source", (JobStep(seconds=1),), writes=100),
        SimulatedJob("fix_keys", (JobStep(seconds=1),), (0,), (0,), links=(0,), writes=5),
        SimulatedJob("quantize_nvfp4", (JobStep(seconds=1),), (1,), (1,), writes=30),
        SimulatedJob("graft_mtp", (JobStep(seconds=1),), (2,), (2,), links=(2,), writes=2),
        SimulatedJob("verify_release", (JobStep(seconds=1),), (3, 1), (3, 1), writes=1),
        SimulatedJob(
            "seal_release", (JobStep(seconds=1),), (4,), links=(3,), writes=4, is_kept=True
        ),
    ]


def test_high_water_of_a_chain_by_hand() -> None:
    kept, dropped = (play(chain(), ONE, drops=drops) for drops in (False, True))
    assert (kept.high_water, kept.left) == (142, 142)
    # Source and keys stay until verify_release has read them, though fetch_source is read no more.
    assert dropped.high_water == 100 + 5 + 30 + 2 + 1
    # What the seal has linked, and its own.
    assert dropped.left == 30 + 2 + 4
    assert kept.seconds == dropped.seconds == 6


# What jobs take


def release(name: str, *, first: int = 0, from_hub: bool = True) -> list[PlannedJob]:
    """Three stages of a release whose source has 1,000 bytes."""
    stages = [("fetch_source", 2, 0, 0), ("fix_keys", 0, 0, 0), ("measure_serving", 0, 1, 2)]
    return [
        PlannedJob(
            stage=stage,
            release=name,
            reads=(first + number - 1,) if number else (),
            priority=priority,
            cores=1,
            gpus=gpus,
            made=False,
            from_hub=from_hub,
            servers=servers,
            source=1000,
            rewritten=0,
            quantized=300,
        )
        for number, (stage, priority, gpus, servers) in enumerate(stages)
    ]


def test_a_cached_source_moves_no_bytes() -> None:
    plan, given = release("a"), Assumptions(job_seconds=0)
    fetched, _ = forecast(plan, given, ONE)
    cached, _ = forecast(plan, replace(given, is_cached=True), ONE)
    local, _ = forecast(release("a", from_hub=False), given, ONE)
    assert (fetched.network_bytes, cached.network_bytes, local.network_bytes) == (1000, 0, 0)
    assert cached.high_water == local.high_water == fetched.high_water - 1000
    assert cached.seconds < fetched.seconds


def test_what_is_there_takes_nothing() -> None:
    fetch, keys, served = release("a")
    made, shares = forecast([replace(fetch, made=True), keys, served], Assumptions(), ONE)
    assert made.network_bytes == 0
    assert made.jobs == 2
    assert set(shares) == {"fix_keys", "measure_serving"}


def test_a_slower_network_moves_the_bottleneck() -> None:
    plan = [each for number in range(4) for each in release(f"r{number}", first=3 * number)]
    given = Assumptions(job_seconds=0, measured={"measure_serving": 2.0})
    fast, _ = forecast(plan, given, replace(ONE, network=100_000))
    slow, _ = forecast(plan, given, ONE)
    assert fast.gpu_seconds > fast.network_seconds
    assert slow.gpu_seconds < slow.network_seconds
    assert slow.network_seconds == pytest.approx(40)
    found = simulate(plan, given, ONE)
    assert found.changed["network twice as fast"].seconds < found.run.seconds
    assert found.changed["twice the GPUs"].seconds == pytest.approx(found.run.seconds, rel=0.1)


def test_measured_seconds_take_the_place_of_assumed_ones(tmp_path: Path) -> None:
    for name, seconds in (("a", 10), ("b", 30), ("c", 20)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "measure_serving-00.tsv").write_text(f"s\th:m:s\n{seconds}\t0\n")
    assert measured_seconds(tmp_path) == {"measure_serving": 20}
    given = Assumptions(measured=measured_seconds(tmp_path))
    assert simulated_jobs(release("a"), given)[2].steps == (JobStep(disk=600, seconds=20),)
    told = lines(simulate(release("a"), given, ONE))
    assert "  measured by an earlier run: measure_serving" in told
    (tmp_path / "a" / "fix_keys-00.tsv").write_text("x\n1\n")
    with pytest.raises(ScionError, match="this is no benchmark file of a run"):
        measured_seconds(tmp_path)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", release("a"))
    assert read_plan(tmp_path / "plan.json") == release("a")


# Beside Snakemake


@pytest.mark.slow
def test_the_jobs_are_those_of_snakemakes_dag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    plan = planned_run(FAMILY, cores=2, gpus=0)
    command = [sys.executable, "-m", "snakemake", "-n", "--dag", "dot", "--cores", "2"]
    # Of all releases, whatever is made here.
    command += ["--forceall", "--configfile", str(FAMILY)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    # Colons are escaped; a label goes on with the wildcards where they are new.
    nodes = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)', done.stdout, re.MULTILINE))
    edges = re.findall(r"^\s*(\d+) -> (\d+)", done.stdout, re.MULTILINE)
    expected = Counter((nodes[a], nodes[b]) for a, b in edges if nodes[b] != "all")
    assert Counter(nodes.values()) - Counter(["all"]) == Counter(job.stage for job in plan)
    assert expected == Counter((plan[read].stage, job.stage) for job in plan for read in job.reads)
    # Each comes after those that it reads from.
    assert all(read < place for place, job in enumerate(plan) for read in job.reads)


def test_a_folder_without_a_workflow_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScionError, match="there is no workflow here"):
        planned_run(PROJECT / FAMILY, cores=2, gpus=0)
