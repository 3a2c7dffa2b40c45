"""Bytes that a program and all that it starts read and write of files, as `strace` sees it.

Threads and children are followed. What a call returned counts, by the file of its descriptor. A
mapped file is read by touching memory, which no call shows: its length counts apart, once a
process, however often that maps it.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = (
    *("read", "pread64", "readv", "preadv", "preadv2"),
    *("write", "pwrite64", "writev", "pwritev", "pwritev2"),
    *("copy_file_range", "sendfile", "mmap"),
    *("execve", "clone", "clone3", "fork", "vfork"),
)
_FILE = r"\d+<(/[^>]*)>(?:\(deleted\))?"
_READ = re.compile(rf"p?read(?:64|v2?)?\({_FILE}, .* = (\d+)$")
_WRITE = re.compile(rf"p?write(?:64|v2?)?\({_FILE}, .* = (\d+)$")
_COPY = re.compile(rf"copy_file_range\({_FILE}, .*?, {_FILE}, .* = (\d+)$")
_SEND = re.compile(rf"sendfile\({_FILE}, {_FILE}, .* = (\d+)$")
_MAP = re.compile(rf"mmap\([^,]*, (\d+), .*, {_FILE}, \w+\) = 0x")
_START = re.compile(r"(?:clone3?|v?fork)\(.* = (\d+)$")
_STAGE = re.compile(r'execve\(.*"-m", "scion\.stages\.(\w+)".* = 0$')


@dataclass
class Moved:
    """Bytes by process and file.

    Attributes:
        read: Of calls that read.
        mapped: Lengths of files that were mapped.
        written: Of calls that write.
    """

    read: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    mapped: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    written: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])


@dataclass(frozen=True)
class Run:
    """What a command did.

    Attributes:
        seconds: Wall time, under `strace` where that counted.
        said: Its output.
        moved: Bytes by name of the stage, "" for the workflow itself, and file.
        stages: The stages that were started.
    """

    seconds: float
    said: str
    moved: Moved
    stages: list[str]


def run(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], trace: bool
) -> Run:
    """Run a command in a folder, and count if `trace` says so.

    Raises:
        SystemExit: It failed.
    """
    with tempfile.TemporaryDirectory(prefix="scion-strace-") as name:
        calls = f"--trace={','.join(_CALLS)}"
        strace = ["strace", "-f", "-ff", "-y", "-s", "40", "--seccomp-bpf", "-o", f"{name}/of"]
        begin = time.perf_counter()
        done = subprocess.run(
            [*strace, calls, *command] if trace else command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        seconds = time.perf_counter() - begin
        if done.returncode:
            raise SystemExit(
                f"{' '.join(command)} exited {done.returncode}:\n{done.stdout[-4000:]}"
            )
        moved, stages = _count(Path(name))
    print(f"  {seconds:.1f} s, {len(stages)} stages", file=sys.stderr)
    return Run(seconds, done.stdout, moved, stages)


def _count(folder: Path) -> tuple[Moved, list[str]]:
    """Read what strace wrote: a file a thread, its number at the end of the name."""
    lines = {
        int(path.suffix[1:]): path.read_text(errors="replace").splitlines()
        for path in folder.glob("of.*")
    }
    own, parents = dict[int, str](), dict[int, int]()
    for thread, calls in lines.items():
        for call in calls:
            if started := _START.match(call):
                parents[int(started[1])] = thread
            elif stage := _STAGE.match(call):
                own[thread] = stage[1]
    moved = Moved()
    for thread, calls in lines.items():
        stage = _stage(thread, own, parents)
        _add(calls, stage, moved)
    return moved, sorted(own.values())


def _stage(thread: int, own: Mapping[int, str], parents: Mapping[int, int]) -> str:
    """The stage that a thread works for."""
    while thread not in own:
        if thread not in parents:
            return ""
        thread = parents[thread]
    return own[thread]


def _add(calls: Sequence[str], stage: str, moved: Moved) -> None:
    for call in calls:
        if found := _READ.match(call):
            moved.read[stage, found[1]] += int(found[2])
        elif found := _WRITE.match(call):
            moved.written[stage, found[1]] += int(found[2])
        elif found := _COPY.match(call):
            moved.read[stage, found[1]] += int(found[3])
            moved.written[stage, found[2]] += int(found[3])
        elif found := _SEND.match(call):
            moved.written[stage, found[1]] += int(found[3])
            moved.read[stage, found[2]] += int(found[3])
        elif found := _MAP.match(call):
            # Parts of it, or the whole several times: no more than there is.
            key = stage, found[2]
            moved.mapped[key] = max(moved.mapped[key], int(found[1]))
