"""What each job of a run moves, writes and computes.

Bytes follow from the headers of the sources. Seconds are what stages took before: those of the
benchmark files of an earlier run where it is named, else those of a record or a guess, each of
which is an assumption that `assumptions` lists.
"""

import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scion.artifacts.config import Scratch
from scion.artifacts.plan import RESULTS
from scion.artifacts.scratch import earlier_readers
from scion.artifacts.store.dropped import READ_RECORDS
from scion.common.errors import ScionError
from scion.config.simulation.events import JobStep, SimulatedJob
from scion.config.simulation.run_plan import PlannedJob

GIGABYTE = 1_000_000_000
# docs/measurements/qwen3.6-27b-shape-h100.json: of a 27B on one H100, all files in memory.
_RECORDED = {"measure_serving": 119.0, "quantize_nvfp4": 134.0}
_START, _VERIFIED, _QUANTIZED = 262.0, 0.6 * GIGABYTE, 0.354
_HEAD = 0.0153
# Of eight cores.
_HASHED = 2.1 * GIGABYTE
_GUESSED = {
    "run_agent_tasks": 600.0,
    "evaluate_quality": 300.0,
    "evaluate_ifeval": 1800.0,
    "evaluate_bfcl": 3600.0,
    "evaluate_images": 600.0,
    "sample_replies": 1800.0,
    "heal_mtp": 3600.0,
    "run_agent_tasks_source": 600.0,
    "evaluate_ifeval_source": 1800.0,
    "evaluate_bfcl_source": 3600.0,
    # Of each release in each round.
    "compare_family": 120.0,
    "compare_recipes": 3600.0,
}
_FETCHES = ("fetch_source", "fetch_base")
# What a stage's artifact has of the files of those before it.
_LINKED: Mapping[str, tuple[str, ...]] = {
    "fix_keys": _FETCHES,
    "extract_text": ("fix_keys",),
    "graft_mtp": ("quantize_nvfp4", "respell"),
    "heal_mtp": ("graft_mtp",),
    "quantize_mtp": ("heal_mtp",),
    "seal_release": ("graft_mtp", "heal_mtp", "quantize_mtp", "render_card"),
    "sign_release": ("seal_release",),
}


@dataclass(frozen=True)
class Assumptions:
    """What a simulation takes for granted of jobs.

    Attributes:
        unseen: Bytes of a source that can't be looked at.
        job_seconds: What each job takes beside its work: starting, and planning on a cluster.
        is_cached: Whether what is fetched from a hub lies in the user's cache of it, on the disk.
        measured: Seconds of each stage that an earlier run has measured.
        scratch: What the run keeps of weights that no release consists of.
        is_compared: Whether the releases of a family are served in turn to be compared.
    """

    unseen: int = 60 * GIGABYTE
    job_seconds: float = 2.0
    is_cached: bool = False
    measured: Mapping[str, float] = field(default_factory=dict[str, float])
    scratch: Scratch = field(default_factory=Scratch)
    is_compared: bool = True


@dataclass(frozen=True)
class _Sizes:
    """Bytes of a release's checkpoints: source, what of it is rewritten, quantized shards, head."""

    source: int
    rewritten: int
    quantized: int
    head: int


@dataclass(frozen=True)
class _Cost:
    steps: tuple[JobStep, ...] = ()
    writes: int = 0


