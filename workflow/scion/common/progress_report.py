"""How progress is told: in a file for the run that started the process, and on standard error.

On a terminal work of one kind has a bar; elsewhere, as in a stage's log, a line comes twice a
minute at most. `scion.common.progress` is what work calls.

The time left is the sum over all kinds of work of what is not done yet, at the mean pace of that
kind so far. It is not told before something of each kind was done: an estimate that leaves a kind
out would swell when it comes. Where an estimate grows all the same, by a quarter or more, what
became slower is told with it.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from scion.common.progress_line import ProgressLine
from scion.common.text import duration, size

_LINE_SECONDS = 30.0
_WRITE_SECONDS = 0.5
# From which growth on an estimate says why it grew: of the whole time, and in seconds.
_GROWTH, _GROWTH_SECONDS = 1.25, 10.0
_BYTES = "B"


@dataclass(frozen=True)
class State:
    """How far a process is.

    Attributes:
        doing: What it does now.
        at: When it was so, in seconds since 1970.
        elapsed: Seconds since the counted work began; None where none is counted.
        left: Seconds that the counted work will still take; None while that is not known.
        step: Seconds that one step of it takes; `left` grows no smaller while one takes longer.
        why: Why `left` is more than was told before; empty if it is not.
    """

    doing: str
    at: float
    elapsed: float | None = None
    left: float | None = None
    step: float = 0
    why: str = ""

    def left_at(self, now: float) -> float | None:
        """Seconds left at a time, in seconds since 1970."""
        if self.left is None:
            return None
        return max(self.left - min(max(now - self.at, 0), self.step), 0)

    def share_at(self, now: float) -> float | None:
        """The share of the counted work that is done at a time."""
        left = self.left_at(now)
        if left is None or self.elapsed is None:
            return None
        done = self.elapsed + max(now - self.at, 0)
        return done / max(done + left, 1e-9)


def progress_file(log: Path) -> Path:
    """Where a stage with this log says how far it is."""
    return log.with_suffix(".progress.json")


def read(path: Path) -> State | None:
    """What a process tells of itself in a file; None if there is none, or no such file."""
    try:
        return State(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


@dataclass
class _Kind:
    total: float
    done: float = 0
    # Of `done`, what this process did itself.
    own: float = 0
    seconds: float = 0

    @property
    def open(self) -> float:
        return max(self.total - self.done, 0)

    @property
    def pace(self) -> float | None:
        """Seconds for one."""
        return self.seconds / self.own if self.own else None

    @property
    def cost(self) -> float:
        """Seconds that it took so far and still takes at its pace."""
        return self.seconds + self.open * (self.pace or 0)


@dataclass
class _Told:
    """An estimate that was told, in seconds: in all, still to go, and by kind in all and a step."""

    whole: float
    left: float
    costs: dict[str, float]
    paces: dict[str, float]


class Work:
    """Work that is under way; see `scion.common.progress`."""

    def __init__(
        self, title: str, amounts: Mapping[str, float] | float, *, unit: str = "", done: float = 0
    ) -> None:
        by_kind = amounts if isinstance(amounts, Mapping) else {title: amounts}
        self.title, self._unit = title, unit
        self._kinds = {kind: _Kind(total, done) for kind, total in by_kind.items()}
        self._lock = threading.Lock()
        self._doing = self._note = self._why = ""
        self._begin = self._mark = self._line = self._grown = time.monotonic()
        self._steps = 0
        self._told: _Told | None = None
        self._bar: Any = None

    def __enter__(self) -> "Work":
        """Begin to tell of it."""
        if not any(kind.open for kind in self._kinds.values()):
            return self
        if len(self._kinds) == 1 and sys.stderr.isatty():
            ((title, kind),) = self._kinds.items()
            self._bar = self._bar_of(title, kind)
        REPORTER.begin(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, done or not."""
        REPORTER.end(self)
        if self._bar is not None:
            self._bar.close()

    def _bar_of(self, title: str, kind: _Kind) -> Any:
        """A bar, with `update` and `close`."""
        if self._unit == _BYTES:
            # What only reads bytes needs no further library.
            return ProgressLine(title, kind.total)
        # Late: it takes a tenth of the time of a short stage.
        from tqdm import tqdm

        return tqdm(total=kind.total, initial=kind.done, desc=title)

    def doing(self, text: str) -> None:
        """Say what is done now."""
        self._doing = text
        REPORTER.doing("")

    def advance(self, kind: str = "", amount: float = 1, *, note: str = "") -> None:
        """So much more of a kind is done."""
        with self._lock:
            now = time.monotonic()
            counted = self._kinds[kind or next(iter(self._kinds))]
            counted.done += amount
            counted.own += amount
            counted.seconds += now - self._mark
            self._mark, self._note = now, note
            self._steps += 1
            if self._bar is not None:
                if note:
                    self._bar.set_postfix_str(note, refresh=False)
                self._bar.update(amount)
            elif now >= self._line + _LINE_SECONDS:
                self._line = now
                self._say(now)
        REPORTER.doing("")

    def _say(self, now: float) -> None:
        left = self._estimate(now)
        time_left = "" if left is None else f"; {time_left_text(left, self._why)}"
        print(f"{self.text()}{time_left}", file=sys.stderr, flush=True)

    def text(self) -> str:
        """What is done now, or how much is."""
        amounts = [*map(self._amount, self._kinds), *filter(None, [self._note])]
        return self._doing or ", ".join(amounts)

    def _amount(self, name: str) -> str:
        kind = self._kinds[name]
        if self._unit == _BYTES:
            return f"{name}: {size(kind.done)} of {size(kind.total)}"
        return f"{name}: {kind.done:,.0f} of {kind.total:,.0f}"

    def state(self) -> State:
        """How far it is."""
        with self._lock:
            now = time.monotonic()
            left = self._estimate(now)
            elapsed = now - self._begin
            step = elapsed / self._steps if self._steps else 0
            return State(self.text(), time.time(), elapsed, left, step, self._why)

    def _estimate(self, now: float) -> float | None:
        """Seconds left. Notes in `_why` why they are more than was told before."""
        still = [kind for kind in self._kinds.values() if kind.open]
        # The first step alone often holds what comes once.
        if any(kind.pace is None for kind in still) or self._steps < 2:
            return None
        left = sum(kind.open * (kind.pace or 0) for kind in still)
        under_way = now - self._mark
        whole = self._mark - self._begin + left
        told = self._told
        if told is None or whole <= told.whole:
            self._told = self._estimated(whole, left)
        elif left and whole > _GROWTH * told.whole and whole > told.whole + _GROWTH_SECONDS:
            self._told = self._estimated(whole, left)
            self._why, self._grown = self._reason(told, self._told), now
        if not left or now > self._grown + _LINE_SECONDS:
            self._why = ""
        longest = max((kind.pace or 0 for kind in still), default=0)
        return max(left - min(under_way, longest), 0)

    def _estimated(self, whole: float, left: float) -> _Told:
        paced = {name: kind.pace for name, kind in self._kinds.items() if kind.pace is not None}
        return _Told(whole, left, {name: self._kinds[name].cost for name in paced}, paced)

    def _reason(self, told: _Told, now: _Told) -> str:
        """What made an estimate grow: the kind that became dearer by most, ended or not."""
        name = max(now.costs, key=lambda each: now.costs[each] - told.costs.get(each, 0))
        before = told.paces.get(name)
        each = f"{name} take {_pace(now.paces[name], self._unit)}{'' if self._unit else ' each'}"
        not_as = "" if before is None else f", not {_pace(before, self._unit)}"
        return f"was {duration(told.left, rough=True)}: {each}{not_as}"


