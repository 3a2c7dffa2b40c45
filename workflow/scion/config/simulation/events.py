"""Jobs on a cluster, played through from event to event.

A job holds its cores and GPUs of one machine from its start to its end. It goes through its steps
in turn; of a step, what it moves by the network and by the disk and what it computes go on at once.
Network and disk are the cluster's: jobs that use one at the same time share its rate alike. Of the
jobs that could start the one of the highest priority does, then the first of the plan; one that
fits nowhere lets others go before it, as Snakemake's scheduler does.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from scion.common.errors import ScionError


@dataclass(frozen=True)
class JobStep:
    """What a job does at once: bytes by the network, bytes by the disk, and seconds."""

    network: int = 0
    disk: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class SimulatedJob:
    """A job, by what it takes.

    Attributes:
        stage: Its stage.
        steps: What it does, one after another.
        after: Places of the jobs that have to end before it starts.
        needs: Those of them whose files it reads or links.
        links: Those of them whose files are in its own artifact as well, by hard link.
        cores: That it holds.
        gpus: That it holds.
        priority: Of those that could start the highest does.
        writes: Bytes that it adds to the disk.
        is_kept: Whether its artifact is a result, which is never dropped.
    """

    stage: str
    steps: tuple[JobStep, ...] = ()
    after: tuple[int, ...] = ()
    needs: tuple[int, ...] = ()
    links: tuple[int, ...] = ()
    cores: int = 1
    gpus: int = 0
    priority: int = 0
    writes: int = 0
    is_kept: bool = False


@dataclass(frozen=True)
class Cluster:
    """Where jobs run.

    Attributes:
        nodes: Machines that are alike.
        cores: Of all of them.
        gpus: Of all of them.
        network: Bytes a second from outside, of all jobs together.
        disk: Bytes a second read and written, of all jobs together.
    """

    nodes: int
    cores: int
    gpus: int
    network: float
    disk: float


@dataclass(frozen=True)
class Played:
    """What a simulation found.

    Attributes:
        seconds: From the first start to the last end.
        spans: Of each job, when it started and ended, in seconds.
        network: Seconds in which anything was moved by the network.
        disk: Seconds in which anything was read or written.
        high_water: The most bytes that lay on the disk of what the run has added.
        left: Bytes of it at the end.
    """

    seconds: float
    spans: tuple[tuple[float, float], ...]
    network: float
    disk: float
    high_water: int
    left: int


def play(jobs: Sequence[SimulatedJob], cluster: Cluster, *, drops: bool = False) -> Played:
    """Play jobs through.

    Args:
        jobs: Each after those that it waits for.
        cluster: Where they run.
        drops: Whether files are dropped once the last job that needs them has ended.

    Raises:
        ScionError: A job wants more GPUs than a node has.
    """
    return _Play(jobs, cluster, drops=drops).run()


class _Shared:
    """A rate that those who use it at the same time share alike.

    Each has had `served` bytes since the beginning; one that came at `served` and wants so many
    more has them at a level that doesn't move with who else comes.
    """

    def __init__(self, rate: float) -> None:
        self.rate, self.served, self.busy, self._at = rate, 0.0, 0.0, 0.0
        self._levels: list[tuple[float, int]] = []

    def add(self, amount: int, job: int) -> None:
        heapq.heappush(self._levels, (self.served + amount, job))

    def end(self) -> float:
        """When the next one has all that it wants."""
        if not self._levels:
            return float("inf")
        left = max(self._levels[0][0] - self.served, 0.0)
        return self._at + left * len(self._levels) / self.rate

    def advance(self, now: float) -> None:
        if self._levels:
            self.served += (now - self._at) * self.rate / len(self._levels)
            self.busy += now - self._at
        self._at = now

    def pop(self) -> int:
        level, job = heapq.heappop(self._levels)
        self.served = max(self.served, level)
        return job


class _Files:
    """Bytes that jobs add, and drop where that is asked for."""

    def __init__(self, jobs: Sequence[SimulatedJob], *, drops: bool) -> None:
        self._jobs, self._drops = jobs, drops
        self.used = self.most = 0
        # The jobs whose bytes an artifact holds: its own, and what it links.
        holds: list[set[int]] = []
        for number, job in enumerate(jobs):
            holds.append({number}.union(*(holds[link] for link in job.links)))
        self._uses = [
            holds[number].union(*(holds[need] for need in job.needs))
            for number, job in enumerate(jobs)
        ]
        self._users: dict[int, int] = defaultdict(int)
        for used in self._uses:
            for each in used:
                self._users[each] += 1
        kept = [holds[number] for number, job in enumerate(jobs) if job.is_kept]
        self._kept = set[int]().union(*kept)

    def begin(self, number: int) -> None:
        """A job's bytes count from its start: they grow while it runs."""
        self.used += self._jobs[number].writes
        self.most = max(self.most, self.used)

    def end(self, number: int) -> None:
        for each in self._uses[number]:
            self._users[each] -= 1
            if self._drops and self._users[each] == 0 and each not in self._kept:
                self.used -= self._jobs[each].writes


