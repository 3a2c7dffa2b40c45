"""How far work is whose amount is known from its start: what long loops call.

    with progress("layers", 64) as layers:
        for layer in stack:
            …
            layers.advance()

Work of several kinds, which take different times, is counted by kind, so that the time left is not
that of the kind which happens to come first:

    with progress("measuring", {"server starts": 3, "replies": 96}) as measuring:
        measuring.doing("pico.n3 (3 of 3): starting the server")
        …
        measuring.advance("server starts")

What is told of it, and how the time left is estimated, is `scion.common.progress_report`'s. That is
loaded by a computed name, so that `scion.artifacts.code_digest` does not count it to a stage's
code: another wording, or a better estimate, makes nothing anew.
"""

import importlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol


class Progress(Protocol):
    """Work that is under way; any thread may tell of it."""

    def doing(self, text: str) -> None:
        """Say what is done now; without it, how much of each kind is done is said."""
        ...

    def advance(self, kind: str = "", amount: float = 1, *, note: str = "") -> None:
        """So much more of a kind is done: the time since the last call was spent on it.

        Args:
            kind: One of the kinds; may be left out if there is one.
            amount: In the kind's unit.
            note: What to say beside it.
        """
        ...


def progress(
    title: str, amounts: Mapping[str, float] | float, *, unit: str = "", done: float = 0
) -> AbstractContextManager[Progress]:
    """Tell of work while the block lasts; work within it is told as a part of it.

    Args:
        title: What is done, such as `layers` or `hashing`.
        amounts: How much there is to do, by kind in the plural; or of the one kind, `title`.
        unit: `B` for bytes, else nothing or what the one kind is counted in.
        done: How much of the one kind an earlier run has done.
    """
    return _report().Work(title, amounts, unit=unit, done=done)


def counted(chunks: Iterable[bytes], told: Progress, *, stop: threading.Event) -> Iterator[bytes]:
    """Bytes that pass on as they come, told of in bytes.

    Raises:
        InterruptedError: `stop` was set, by whoever has no use for them any more.
    """
    for chunk in chunks:
        if stop.is_set():
            raise InterruptedError("stopped")
        told.advance(amount=len(chunk))
        yield chunk


def doing(text: str) -> None:
    """Say what is done now that nobody counts, such as waiting for a server."""
    _report().REPORTER.doing(text)


def report_to(path: Path | None) -> None:
    """From now on keep in a file what `scion.common.progress_report.read` reads.

    Args:
        path: The file; None ends it, and removes the file.
    """
    _report().REPORTER.report_to(path)


def _report() -> Any:
    return importlib.import_module("scion.common.progress_report")
