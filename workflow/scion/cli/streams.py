"""What a command prints to, so that it goes on to its end when its reader has had enough."""

import contextlib
import os
import sys
from collections.abc import Generator
from typing import Any, TextIO


@contextlib.contextmanager
def lasting_streams() -> Generator[None]:
    """Let a command print while the block lasts, whether or not anybody reads it any more.

    `scion … | head` ends the reading side; the command's exit code is its own all the same, and
    what it does besides printing is done.
    """
    out, errors = _Lasting(sys.stdout), _Lasting(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            yield
        finally:
            # Else Python would do it at its end, and complain.
            out.flush()
            errors.flush()


class _Lasting:
    """A stream that swallows what is written to it once its reader is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
