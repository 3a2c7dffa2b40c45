"""Many bytes on several threads: hashed as they pass, and ended early by a failure."""

import hashlib
import io
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr

import pytest

from scion.common import progress_report
from scion.common.digest import HashedChunks, digest_chunks, in_parallel
from scion.common.progress import counted, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_results_come_in_the_order_of_the_items() -> None:
    first_may_end = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert first_may_end.wait(10)
        first_may_end.set()
        return item * item

    assert in_parallel(work, range(5), threads=2) == [0, 1, 4, 9, 16]


def test_a_failure_stops_the_others_at_once_and_begins_no_more() -> None:
    stop = threading.Event()
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise KeyboardInterrupt
        # Without `stop` it would wait for good.
        assert stop.wait(10)

    with pytest.raises(KeyboardInterrupt):
        in_parallel(work, range(100), threads=2, stop=stop)
    assert len(begun) <= 3


def test_what_passes_is_hashed_and_what_nobody_takes_as_well() -> None:
    pieces = [b"a", b"", b"bc", b"d"]
    chunks = HashedChunks(pieces)
    assert next(iter(chunks)) == b"a"
    wanted = hashlib.sha256(b"abcd").hexdigest()
    assert chunks.digest() == chunks.digest() == digest_chunks(pieces) == wanted


def chunks() -> Iterator[bytes]:
    while True:
        yield b"x" * 1000


def test_chunks_are_counted_as_they_pass_until_they_are_stopped() -> None:
    stop, passed = threading.Event(), 0
    with progress("reading", 10_000, unit="B") as told:
        passing = counted(chunks(), told, stop=stop)
        for _ in range(3):
            passed += len(next(passing))
        assert (passed, progress_report.REPORTER.state().doing) == (
            3000,
            "reading: 3.00 kB of 10.00 kB",
        )
        stop.set()
        with pytest.raises(InterruptedError):
            next(passing)


def test_a_terminal_without_tqdm_is_told_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Python has a module that can't be imported.
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(progress_report, "_LINE_SECONDS", 0.0)
    terminal = Terminal()
    with redirect_stderr(terminal), progress("reading", 10_000, unit="B") as told:
        for size in (1000, 2000):
            told.advance(amount=size)
    lines = terminal.getvalue().splitlines()
    assert [line.split(";")[0] for line in lines] == [
        "reading: 1.00 kB of 10.00 kB",
        "reading: 3.00 kB of 10.00 kB",
    ]