def simulated_jobs(plan: Sequence[PlannedJob], given: Assumptions) -> list[SimulatedJob]:
    """What each job of a plan takes; one whose artifact is there already takes nothing.

    Args:
        plan: Each job after those that it reads from.
        given: What is taken for granted.
    """
    found: list[SimulatedJob] = []
    waits: Mapping[int, Sequence[int]] = {}
    if given.scratch.sources is not None:
        names, reads = [job.stage for job in plan], [job.reads for job in plan]
        waits = earlier_readers(names, reads, given.scratch.sources)
    for place, job in enumerate(plan):
        needs = job.reads if job.stage not in READ_RECORDS else ()
        linked = _LINKED.get(job.stage, ())
        links = tuple(read for read in job.reads if plan[read].stage in linked)
        cost = _Cost() if job.made else _cost(job, given)
        if job.stage == "compare_family" and not given.is_compared:
            cost = _Cost()
        found.append(
            SimulatedJob(
                stage=job.stage,
                steps=cost.steps,
                after=(*job.reads, *waits.get(place, ())),
                needs=needs,
                links=links,
                cores=job.cores,
                gpus=job.gpus,
                priority=job.priority,
                writes=cost.writes,
                is_kept=job.stage in RESULTS,
            )
        )
    return found


def _cost(job: PlannedJob, given: Assumptions) -> _Cost:
    source = given.unseen if job.source is None else job.source
    quantized = round(_QUANTIZED * source) if job.quantized is None else job.quantized
    size = _Sizes(source, job.rewritten, quantized, round(_HEAD * source))
    cost = _ROWS.get(job.stage, _served if job.servers else _light)(job, size, given)
    begin = JobStep(seconds=given.job_seconds)
    if job.stage not in given.measured:
        return _Cost((begin, *cost.steps), cost.writes)
    # What was measured has all of it in one; bytes still take their time where a disk is slow.
    network, disk = (sum(getattr(s, name) for s in cost.steps) for name in ("network", "disk"))
    return _Cost((JobStep(network, disk, given.measured[job.stage]),), cost.writes)


_Row = Callable[[PlannedJob, _Sizes, Assumptions], _Cost]


def _fetched(job: PlannedJob, size: _Sizes, given: Assumptions) -> _Cost:
    hashed = JobStep(disk=size.source, seconds=size.source / _HASHED)
    if given.is_cached or not job.from_hub:
        # By clone or hard link.
        return _Cost((hashed,))
    return _Cost((JobStep(network=size.source, disk=size.source), hashed), size.source)


def _fetched_head(job: PlannedJob, size: _Sizes, given: Assumptions) -> _Cost:
    moved = 0 if given.is_cached or not job.from_hub else size.head
    return _Cost((JobStep(network=moved, disk=size.head),), size.head)


def _extracted(job: PlannedJob, size: _Sizes, given: Assumptions) -> _Cost:
    moved = 2 * size.rewritten
    return _Cost((JobStep(disk=moved, seconds=size.rewritten / _HASHED),), size.rewritten)


def _quantized(job: PlannedJob, size: _Sizes, given: Assumptions) -> _Cost:
    seconds = _RECORDED["quantize_nvfp4"]
    return _Cost((JobStep(disk=size.source + size.quantized, seconds=seconds),), size.quantized)


def _respelled(job: PlannedJob, size: _Sizes, given: Assumptions) -> _Cost:
    seconds = size.quantized / _HASHED
    return _Cost((JobStep(disk=2 * size.quantized, seconds=seconds),), size.quantized)


def _head(job: PlannedJob, size: _Sizes, given: Assumptions) -> _Cost:
    return _Cost((JobStep(disk=2 * size.head),), size.head)


def _healed(job: PlannedJob, size: _Sizes, given: Assumptions) -> _Cost:
    read = size.quantized + size.head
    return _Cost((JobStep(disk=read + size.head, seconds=_GUESSED["heal_mtp"]),), size.head)


def _verified(job: PlannedJob, size: _Sizes, given: Assumptions) -> _Cost:
    read = size.source + size.quantized
    return _Cost((JobStep(disk=read, seconds=read / _VERIFIED),))


