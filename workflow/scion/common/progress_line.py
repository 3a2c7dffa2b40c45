"""How far a command has come with the bytes that it reads: a line on the terminal, redrawn."""

import sys
import time

from scion.common.text import size

_SECONDS_BETWEEN = 0.2


class ProgressLine:
    """Bytes done of all there are, on stderr, until it is closed.

    Nothing is written where stderr is no terminal, nor in the first moments: what is over at once
    needs no line.
    """

    def __init__(self, title: str, total: float) -> None:
        """Begin with no byte of `total`; `title` says what is done with them."""
        self._title, self._total, self._done = title, total, 0.0
        self._begin = self._drawn = time.monotonic()
        self._width = 0

    def update(self, count: float) -> None:
        """Note bytes that are done."""
        self._done += count
        now = time.monotonic()
        if now - self._drawn >= _SECONDS_BETWEEN and sys.stderr.isatty():
            self._drawn = now
            self._write(self.text(now - self._begin))

    def close(self) -> None:
        """Clear the line."""
        if self._width:
            self._write("")
            print(end="\r", file=sys.stderr, flush=True)

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
