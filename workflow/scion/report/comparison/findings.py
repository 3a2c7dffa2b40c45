"""What differs between two releases: numbers held against their intervals, values, digests.

The verdict on a number looks at the two 95 % intervals alone. That is a cautious check, not a test:
intervals that overlap prove nothing, while two independent numbers whose intervals do not overlap
differ significantly well beyond 5 % (at about 0.6 % where both are as wide). One number in
some hundreds parts by chance, and an interval covers what one run sampled, its repeats or its
prompts: a machine that was busier on another day can part two timings as well.

Items of lists are aligned by what identifies them, never by their place, unless nothing does.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scion.common.errors import ScionError
from scion.report.measurements import MEASUREMENTS, Identity

SAME, WITHIN, OVERLAP, APART, UNKNOWN = VERDICTS = ("same", "within", "overlap", "apart", "unknown")
_PARTS = {"value", "low", "high", "count"}
_NOTHING, _VALUE, _ESTIMATE = "nothing", "a value", "an estimate"
_OBJECT, _LIST = "an object", "a list of objects"
# What identifies the items of other lists than those of measurements.
_IDENTITIES: tuple[Identity, ...] = (
    ({"code", "subject", "expected"}, "{code} {subject} {expected}"),
    ({"name"}, "{name}"),
    ({"id"}, "{id}"),
)
# Parts a list's name, which is not shown, from the label of an item.
_ITEM = "\0"

Record = dict[str, Any]
Place = tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """A measured number of both releases; `a` and `b` as `Estimate.record` writes them."""

    path: Place
    a: Record
    b: Record

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        a, b = self.a, self.b
        if a["value"] == b["value"]:
            return SAME
        if None in (a["low"], a["high"], b["low"], b["high"]):
            return UNKNOWN
        if b["low"] <= a["value"] <= b["high"] and a["low"] <= b["value"] <= a["high"]:
            return WITHIN
        return OVERLAP if a["low"] <= b["high"] and b["low"] <= a["high"] else APART

    @property
    def change(self) -> float:
        """B less A."""
        return self.b["value"] - self.a["value"]

    @property
    def percent(self) -> float | None:
        """The change in percent of A; None where A is 0."""
        return percent(self.a["value"], self.b["value"])

    @property
    def half(self) -> float | None:
        """Half the width of the wider interval; None without one."""
        widths = [
            (record["high"] - record["low"]) / 2
            for record in (self.a, self.b)
            if record["low"] is not None and record["high"] is not None
        ]
        return max(widths, default=None)

    @property
    def halves(self) -> float | None:
        """The change's size in half-widths of the wider interval."""
        return abs(self.change) / self.half if self.half else None


@dataclass(frozen=True)
class Value:
    """Anything else that both releases hold: counts, digests, versions, settings, texts."""

    path: Place
    a: Any
    b: Any

    @property
    def equal(self) -> bool:
        """Whether both are the same."""
        return self.a == self.b


@dataclass(frozen=True)
class OneSided:
    """What only one release, `side` A or B, holds."""

    path: Place
    side: str
    value: Any

    @property
    def numbers(self) -> int:
        """How many measured numbers that is."""
        return _count(self.value)


Finding = Number | Value | OneSided


def percent(a: float, b: float) -> float | None:
    """The change from A to B in percent of A; None where A is 0, or both are beyond a double."""
    try:
        return 100 * (b - a) / abs(a) if a else None
    except OverflowError:
        return None


def title(path: Place) -> str:
    """A path as people read it: `serving.json: pico n=3: 64 tokens, 1 parallel: ttft_ms`."""
    return ": ".join(part.rsplit(_ITEM, 1)[-1] for part in path)


def pattern(path: Place) -> Place:
    """What a path has in common with those of the same kind: of other items, of sibling keys."""
    kinds = tuple(part.split(_ITEM)[0] for part in path)
    return path[:-1] if kinds == path and len(path) > 2 else kinds


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Finding]:
    """All that two sets of result files hold, in the order of A's.

    Args:
        a: Content by name of the file.
        b: The same of the other release.

    Raises:
        ScionError: A file has another shape in one of them, or an estimate is none.
    """
    try:
        return list(_walk((), a, b))
    except RecursionError:
        raise _shape((), "files of at most some hundred levels", "deeper ones") from None