class _Play:
    """One run of the simulation."""

    def __init__(self, jobs: Sequence[SimulatedJob], cluster: Cluster, *, drops: bool) -> None:
        self.jobs = jobs
        self.now = 0.0
        self.network, self.disk = _Shared(cluster.network), _Shared(cluster.disk)
        self.files = _Files(jobs, drops=drops)
        each = [max(1, cluster.cores // cluster.nodes), cluster.gpus // cluster.nodes]
        self.cores = each[0]
        self.free = [list(each) for _ in range(cluster.nodes)]
        self.timers: list[tuple[float, int]] = []
        self.begun, self.ended = [0.0] * len(jobs), [0.0] * len(jobs)
        self.step, self.parts = [-1] * len(jobs), [0] * len(jobs)
        self.place = [0] * len(jobs)
        self.waits = [len(set(job.after)) for job in jobs]
        self.next: dict[int, list[int]] = defaultdict(list)
        # What could start, apart by what it asks for: if the first of them fits nowhere, none does.
        self.ready: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        for number, job in enumerate(jobs):
            if job.gpus > each[1]:
                raise ScionError(
                    "a stage wants more GPUs than a node has",
                    where=job.stage,
                    expected=f"at most {each[1]}",
                    found=f"{job.gpus}",
                    hint="name more by --gpus, or fewer --nodes",
                )
            for before in set(job.after):
                self.next[before].append(number)
            if not job.after:
                self._offer(number)

    def run(self) -> Played:
        self._start()
        while True:
            at = self.timers[0][0] if self.timers else float("inf")
            when, which = min((at, 0), (self.network.end(), 1), (self.disk.end(), 2))
            if when == float("inf"):
                break
            self.now = max(self.now, when)
            self.network.advance(self.now)
            self.disk.advance(self.now)
            if which:
                job = (self.network if which == 1 else self.disk).pop()
            else:
                job = heapq.heappop(self.timers)[1]
            self.parts[job] -= 1
            if self.parts[job] == 0:
                self._go_on(job)
                self._start()
        return Played(
            seconds=self.now,
            spans=tuple(zip(self.begun, self.ended, strict=True)),
            network=self.network.busy,
            disk=self.disk.busy,
            high_water=self.files.most,
            left=self.files.used,
        )

    def _offer(self, number: int) -> None:
        job = self.jobs[number]
        asked = (-job.priority, min(job.cores, self.cores), job.gpus)
        heapq.heappush(self.ready[asked], number)

    def _start(self) -> None:
        """Start what fits, until nothing does."""
        started = True
        while started:
            started = False
            for asked in sorted(self.ready):
                _, cores, gpus = asked
                while self.ready[asked] and (place := self._free(cores, gpus)) is not None:
                    number = heapq.heappop(self.ready[asked])
                    self.free[place][0] -= cores
                    self.free[place][1] -= gpus
                    self.place[number], self.begun[number] = place, self.now
                    self.files.begin(number)
                    self._go_on(number)
                    started = True
                if not self.ready[asked]:
                    del self.ready[asked]

    def _free(self, cores: int, gpus: int) -> int | None:
        """The first node with so much to spare."""
        for place, free in enumerate(self.free):
            if free[0] >= cores and free[1] >= gpus:
                return place
        return None

    def _go_on(self, number: int) -> None:
        """Begin the next step of a job, or end it."""
        job = self.jobs[number]
        self.step[number] += 1
        if self.step[number] == len(job.steps):
            self._end(number)
            return
        step = job.steps[self.step[number]]
        # One that takes no time still has its turn among the events.
        self.parts[number] = 1
        heapq.heappush(self.timers, (self.now + step.seconds, number))
        for amount, shared in ((step.network, self.network), (step.disk, self.disk)):
            if amount:
                self.parts[number] += 1
                shared.add(amount, number)

    def _end(self, number: int) -> None:
        job = self.jobs[number]
        free = self.free[self.place[number]]
        free[0] += min(job.cores, self.cores)
        free[1] += job.gpus
        self.ended[number] = self.now
        self.files.end(number)
        for after in self.next[number]:
            self.waits[after] -= 1
            if self.waits[after] == 0:
                self._offer(after)
