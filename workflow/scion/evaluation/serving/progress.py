"""Progress of a measurement on several servers, one after the other."""

import sys
import time
from collections.abc import Sequence

from scion.common.progress import Progress
from scion.engines.config import Launch
from scion.evaluation.serving.config import Measurement
from scion.evaluation.serving.speed import waves

_STARTS, _REPLIES = "server starts", "replies"


def serving_work(
    launches: Sequence[Launch], measurement: Measurement, prompts: int
) -> dict[str, float]:
    """How much there is to do, as `scion.common.progress` counts it.

    Replies end when the model ends them, timed decodes at their length, so their paces differ, and
    those of decodes with the number of requests that share the machine.

    Args:
        launches: One for each server; those of the first's name are asked for replies too.
        measurement: What each is asked.
        prompts: How many there are.
    """
    asked = sum(launch.name == launches[0].name for launch in launches)
    work: dict[str, float] = {_STARTS: len(launches), _REPLIES: asked * prompts}
    for parallel in measurement.parallel_requests:
        work[_warm_ups(parallel)] = len(launches)
        work[_decodes(parallel)] = 0
    for wave in waves(measurement, prompts):
        work[_decodes(len(wave.prompts))] += len(launches) * wave.tokens
    return work


def _warm_ups(parallel: int) -> str:
    return f"warm-ups of {parallel} at once"


def _decodes(parallel: int) -> str:
    return f"tokens of {parallel} at once"


class MeasurementProgress:
    """Says what runs, in a line each, and tells how far it is.

    Args:
        stage: Name of the stage.
        servers: How many there are.
        told: Counts as `serving_work` does.
    """

    def __init__(self, stage: str, *, servers: int, told: Progress) -> None:
        """Start the clock."""
        self._stage, self._servers, self._server, self._told = stage, servers, 0, told
        self._name = ""
        self._begin = time.monotonic()

    def next_server(self, name: str) -> None:
        """A server is about to be started."""
        self._server += 1
        self._name = name
        self._say("starting the server")

    def ready(self) -> None:
        """The server is ready, and the prompts are known to fit."""
        self._told.advance(_STARTS)

    def replied(self, text: str) -> None:
        """A reply is there."""
        self._say(text)
        self._told.advance(_REPLIES)

    def warmed_up(self, parallel: int) -> None:
        """A decode of so many requests that is not timed is done."""
        self._told.advance(_warm_ups(parallel))

    def decoded(self, text: str, *, tokens: int, parallel: int) -> None:
        """A timed decode is done."""
        self._say(text)
        self._told.advance(_decodes(parallel), tokens)

    def done(self) -> None:
        """The clear last line."""
        seconds = time.monotonic() - self._begin
        print(f"{self._stage}: done, {self._servers} servers in {seconds:.0f} s", file=sys.stderr)

    def _say(self, text: str) -> None:
        line = f"{self._name} ({self._server} of {self._servers}): {text}"
        self._told.doing(line)
        print(f"{self._stage}: {line}", file=sys.stderr, flush=True)