def _walk(path: Place, a: Any, b: Any) -> Iterator[Finding]:
    kind, other_kind = _kind(a, path), _kind(b, path)
    if {kind, other_kind} <= {_NOTHING, _VALUE}:
        yield Value(path, a, b)
    elif _NOTHING in (kind, other_kind):
        yield OneSided(path, "A", a) if other_kind == _NOTHING else OneSided(path, "B", b)
    elif kind != other_kind:
        raise _shape(path, f"{kind}, as in A", f"{other_kind} in B")
    elif kind == _LIST:
        yield from _walk_all(*_labelled(path, a, b))
    elif kind == _ESTIMATE:
        yield Number(path, a, b)
    else:
        yield from _walk_all(
            *(
                {(*path, key): _comparable(key, part) for key, part in record.items()}
                for record in (a, b)
            )
        )


def _walk_all(a: Mapping[Place, Any], b: Mapping[Place, Any]) -> Iterator[Finding]:
    for path in {**a, **b}:
        if path not in b:
            yield OneSided(path, "A", a[path])
        elif path not in a:
            yield OneSided(path, "B", b[path])
        else:
            yield from _walk(path, a[path], b[path])


def _kind(value: Any, path: Place) -> str:
    if value is None or value == [] or value == {}:
        return _NOTHING
    if isinstance(value, dict):
        if not value.keys() >= _PARTS:
            return _OBJECT
        if not _is_estimate(value):
            raise _shape(path, "value, low, high and count, finite numbers", value)
        return _ESTIMATE
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        if not all(isinstance(item, dict) for item in value):
            raise _shape(path, f"{_LIST}, or of values", "a list of both")
        return _LIST
    return _VALUE


def _is_estimate(value: Any) -> bool:
    """Whether it is what `Estimate.record` writes."""
    if not isinstance(value, dict) or value.keys() != _PARTS:
        return False
    known = [value["value"], value["count"]]
    known += [value[end] for end in ("low", "high") if value[end] is not None]
    return all(map(_is_number, known))


def _is_number(value: Any) -> bool:
    """Whether it is a number that a double can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    with contextlib.suppress(OverflowError):
        return math.isfinite(value)
    return False


def _shape(path: Place, expected: object, found: object) -> ScionError:
    return ScionError(
        "a result file is not of the shape that can be compared",
        where=title(path) or "result files",
        expected=expected,
        found=found,
        hint="different versions of Scion wrote the two: measure the older release again",
    )


def _labelled(path: Place, *lists: list[Record]) -> list[dict[Place, Record]]:
    """The items of each list by path; a list's own name is told only if it holds estimates."""
    items = [item for part in lists for item in part]
    known = [identity for row in MEASUREMENTS.values() for identity in row.identities]
    form = next(
        (
            form
            for keys, form in (*known, *_IDENTITIES)
            if all(keys <= item.keys() for item in items)
        ),
        "",
    )
    mark = " " if all(map(_is_estimate, items)) else _ITEM
    # A file's name is told always.
    stem = (path[:-1], path[-1]) if len(path) > 1 else (path, "")
    labelled: list[dict[Place, Record]] = []
    for part in lists:
        seen: Counter[str] = Counter()
        labelled.append({})
        for item in part:
            label = form.format(**item | {"thinking": _mode(item.get("thinking"))})
            seen[label] += 1
            if seen[label] > 1 or not form:
                label = f"{label} #{seen[label]}".strip()
            labelled[-1][(*stem[0], f"{stem[1]}{mark}{label}")] = item
    return labelled


def _mode(thinking: Any) -> str:
    return "both" if thinking is None else "thinking" if thinking else "no thinking"


def _comparable(key: str, value: Any) -> Any:
    """What of a value can be the same in two runs."""
    for row in MEASUREMENTS.values():
        if key in row.comparable:
            return row.comparable[key](value)
    return value


def holds_numbers(content: Any) -> bool:
    """Whether a result file holds estimates."""
    return _count(content) > 0


def _count(value: Any) -> int:
    if _is_estimate(value):
        return 1
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_count, parts))