def _pace(pace: float, unit: str) -> str:
    return f"{1e9 * pace:.1f} s a GB" if unit == _BYTES else f"{pace:.2g} s"


def time_left_text(left: float, why: str) -> str:
    """How long it still takes, and why that is more than was told before."""
    told = f"about {duration(left, rough=True)} left" if left >= 3 else "nearly done"
    return told + (f" ({why})" if why else "")


@dataclass
class Reporter:
    """What this process tells of itself.

    Attributes:
        path: The file, if there is one.
        text: What is done that nobody counts.
    """

    path: Path | None = None
    text: str = ""
    _works: list[Work] = field(default_factory=list[Work])
    _changed: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)
    _writer: threading.Thread | None = None

    def report_to(self, path: Path | None) -> None:
        """Begin to keep the file, or end it."""
        if self._writer is not None:
            self._ended.set()
            self._changed.set()
            self._writer.join()
            self._writer = None
            if self.path is not None:
                for old in (self.path, _fresh(self.path)):
                    with contextlib.suppress(OSError):
                        old.unlink(missing_ok=True)
        self.path = path
        if path is not None:
            self._ended.clear()
            self._writer = threading.Thread(target=self._write, name="progress", daemon=True)
            self._writer.start()

    def begin(self, work: Work) -> None:
        """Work begins, within that which is under way."""
        self._works.append(work)
        self.changed()

    def end(self, work: Work) -> None:
        """Work ended."""
        with contextlib.suppress(ValueError):
            self._works.remove(work)
        self.text = ""
        self.changed()

    def doing(self, text: str) -> None:
        """Say what is done that nobody counts."""
        self.text = text
        self.changed()

    def changed(self) -> None:
        """There is something new to tell."""
        self._changed.set()

    def state(self) -> State:
        """How far this process is: by the work that holds all other."""
        works = list(self._works)
        text = ": ".join(filter(None, [*(work.text() for work in works), self.text]))
        if not works:
            return State(text, time.time())
        return replace(works[0].state(), doing=text)

    def _write(self) -> None:
        while not self._ended.is_set():
            self._changed.wait()
            self._changed.clear()
            if self.path is not None and not self._ended.is_set():
                # A run goes on without a bar where there is no room for it.
                with contextlib.suppress(OSError):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    _fresh(self.path).write_text(json.dumps(asdict(self.state())))
                    os.replace(_fresh(self.path), self.path)
            self._ended.wait(_WRITE_SECONDS)


def _fresh(path: Path) -> Path:
    """What is written before it takes the file's place."""
    return path.with_name(f".{path.name}.new")


REPORTER = Reporter()
"""Of this process."""