def _served(job: PlannedJob, size: _Sizes, given: Assumptions) -> _Cost:
    """Servers that load the release, or what it is compared with, and are asked."""
    loaded = job.servers * (size.source if job.stage.endswith("_source") else size.quantized)
    if job.stage in ("evaluate_quality", "evaluate_images"):
        # Half of them serve the source.
        loaded = job.servers // 2 * (size.source + size.quantized)
    seconds = {**_GUESSED, **_RECORDED}.get(job.stage, 0.0)
    times = job.servers if job.stage in ("compare_family", "measure_serving") else 1
    return _Cost((JobStep(disk=loaded), JobStep(seconds=job.servers * _START + times * seconds)))


def _light(job: PlannedJob, size: _Sizes, given: Assumptions) -> _Cost:
    return _Cost()


_ROWS: Mapping[str, _Row] = {
    **dict.fromkeys(_FETCHES, _fetched),
    "fetch_donor": _fetched_head,
    "extract_text": _extracted,
    "quantize_nvfp4": _quantized,
    "respell": _respelled,
    **dict.fromkeys(("graft_mtp", "quantize_mtp"), _head),
    "heal_mtp": _healed,
    "verify_release": _verified,
}


def measured_seconds(folder: Path) -> dict[str, float]:
    """The median of what each stage took in an earlier run.

    Args:
        folder: Its `benchmarks`, which Snakemake has written: a table of each job.

    Raises:
        ScionError: There are none.
    """
    found: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*/*.tsv")):
        stage = path.stem.partition("-")[0]
        try:
            rows = list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))
            found.setdefault(stage, []).extend(float(row["s"]) for row in rows)
        except (KeyError, ValueError, UnicodeDecodeError) as error:
            raise ScionError(
                "this is no benchmark file of a run",
                where=path,
                expected="a table with a column s, as Snakemake writes it",
                found=repr(error),
                hint="name the folder benchmarks of a run",
            ) from error
    if not any(found.values()):
        raise ScionError(
            "there is no benchmark file of a run",
            where=folder,
            expected="<release>/<stage>-<key>.tsv, as a run writes them",
            found="none",
            hint="name the folder benchmarks of a run",
        )
    return {stage: statistics.median(seconds) for stage, seconds in found.items() if seconds}


def assumptions(plan: Sequence[PlannedJob], given: Assumptions) -> list[str]:
    """What a simulation of a plan takes for granted, a sentence each."""
    left = [job for job in plan if not job.made]
    stages = {job.stage for job in left}
    unseen = sum(job.source is None for job in left if job.stage in _FETCHES)
    said: list[str] = []
    if given.is_cached:
        said.append("what is fetched from a hub lies in the user's cache, on the same disk")
    if unseen:
        said.append(
            f"{unseen} checkpoints can't be looked at here: taken to be"
            f" {given.unseen / GIGABYTE:g} GB each, their quantized shards {_QUANTIZED:g} of that,"
            " and no shard to hold the language model beside other parts"
        )
    said.append(f"an MTP head is {_HEAD:.4f} of its source, as that of Qwen3.6-27B is")
    if measured := sorted(stages & set(given.measured)):
        said.append(f"measured by an earlier run: {', '.join(measured)}")
    for words, table in (("as a 27B took on an H100", _RECORDED), ("guessed", _GUESSED)):
        listed = [
            f"{stage} {seconds:g} s"
            for stage, seconds in table.items()
            if stage in stages and stage not in given.measured
        ]
        if listed:
            said.append(f"{words}: {', '.join(listed)}")
    if any(job.servers and job.stage not in given.measured for job in left):
        said.append(f"a server starts in {_START:g} s, as that of a 27B did on an H100")
    said += [
        f"hashing {_HASHED / GIGABYTE:g} GB/s a job, verifying {_VERIFIED / GIGABYTE:g} GB/s",
        f"{given.job_seconds:g} s a job to start",
        "every read comes from the disk, none from the page cache; all jobs share its rate alike,"
        " and that of the network",
        "files that a stage passes on are hard links or clones",
        "of jobs of one priority those with the fewest stages before them go first; Snakemake"
        " may choose others",
    ]
    return said
