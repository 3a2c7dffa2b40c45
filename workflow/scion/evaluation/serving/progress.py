"""Progress of measurements on several servers, one after the other, as lines on stderr."""

import sys
import time


class MeasurementProgress:
    """Says what runs, how far it is, and how long it takes yet.

    The time left is that of the tokens not yet generated at the mean pace so far, and of the
    servers not yet started.
    """

    def __init__(self, stage: str, *, servers: int) -> None:
        """Start the clock."""
        self._stage, self._servers, self._server = stage, servers, 0
        self._name = ""
        self._begin = self._mark = time.monotonic()
        self._start_seconds = self._work_seconds = 0.0
        self._tokens = self._tokens_done = 0

    def next_server(self, name: str) -> None:
        """A server is about to be started."""
        self._server += 1
        self._name = name
        self._mark = time.monotonic()
        self._say("starting the server")

    def ready(self, tokens: int) -> None:
        """The server is ready; about so many tokens are to be generated one after the other."""
        self._start_seconds += self._lap()
        self._tokens += tokens

    def advance(self, item: str, tokens: int) -> None:
        """Something that was counted with so many tokens is done."""
        self._work_seconds += self._lap()
        self._tokens_done += tokens
        share = self._server / self._servers
        open_tokens = self._tokens / share - self._tokens_done
        left = open_tokens * self._work_seconds / max(self._tokens_done, 1)
        left += (self._servers - self._server) * self._start_seconds / self._server
        self._say(f"{item}; about {max(left, 0):.0f} s yet")

    def done(self) -> None:
        """The clear last line."""
        seconds = time.monotonic() - self._begin
        print(f"{self._stage}: done, {self._servers} servers in {seconds:.0f} s", file=sys.stderr)

    def _lap(self) -> float:
        now = time.monotonic()
        lap, self._mark = now - self._mark, now
        return lap

    def _say(self, text: str) -> None:
        place = f"{self._name} ({self._server} of {self._servers})"
        print(f"{self._stage}: {place}: {text}", file=sys.stderr, flush=True)
