"""The lines of a run: each stage when it has ended, and what those do that are under way.

On a terminal the stages under way have a line each below, with a bar, redrawn in place. Elsewhere
(a pipe, a CI's log) such a line is written instead, twice a minute for each stage.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from scion.common.progress_report import State, progress_file, read, time_left_text
from scion.common.text import duration, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

_LINE_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_NAME, _TIME = 16, 11
# Columns of a terminal from which on there is room for a longer bar.
_WIDE = 110


@dataclass
class RunningStage:
    """A stage that is under way.

    Attributes:
        name: The stage.
        log: What it says.
        of: The release, where a run has several; empty if not.
        begin: By the monotonic clock, in seconds.
        told: When a line was last written of it, by the same clock.
    """

    name: str
    log: Path | None
    of: str = ""
    begin: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)
    _known: bool = False

    @property
    def seconds(self) -> float:
        """How long it takes by now."""
        return time.monotonic() - self.begin

    def state(self) -> State:
        """How far it says that it is."""
        state = read(progress_file(self.log)) if self.log else None
        if state is None:
            return State("ending" if self._known else "starting", time.time())
        self._known = True
        return state

    def ended(self, result: str) -> str:
        """Its line, once it has ended with this result."""
        return stage_line(self.name, self.seconds, ": ".join(filter(None, (self.of, result))))

    def progress(self) -> str:
        """Its line while it is under way."""
        name = f"{self.name} of {self.of}" if self.of else self.name
        return progress_line(name, self.seconds, self.state())


def stage_line(name: str, seconds: float, text: str) -> str:
    """The line of a stage that has ended."""
    return f"{name:<{_NAME}}  {duration(seconds):>{_TIME}}  {text}".rstrip()


def progress_line(name: str, seconds: float, state: State) -> str:
    """The line of a stage that is under way."""
    now = time.time()
    share, left = state.share_at(now), state.left_at(now)
    parts = [duration(seconds)]
    if share is not None and left is not None:
        parts.append(f"{100 * share:.0f} %, {time_left_text(left, state.why)}")
    if state.doing:
        parts.append(printable(state.doing))
    return f"{name}: {'; '.join(parts)}"


class RunDisplay:
    """Shows a run on a stream.

    Args:
        stream: Usually standard error.
        quiet: Only what went wrong.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream, self._quiet = stream, quiet
        self._running: dict[int, RunningStage] = {}
        self._lock = threading.RLock()
        self._live: Any = None
        self._closed = threading.Event()
        self._teller: threading.Thread | None = None

    def start(self, job: int, name: str, log: Path | None, *, of: str = "") -> None:
        """A stage begins, of the release `of` where there are several."""
        if log is not None:
            # What a run that was killed has left.
            with contextlib.suppress(OSError):
                progress_file(log).unlink(missing_ok=True)
        with self._lock:
            self._running[job] = RunningStage(name, log, of)
            if not self._quiet and self._live is None and self._teller is None:
                self._begin()

    def finish(self, job: int, result: Callable[[RunningStage], str]) -> RunningStage | None:
        """A stage has ended.

        Args:
            job: The number that it began with.
            result: What to say of it.
        """
        with self._lock:
            stage = self._running.pop(job, None)
        if stage is not None and not self._quiet:
            self.say(stage.ended(printable(result(stage))))
        return stage

    def say(self, text: str) -> None:
        """Write a line above those of the stages under way."""
        # Never with the lock: rich has one of its own, and asks for the bars while it holds it.
        live = self._live
        if live is not None:
            live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Take the bars away."""
        self._closed.set()
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _begin(self) -> None:
        # Late: a dry run needs none of it.
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream)
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                console=console,
                get_renderable=lambda: self._bars(console.width),
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        else:
            self._teller = threading.Thread(target=self._tell, name="run display", daemon=True)
            self._teller.start()

    def _tell(self) -> None:
        """Write a line now and then of each stage that takes long."""
        while not self._closed.wait(_LOOK_SECONDS):
            for stage in list(self._running.values()):
                now = time.monotonic()
                if now < stage.told + _LINE_SECONDS:
                    continue
                stage.told = now
                self.say(stage.progress())

    def _bars(self, width: int) -> "RenderableType":
        """The stages under way, a line each, on a terminal of so many columns."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = 20 if width >= _WIDE else 8
        table = Table.grid(padding=(0, 2))
        for fixed in (_NAME, bar, 5, _TIME):
            table.add_column(width=fixed, no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.expand = True
        running = list(self._running.values())
        now = time.time()
        for stage in running:
            state = stage.state()
            share, left = state.share_at(now), state.left_at(now)
            known = share is not None and left is not None
            words = [time_left_text(left or 0, state.why) if known else "", stage.of, state.doing]
            table.add_row(
                stage.name,
                ProgressBar(total=1, completed=share or 0, pulse=not known, width=bar),
                Text(f"{100 * (share or 0):.0f} %" if known else "", justify="right"),
                Text(duration(stage.seconds), justify="right"),
                Text(printable("; ".join(filter(None, words)))),
            )
        return table
