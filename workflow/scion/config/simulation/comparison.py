"""What a run takes of a cluster, and what another cluster or another `scratch` would change."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from scion.artifacts.config import Scratch
from scion.common.text import duration, size
from scion.config.simulation.costs import Assumptions, assumptions, simulated_jobs
from scion.config.simulation.events import Cluster, Played, SimulatedJob, play
from scion.config.simulation.run_plan import PlannedJob

_DAY = 86_400


@dataclass(frozen=True)
class RunForecast:
    """What a run takes.

    Attributes:
        jobs: How many are to be run.
        seconds: From the first start to the last end.
        network_bytes: Moved from outside.
        disk_bytes: Read and written.
        network_seconds: In which anything was moved.
        disk_seconds: In which anything was read or written.
        gpu_seconds: Of all GPUs, in which a job held one.
        core_seconds: Of all cores, likewise.
        high_water: Bytes that the run has added to the disk, at the most.
        left: Bytes of it at the end.
    """

    jobs: int
    seconds: float
    network_bytes: int
    disk_bytes: int
    network_seconds: float
    disk_seconds: float
    gpu_seconds: float
    core_seconds: float
    high_water: int
    left: int


@dataclass(frozen=True)
class StageShare:
    """What the jobs of a stage take together: their number, seconds, and seconds of GPUs."""

    jobs: int
    seconds: float
    gpu_seconds: float


def forecast(
    plan: Sequence[PlannedJob], given: Assumptions, cluster: Cluster
) -> tuple[RunForecast, Mapping[str, StageShare]]:
    """Play a plan through.

    Args:
        plan: Each job after those that it reads from.
        given: What is taken for granted.
        cluster: Where it runs.

    Returns:
        The forecast, and the share of each stage in the order of the plan.

    Raises:
        ScionError: As `play`.
    """
    jobs = simulated_jobs(plan, given)
    played = play(jobs, cluster, drops=given.scratch.drop_weights)
    steps = [step for job in jobs for step in job.steps]
    made = sum(bool(job.steps) for job in jobs)
    shares = _shares(jobs, played)
    cores = max(1, cluster.cores // cluster.nodes)
    held = zip(jobs, played.spans, strict=True)
    found = RunForecast(
        jobs=made,
        seconds=played.seconds,
        network_bytes=sum(step.network for step in steps),
        disk_bytes=sum(step.disk for step in steps),
        network_seconds=played.network,
        disk_seconds=played.disk,
        gpu_seconds=sum(share.gpu_seconds for share in shares.values()),
        core_seconds=sum(min(job.cores, cores) * (end - begin) for job, (begin, end) in held),
        high_water=played.high_water,
        left=played.left,
    )
    return found, shares


def _shares(jobs: Sequence[SimulatedJob], played: Played) -> dict[str, StageShare]:
    spans: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for job, (begin, end) in zip(jobs, played.spans, strict=True):
        if job.steps:
            spans[job.stage].append((end - begin, job.gpus))
    return {
        stage: StageShare(
            len(held), sum(held_for for held_for, _ in held), sum(s * gpus for s, gpus in held)
        )
        for stage, held in spans.items()
    }


_Change = Callable[[Assumptions, Cluster], tuple[Assumptions, Cluster]]
_CHANGES: Mapping[str, _Change] = {
    "network twice as fast": lambda a, c: (a, replace(c, network=2 * c.network)),
    "disk twice as fast": lambda a, c: (a, replace(c, disk=2 * c.disk)),
    "twice the GPUs": lambda a, c: (a, replace(c, gpus=2 * c.gpus)),
    "what is fetched is cached": lambda a, c: (replace(a, is_cached=True), c),
    "no comparison of the family": lambda a, c: (replace(a, is_compared=False), c),
}


def _scratches(cluster: Cluster) -> dict[str, Scratch]:
    """What `scratch` may say, by name: sources for two releases a GPU keep all of them at work."""
    few = 2 * cluster.gpus or 4
    return {
        "scratch: nothing": Scratch(),
        "scratch: drop_weights": Scratch(drop_weights=True),
        f"scratch: sources: {few}": Scratch(sources=few),
        "scratch: both of these": Scratch(drop_weights=True, sources=few),
    }


@dataclass(frozen=True)
class Simulation:
    """A forecast with its alternatives.

    Attributes:
        cluster: Where it runs.
        run: The run as it is planned.
        shares: What each stage takes of it.
        changed: By what is changed, the run then.
        assumed: What is taken for granted.
    """

    cluster: Cluster
    run: RunForecast
    shares: Mapping[str, StageShare]
    changed: Mapping[str, RunForecast]
    assumed: Sequence[str]

    def record(self) -> dict[str, Any]:
        """The simulation as JSON."""
        return asdict(self)


def simulate(plan: Sequence[PlannedJob], given: Assumptions, cluster: Cluster) -> Simulation:
    """Forecast a run, and what each change by itself would make of it.

    Args:
        plan: Each job after those that it reads from.
        given: What is taken for granted.
        cluster: Where it runs.

    Raises:
        ScionError: As `forecast`.
    """
    run, shares = forecast(plan, given, cluster)
    stages = {job.stage for job in plan}
    changed: dict[str, RunForecast] = {}
    for name, change in _CHANGES.items():
        if ("GPU" in name and not cluster.gpus) or (
            "family" in name and "compare_family" not in stages
        ):
            continue
        assumed, other = change(given, cluster)
        changed[name], _ = forecast(plan, assumed, other)
    for name, scratch in _scratches(cluster).items():
        if scratch != given.scratch:
            changed[name], _ = forecast(plan, replace(given, scratch=scratch), cluster)
    return Simulation(cluster, run, shares, changed, assumptions(plan, given))


def lines(found: Simulation) -> list[str]:
    """The simulation for people."""
    run, cluster = found.run, found.cluster
    gpus = f"{cluster.gpus} GPUs, " if cluster.gpus else ""
    nodes = f" of {cluster.nodes} nodes" if cluster.nodes > 1 else ""
    said = [
        f"{run.jobs:,} jobs on {gpus}{cluster.cores} cores{nodes}: {_long(run.seconds)}",
        f"  network {size(run.network_bytes)} at {size(cluster.network)}/s,"
        f" disk {size(run.disk_bytes)} at {size(cluster.disk)}/s",
        f"  added to the disk {size(run.high_water)} at the most, {size(run.left)} at the end",
        "",
        "busy                   of the time",
    ]
    for name, part in _busy(run, cluster):
        said.append(f"  {name:20}{part:11.1%}")
    said += ["", f"{'stage':26}{'jobs':>7}{'each':>14}{'together':>14}{'GPU hours':>11}"]
    for stage, share in found.shares.items():
        gpu_hours = f"{share.gpu_seconds / 3600:11,.1f}" if share.gpu_seconds else f"{'':11}"
        each = duration(share.seconds / share.jobs)
        said.append(f"{stage:26}{share.jobs:7,}{each:>14}{_long(share.seconds):>14}{gpu_hours}")
    said += ["", f"{'if':38}{'time':>14}{'network':>14}{'disk, at most':>15}"]
    for name, other in {"as planned": run, **found.changed}.items():
        said.append(
            f"{name:38}{_long(other.seconds):>14}{size(other.network_bytes):>14}"
            f"{size(other.high_water):>15}"
        )
    return [*said, "", "taken for granted:", *(f"  {each}" for each in found.assumed)]


def _busy(run: RunForecast, cluster: Cluster) -> list[tuple[str, float]]:
    """Of the whole time, the part in which each resource was used."""
    seconds = max(run.seconds, 1e-9)
    found = [
        ("network", run.network_seconds / seconds),
        ("disk", run.disk_seconds / seconds),
        ("cores", run.core_seconds / seconds / cluster.cores),
    ]
    if cluster.gpus:
        found.insert(0, ("GPUs", run.gpu_seconds / seconds / cluster.gpus))
    return found


def _long(seconds: float) -> str:
    return f"{seconds / _DAY:.1f} days" if seconds >= 2 * _DAY else duration(seconds)
