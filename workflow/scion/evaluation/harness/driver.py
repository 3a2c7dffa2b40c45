"""What the drivers share. A driver runs in the environment that holds its harness.

    python -m scion.evaluation.harness.<driver> request.json result.json

Its result is `{"result": …}`, or `{"error": …}` with the parts of a `ScionError`. On standard error
it says how far it is, in lines that begin with `PROGRESS`; all else there is the harness's own
talk. Drivers need the standard library, `scion.common.errors` and the harness. They import the
harness in functions, so that a stage can import the driver for its place.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError

PROGRESS = "progress: "
_REPORT_SECONDS = 5.0


class RequestProgress:
    """Says after some seconds, and at the end, how many of the requests are answered."""

    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit = total, unit
        self._done, self._begin, self._reported = 0, time.monotonic(), time.monotonic()
        self._lock = threading.Lock()

    def step(self) -> None:
        """One more is answered; any thread may say so."""
        with self._lock:
            self._step()

    def _step(self) -> None:
        self._done += 1
        now = time.monotonic()
        if self._done < self._total and now < self._reported + _REPORT_SECONDS:
            return
        self._reported = now
        left = (now - self._begin) / self._done * (self._total - self._done)
        rest = f", about {left:.0f} s left" if left else f" after {now - self._begin:.0f} s"
        print_progress(f"{self._done} of {self._total} {self._unit}{rest}")


def print_progress(line: str) -> None:
    """Have the stage print a line."""
    print(f"{PROGRESS}{line}", file=sys.stderr, flush=True)


def answer_request(evaluate: Callable[[dict[str, Any]], Any]) -> None:
    """Answer the request that the command line names."""
    request, result = (Path(argument) for argument in sys.argv[1:])
    try:
        answer = {"result": evaluate(json.loads(request.read_text()))}
    except ScionError as error:
        parts = ("problem", "where", "expected", "found", "hint")
        answer = {"error": {part: getattr(error, part) for part in parts}}
    result.write_text(json.dumps(answer))


def refused(url: str, request: str, fault: object) -> ScionError:
    """A request that failed. It is no wrong answer, and is not asked again."""
    return ScionError(
        "a request to the server failed",
        where=f"{url}: {request}",
        expected="an answer to each request",
        found=fault,
        hint="see what the server says, then run the stage again",
    )
