"""SHA-256 of files, of ranges of files, and of JSON values.

Digests are written `sha256:` and 64 hex digits where they stand for themselves, and as plain hex
digits in tables whose column says `sha256`.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from scion.common.interrupts import deferred_interrupts

CHUNK = 1 << 20
"""Bytes that are read at a time: they stay in a core's cache for whoever takes them next."""
_AHEAD = 16

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def digest_json(value: Any) -> str:
    """Digest of a JSON value, independent of key order and white space.

    Returns:
        `sha256:` and the hex digits of the SHA-256 of the value's canonical form (sorted keys,
        no spaces, UTF-8).
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def hex_digits(digest: str) -> str:
    """`sha256:<hex>` without its first word, as files and tables have it."""
    return digest.removeprefix("sha256:")


def git_blob(size: int, chunks: Iterable[bytes]) -> str:
    """The hex hash by which git names a file of this size and content.

    https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
    """
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def digest_bytes(content: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def read_chunks(path: Path, *, offset: int = 0, size: int | None = None) -> Iterator[bytes]:
    """The bytes of `path` from `offset` on (`size` of them, or to the end), `CHUNK` at a time."""
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        remaining = os.fstat(file.fileno()).st_size - offset if size is None else size
        while remaining > 0:
            chunk = file.read(min(CHUNK, remaining))
            if not chunk:
                raise EOFError(f"{path} ended {remaining} bytes early")
            remaining -= len(chunk)
            yield chunk


def read_into(path: Path, buffer: memoryview, *, offset: int) -> None:
    """Fill a buffer with the bytes of `path` from `offset` on: nothing is copied once more."""
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while buffer:
            read = file.readinto(buffer)
            if not read:
                raise EOFError(f"{path} ended {len(buffer)} bytes early")
            buffer = buffer[read:]


def digest_file(path: Path, *, offset: int = 0, size: int | None = None) -> str:
    """Hex SHA-256 of a file or of a range of it. Memory: one chunk."""
    return digest_chunks(read_chunks(path, offset=offset, size=size))


def digest_chunks(chunks: Iterable[bytes]) -> str:
    """Hex SHA-256 of bytes that arrive in pieces."""
    found = hashlib.sha256()
    for chunk in chunks:
        found.update(chunk)
    return found.hexdigest()


@contextlib.contextmanager
def hashed_aside(chunks: Iterable[bytes]) -> Generator[tuple[Iterator[bytes], Callable[[], str]]]:
    """Bytes that arrive in pieces, hashed by another thread while whoever takes them does more.

    Args:
        chunks: The pieces; `_AHEAD` of them may wait to be hashed.

    Yields:
        The pieces, and what tells the hex SHA-256 of all of them; that takes those that are left.
    """
    found = hashlib.sha256()
    with taken_aside(chunks, found.update) as (passed, finish):

        def digest() -> str:
            finish()
            return found.hexdigest()

        yield passed, digest


@contextlib.contextmanager
def taken_aside(
    chunks: Iterable[bytes], take: Callable[[bytes], object]
) -> Generator[tuple[Iterator[bytes], Callable[[], None]]]:
    """Bytes that arrive in pieces, taken by another thread too, in their order.

    Args:
        chunks: The pieces; `_AHEAD` of them may wait for that thread.
        take: What it does with each.

    Yields:
        The pieces, and what returns when all of them are taken, those that are left too; it raises
        what `take` raised.
    """
    # An interrupt of the main thread can't leave one of these locked.
    waiting: SimpleQueue[bytes] = SimpleQueue()
    room: SimpleQueue[None] = SimpleQueue()
    for _ in range(_AHEAD):
        room.put(None)
    failures: list[BaseException] = []

    def run() -> None:
        # Nothing is no chunk: it says that there are no more.
        while chunk := waiting.get():
            try:
                if not failures:
                    take(chunk)
            except BaseException as error:
                failures.append(error)
            room.put(None)

    def passing() -> Iterator[bytes]:
        for chunk in chunks:
            if chunk:
                room.get()
                waiting.put(chunk)
            yield chunk

    passed = passing()

    def finish() -> None:
        for _ in passed:
            pass
        waiting.put(b"")
        worker.join()
        if failures:
            raise failures[0]

    worker = threading.Thread(target=run, name="taken_aside", daemon=True)
    try:
        with deferred_interrupts():
            worker.start()
        yield passed, finish
    finally:
        waiting.put(b"")
        if worker.ident is not None:
            worker.join()


def in_parallel(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    threads: int | None = None,
    stop: threading.Event | None = None,
) -> list[_Result]:
    """`work` over `items` on threads, results in order; hashing releases the GIL.

    Args:
        work: What is done with an item.
        items: Any number.
        threads: How many; one a core by default.
        stop: Set as soon as one item fails, or the user interrupts, so that `work` on the others
            can end early; those that have not begun are left out.
    """
    jobs = list(items)
    results: dict[int, _Result] = {}
    # concurrent.futures would wait for good after Ctrl-C in a bad moment: its locks are Python's
    # own, and the main thread may be interrupted between taking one and giving it back.
    waiting: SimpleQueue[int] = SimpleQueue()
    ended: SimpleQueue[BaseException | None] = SimpleQueue()
    for number in range(len(jobs)):
        waiting.put(number)

    failures: list[BaseException] = []

    def run() -> None:
        with contextlib.suppress(Empty):
            while not failures:
                number = waiting.get_nowait()
                try:
                    results[number] = work(jobs[number])
                except BaseException as error:
                    failures.append(error)
                    ended.put(error)
                else:
                    ended.put(None)

    count = min(threads or len(os.sched_getaffinity(0)), len(jobs))
    workers: list[threading.Thread] = []
    try:
        # Within Thread.start an interrupt becomes a RuntimeError of its locks; within what Python
        # does as it forgets a thread it is lost.
        with deferred_interrupts():
            _start(workers, run, count)
        for _ in jobs:
            if (error := ended.get()) is not None:
                raise error
    except BaseException:
        if stop is not None:
            stop.set()
        with contextlib.suppress(Empty):
            while True:
                waiting.get_nowait()
        _joined(workers)
        raise
    with deferred_interrupts():
        # They have ended: nothing is waited for.
        _joined(workers)
    return [results[number] for number in range(len(jobs))]


def _start(workers: list[threading.Thread], run: Callable[[], None], count: int) -> None:
    for number in range(count):
        worker = threading.Thread(target=run, name=f"in_parallel {number}")
        worker.start()
        workers.append(worker)


def _joined(workers: list[threading.Thread]) -> None:
    """Wait for threads, and forget them."""
    while workers:
        workers[-1].join()
        workers.pop()
