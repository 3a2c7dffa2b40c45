"""Processes timed side by side, and the machine that they ran on."""

import contextlib
import ctypes
import json
import mmap
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """A command to be measured.

    Attributes:
        command: Arguments of the process; its whole life is timed, so a Python stage pays for its
            interpreter and its imports as `cp` pays for its own start.
        prepare: What clears the way before each run, outside the measured time.
    """

    command: Sequence[str]
    prepare: Callable[[], None]


@dataclass(frozen=True)
class Result:
    """Medians over the runs of one candidate; the peak is the highest of all runs.

    Attributes:
        seconds: Wall time.
        runs: The wall time of each run, in the order in which they ran.
        cpu_seconds: User and system time together.
        peak_rss_mb: Peak resident memory of the largest process, in 10^6 bytes. Page cache is not
            part of it.
    """

    seconds: float
    runs: list[float]
    cpu_seconds: float
    peak_rss_mb: float


def compare(candidates: Mapping[str, Candidate], *, repeat: int) -> dict[str, Result]:
    """Measure every candidate `repeat` times, in turns, so that a slow minute hits all of them.

    Every other turn goes backwards, and dirty pages are written out before each run, so that none
    always pays for the one before. One run of the first is not counted: a virtual machine may have
    to ask its host for the memory of a page cache that grows.
    """
    runs_of: dict[str, list[tuple[float, float, float]]] = {name: [] for name in candidates}
    first = next(iter(candidates.values()))
    first.prepare()
    _run(first.command)
    for turn in range(repeat):
        for name in list(candidates)[:: -1 if turn % 2 else 1]:
            candidate = candidates[name]
            candidate.prepare()
            os.sync()
            runs_of[name].append(_run(candidate.command))
            print(f"  run {turn + 1}: {name} {runs_of[name][-1][0]:.2f} s", file=sys.stderr)
    return {
        name: Result(
            seconds=round(median(run[0] for run in runs), 3),
            runs=[round(run[0], 3) for run in runs],
            cpu_seconds=round(median(run[1] for run in runs), 3),
            peak_rss_mb=round(max(run[2] for run in runs), 1),
        )
        for name, runs in runs_of.items()
    }


def _run(command: Sequence[str]) -> tuple[float, float, float]:
    """Seconds of wall time and of CPU, and the peak of resident memory in 10^6 bytes.

    Linux counts the memory of the process that forks into its child's peak, so the caller must
    stay small itself.
    """
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            # Its children too: what still writes can't be cleared away.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            tail = log.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"{' '.join(command)} exited {process.returncode}:\n{tail}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def unwind_when_ended() -> None:
    """Let SIGTERM unwind as Ctrl-C does, once: what is left to do then is clearing away."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def resident_mb(which: str) -> float:
    """Memory of this process: `VmHWM`, its peak, `VmRSS`, what it has now; in 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(x.split()[1] for x in lines if x.startswith(which))) * 1024 / 1e6, 1)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine(folder: Path) -> dict[str, Any]:
    """What the numbers depend on: processor, memory, and the file system that holds `folder`."""
    probe = ["df", "--output=fstype", str(folder)]
    kind = subprocess.run(probe, capture_output=True, text=True, check=True).stdout.split()[-1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": cores(),
        "processor": _processor(),
        "sha_instructions": "sha_ni" in _cpuinfo("flags").split(),
        "memory_gb": round(memory / 1e9, 1),
        "file_system": kind,
        "reflinks": _reflinks(folder),
        "load_before": round(os.getloadavg()[0], 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


def _processor() -> str:
    return _cpuinfo("model name") or platform.machine()


def _cpuinfo(key: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.split(":")[0].strip() == key:
                return line.split(":", 1)[1].strip()
    return ""


def _reflinks(folder: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        original = Path(name) / "original"
        original.write_bytes(bytes(1 << 16))
        copy = ["cp", "--reflink=always", str(original), str(original.with_name("copy"))]
        return subprocess.run(copy, stderr=subprocess.DEVNULL).returncode == 0


def drop_from_cache(paths: Iterable[Path]) -> None:
    """Take files out of the page cache, and make sure of it.

    Raises:
        SystemExit: More than a hundredth of a file stays.
    """
    for path in paths:
        with path.open("rb") as file:
            # Pages that are not on disk yet would stay.
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        left = _cached_share(path)
        if left > 0.01:
            raise SystemExit(f"{left:.0%} of {path.name} can't be dropped from the page cache")


def _cached_share(path: Path) -> float:
    """The share of a file's pages that are in memory, as `mincore` has it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as pages:
        count = -(-len(pages) // mmap.PAGESIZE)
        resident = (ctypes.c_ubyte * count)()
        start = ctypes.c_ubyte.from_buffer(pages)
        address, length = ctypes.addressof(start), len(pages)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), resident)
        # The map can't be closed while something points into it.
        del start
    if failed:
        raise OSError(ctypes.get_errno(), "mincore", str(path))
    return bytes(resident).count(1) / count


def tell(report: dict[str, Any], output: Path | None) -> None:
    """Print a report as the last line of stdout, and write it to a file if one was named."""
    if output is not None:
        output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(report, ensure_ascii=False))
