"""Progress of a measurement on several servers."""

import sys
import time
from collections.abc import Sequence

from scion.common.progress import Progress
from scion.engines.config import Launch
from scion.evaluation.serving.config import Measurement
from scion.evaluation.serving.speed import waves

_STARTS, _REPLIES = "server starts", "replies"


def serving_work(
    launches: Sequence[Launch], measurement: Measurement, prompts: int, *, servers: int
) -> dict[str, float]:
    """How much there is to do, as `scion.common.progress` counts it.

    Replies end when the model ends them, timed decodes at their length, so their paces differ, and
    those of decodes with the number of requests that share the machine.

    Args:
        launches: What is timed; those of the first's name are asked for replies too.
        measurement: What each is asked.
        prompts: How many there are.
        servers: How many are started.
    """
    asked = sum(launch.name == launches[0].name for launch in launches)
    decodes = _decode_work([measurement.repeats] * len(launches), measurement, prompts)
    return {_STARTS: servers, _REPLIES: asked * prompts, **decodes}


def family_work(repeats: Sequence[int], measurement: Measurement, prompts: int) -> dict[str, float]:
    """The same of servers of which nothing but timed decodes is asked.

    Args:
        repeats: Of each server.
        measurement: What each is asked, but for the number of repeats.
        prompts: How many there are.
    """
    return {_STARTS: len(repeats), **_decode_work(repeats, measurement, prompts)}


def _decode_work(
    repeats: Sequence[int], measurement: Measurement, prompts: int
) -> dict[str, float]:
    work: dict[str, float] = {}
    for parallel in measurement.parallel_requests:
        work[_warm_ups(parallel)] = len(repeats)
        work[_decodes(parallel)] = 0
    for wave in waves(measurement, prompts, range(sum(repeats))):
        work[_decodes(len(wave.prompts))] += wave.tokens
    return work


def _warm_ups(parallel: int) -> str:
    return f"warm-ups of {parallel} at once"


def _decodes(parallel: int) -> str:
    return f"tokens of {parallel} at once"


class MeasurementProgress:
    """Says what runs, in a line each, and tells how far it is.

    Args:
        stage: Name of the stage.
        servers: How many there are, at most.
        told: Counts as `serving_work` does.
    """

    def __init__(self, stage: str, *, servers: int, told: Progress) -> None:
        """Start the clock."""
        self._stage, self._servers, self._server, self._told = stage, servers, 0, told
        self._begin = time.monotonic()

    def next_server(self, name: str) -> "ServerProgress":
        """A server is about to be started; what it does is told of what is returned."""
        self._server += 1
        where = f"{name} ({self._server} of {self._servers})"
        server = ServerProgress(self._stage, where, self._told)
        server.say("starting the server")
        return server

    def say(self, text: str) -> None:
        """Say something of all servers."""
        print(f"{self._stage}: {text}", file=sys.stderr, flush=True)

    def done(self) -> None:
        """The clear last line."""
        self.say(f"done, {self._server} servers in {time.monotonic() - self._begin:.0f} s")


class ServerProgress:
    """The part of one server, which may run beside others."""

    def __init__(self, stage: str, name: str, told: Progress) -> None:
        self._stage, self._name, self._told = stage, name, told

    def ready(self) -> None:
        """The server is ready, and the prompts are known to fit."""
        self._told.advance(_STARTS)

    def replied(self, text: str) -> None:
        """A reply is there."""
        self.say(text)
        self._told.advance(_REPLIES)

    def warmed_up(self, parallel: int) -> None:
        """A decode of so many requests that is not timed is done."""
        self._told.advance(_warm_ups(parallel))

    def decoded(self, text: str, *, tokens: int, parallel: int) -> None:
        """A timed decode is done."""
        self.say(text)
        self._told.advance(_decodes(parallel), tokens)

    def say(self, text: str) -> None:
        """Say something of this server."""
        line = f"{self._name}: {text}"
        self._told.doing(line)
        print(f"{self._stage}: {line}", file=sys.stderr, flush=True)
