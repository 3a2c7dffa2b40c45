"""What tests of bad input share: files made to exhaust a parser, measured processes, no rights."""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SIZE = 60_000_000
"""Bytes of the larger ones: near the longest config.json and header that are read at all."""


def repeated(text: bytes, *, size: int = SIZE) -> bytes:
    """A JSON list of about `size` bytes that repeats one text."""
    return b"[" + text * (size // len(text)) + b"1]"


def within(value: bytes) -> bytes:
    """An object that holds the value."""
    return b'{"a":%s}' % value


def tensors(count: int) -> bytes:
    """A header of so many empty tensors."""
    entry = b'"%07d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return b"{" + b",".join(entry % number for number in range(count)) + b"}"


def one(shape: bytes = b"[4]", offsets: bytes = b"[0,4]", name: bytes = b"a") -> bytes:
    """A header of one tensor, spelled as the caller likes."""
    return b'{"%s":{"dtype":"U8","shape":%s,"data_offsets":%s}}' % (name, shape, offsets)


HOSTILE_JSON: Mapping[str, Callable[[], bytes]] = {
    "deep lists": lambda: b'{"a":' + b"[" * SIZE,
    "deep lists within the bound of values": lambda: b'{"a":' + b"[" * 2_000_000,
    "deep objects": lambda: b'{"a":' * (SIZE // 5),
    "wide lists": lambda: within(repeated(b"[],")),
    "wide objects": lambda: within(repeated(b'{"a":1},')),
    "wide strings": lambda: within(repeated(b'"",')),
    "a number of a million digits": lambda: within(b"9" * 1_000_000),
}
"""No header, and no config.json either; each is refused as what can't be read."""

HOSTILE_HEADERS: Mapping[str, Callable[[], bytes]] = {
    **HOSTILE_JSON,
    "almost as many values as are read": lambda: (
        b'{"a":%s}' % repeated(b'{"a":1},', size=9_900_000)
    ),
    "a million tensors": lambda: tensors(1_000_000),
    "a number of 5000 digits": lambda: one(offsets=b"[0,%s]" % (b"9" * 5000)),
    "a number beyond a double": lambda: one(offsets=b"[0,1e400]"),
    "a negative offset": lambda: one(offsets=b"[-4,0]"),
    "a truth value for a number": lambda: one(offsets=b"[false,4]"),
    "NaN": lambda: one(shape=b"[NaN]"),
    "a product of a million factors": lambda: one(
        shape=repeated(b"4611686018427387904,", size=20_000_000)
    ),
    "a duplicate name": lambda: one()[:-1] + b"," + one()[1:],
    "a name that is not UTF-8": lambda: one(name=b"\xff"),
    "a control character in a name": lambda: one(name=b"\x1b[2J"),
    "an empty name": lambda: one(name=b""),
    "a name of 60 MB": lambda: one(name=b"a" * 60_000_000, shape=b"[5]"),
    "wide characters": lambda: one(name=b"\\ud83d\\ude00" + b"a" * SIZE, shape=b"[5]"),
    "more wide characters than are read": lambda: one(name=b"\\ud83d\\ude00" + b"a" * 90_000_000),
}
"""JSON parts of headers; the data behind them are four bytes."""


def write_shard(path: Path, header: bytes) -> None:
    """Write a safetensors file with that header and four bytes of data."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)))
        file.write(header)
        file.write(b"abcd")


@dataclass(frozen=True)
class Measured:
    """How a process ended, and what it took.

    Attributes:
        status: Its exit code.
        errors: What it wrote to stderr.
        seconds: Wall time.
        peak_mb: Peak of resident memory in 10^6 bytes.
    """

    status: int
    errors: str
    seconds: float
    peak_mb: float


_LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measured(command: Sequence[str]) -> Measured:
    """Run a command."""
    # Linux counts the memory of the process that forks into its child's peak, and pytest is large.
    launched = [sys.executable, "-c", _LAUNCHER, *command]
    start = time.monotonic()
    done = subprocess.run(launched, capture_output=True, text=True)
    seconds = time.monotonic() - start
    return Measured(done.returncode, done.stderr, seconds, int(done.stdout) * 1024 / 1e6)


@contextmanager
def as_nobody() -> Generator[None]:
    """Give up root's right to read everything, where there is one."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
