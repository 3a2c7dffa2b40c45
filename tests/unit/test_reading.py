"""Many bytes on several threads: ended early by a failure, and told on a terminal."""

import hashlib
import io
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest

from scion.common import progress_line
from scion.common.digest import (
    digest_chunks,
    hashed_aside,
    in_parallel,
    read_into,
    taken_aside,
)
from scion.common.progress import counted, progress
from scion.common.progress_line import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """To be named by `redirect_stderr` in the test itself: pytest has its own before that."""
    monkeypatch.setattr(progress_line, "_SECONDS_BETWEEN", 0.0)
    return Terminal()


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


def test_an_interrupt_at_any_moment_ends_it() -> None:
    """Each child hands short work to threads until a SIGINT comes, earlier or later by a little."""
    code = """
import sys
from scion.common.digest import in_parallel
print("ready", flush=True)
try:
    while True:
        in_parallel(lambda item: item, range(1000), threads=2)
except KeyboardInterrupt:
    sys.exit(7)
"""
    for step in range(40):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.0007 * step)
            child.send_signal(signal.SIGINT)
            try:
                assert child.wait(20) == 7
            finally:
                child.kill()


def test_a_buffer_is_filled_or_the_file_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcdef")
    buffer = bytearray(3)
    read_into(path, memoryview(buffer), offset=2)
    assert buffer == b"cde"
    with pytest.raises(EOFError, match="ended 1 bytes early"):
        read_into(path, memoryview(buffer), offset=4)


def test_what_is_taken_aside_is_all_of_it_and_a_failure_is_told() -> None:
    pieces, taken = [b"a", b"bc", b"d"], list[bytes]()
    with taken_aside(pieces, taken.append) as (chunks, finish):
        assert next(chunks) == b"a"
        finish()
    assert taken == pieces

    def fail(_: bytes) -> None:
        raise ValueError("unfit")

    many = [b"x"] * 100
    with taken_aside(many, fail) as (chunks, finish):
        # Whoever takes the chunks is not stopped by it.
        assert list(chunks) == many
        with pytest.raises(ValueError, match="unfit"):
            finish()


def test_what_passes_is_hashed_and_what_nobody_takes_as_well() -> None:
    pieces = [b"a", b"", b"bc", b"d"]
    wanted = hashlib.sha256(b"abcd").hexdigest()
    with hashed_aside(pieces) as (chunks, digest):
        assert next(chunks) == b"a"
        assert digest() == digest_chunks(pieces) == wanted


def test_many_pieces_wait_for_the_hash_and_none_is_left_when_the_reader_fails() -> None:
    pieces = [bytes([number % 251]) * 4096 for number in range(500)]
    with hashed_aside(pieces) as (chunks, digest):
        assert list(chunks) == pieces
        assert digest() == hashlib.sha256(b"".join(pieces)).hexdigest()
    before = threading.active_count()
    with suppress(EOFError), hashed_aside(pieces) as (chunks, _):
        next(chunks)
        raise EOFError
    assert threading.active_count() == before


def test_a_terminal_is_told_how_far_it_is_and_left_clean(terminal: Terminal) -> None:
    with redirect_stderr(terminal):
        line = ProgressLine("checking", 3_000_000)
        for _ in range(3):
            line.update(1_000_000)
        drawn = terminal.getvalue().split("\r")[1:]
        line.close()
    assert [text.split(",")[0] for text in drawn] == [
        f"checking: {done} of 3.00 MB" for done in ("1.00 MB", "2.00 MB", "3.00 MB")
    ]
    assert all(re.search(r"B/s, \d+:\d\d min left$", text.rstrip()) for text in drawn[:2])
    assert drawn[2].rstrip().endswith("B/s")
    *_, blank, last = terminal.getvalue().split("\r")
    assert (blank.strip(), last) == ("", "")
    assert len(blank) >= max(len(text.rstrip()) for text in drawn[-1:])


def test_what_is_no_terminal_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_line, "_SECONDS_BETWEEN", 0.0)
    line = ProgressLine("checking", 2)
    line.update(1)
    line.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (0, "0 B of 600.00 MB, 0 B/s"),
        (60_000_000, "60.00 MB of 600.00 MB, 6.00 MB/s, 1:30 min left"),
        (600_000_000, "600.00 MB of 600.00 MB, 60.00 MB/s"),
    ],
)
def test_the_time_that_is_left_follows_from_the_rate(done: int, said: str) -> None:
    line = ProgressLine("checking", 600_000_000)
    line.update(done)
    assert line.text(10.0) == f"checking: {said}"


def test_chunks_pass_until_they_are_stopped(terminal: Terminal) -> None:
    stop = threading.Event()
    seen: list[bytes] = []

    def chunks() -> Iterator[bytes]:
        while True:
            yield b"x" * 1000

    def take() -> None:
        with progress("checking", 10_000, unit="B") as told:
            for chunk in counted(chunks(), told, stop):
                seen.append(chunk)
                if len(seen) == 3:
                    stop.set()

    with redirect_stderr(terminal), pytest.raises(InterruptedError):
        take()
    assert len(seen) == 3
    assert "3.00 kB of 10.00 kB" in terminal.getvalue()
