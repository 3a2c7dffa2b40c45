"""What the drivers share. A driver runs in the environment that holds its harness.

    python -m scion.evaluation.harness.<driver> request.json result.json

Its result is `{"result": …}`, or `{"error": …}` with the parts of a `ScionError`. On standard error
it says how far it is, in lines of JSON behind `PROGRESS`, `{"unit", "done", "total"}` or
`{"say": …}`; all else there is the harness's own talk. Drivers need the standard library,
`scion.common.errors` and the harness. They import the harness in functions, so that a stage can
import the driver for its place.
"""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError

PROGRESS = "progress: "


class RequestProgress:
    """Tells the stage how many of the requests are answered.

    Args:
        total: How many there are.
        unit: What they are, in the plural.
    """

    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit, self._done = total, unit, 0
        self._lock = threading.Lock()
        self._tell()

    def step(self) -> None:
        """One more is answered; any thread may say so."""
        with self._lock:
            self._done += 1
            self._tell()

    def _tell(self) -> None:
        _send({"unit": self._unit, "done": self._done, "total": self._total})


def say(line: str) -> None:
    """Have the stage print a line."""
    _send({"say": line})


def _send(message: dict[str, Any]) -> None:
    # In one write: the harness's threads talk there too.
    sys.stderr.write(f"{PROGRESS}{json.dumps(message)}\n")
    sys.stderr.flush()


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
