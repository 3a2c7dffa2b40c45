"""How far a command has come with the bytes that it reads: a line on the terminal, redrawn."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

from scion.common.text import size

_SECONDS_BETWEEN = 0.2


class ProgressLine:
    """Bytes done of all there are, on stderr; gone when the block ends.

    Nothing is written where stderr is no terminal. Several threads may advance it.
    """

    def __init__(self, title: str, total: int) -> None:
        """Begin with no byte of `total`; `title` says what is done with them."""
        self._title = title
        self._total = total
        self._done = 0
        self._begin = time.monotonic()
        self._drawn = self._begin
        self._width = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "ProgressLine":
        """Draw nothing yet: what is over at once needs no line."""
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Clear the line."""
        if self._width:
            self._write("")
            print(end="\r", file=sys.stderr, flush=True)

    def advance(self, count: int) -> None:
        """Note bytes that are done."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._drawn >= _SECONDS_BETWEEN and sys.stderr.isatty():
                self._drawn = now
                self._write(self.text(now - self._begin))

    def through(self, chunks: Iterable[bytes], stop: threading.Event) -> Iterator[bytes]:
        """The same chunks, counted as they pass.

        Raises:
            InterruptedError: `stop` was set.
        """
        for chunk in chunks:
            if stop.is_set():
                raise InterruptedError("stopped")
            self.advance(len(chunk))
            yield chunk

    def text(self, seconds: float) -> str:
        """What the line says after so many seconds."""
        rate = self._done / seconds
        text = f"{self._title}: {size(self._done)} of {size(self._total)}, {size(rate)}/s"
        if not 0 < self._done < self._total:
            return text
        left = int((self._total - self._done) / rate)
        return f"{text}, {left // 60}:{left % 60:02} min left"

    def _write(self, text: str) -> None:
        print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(text)
