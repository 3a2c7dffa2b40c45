"""What `scion compare` says: tables for people, one JSON object for programs."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scion.common.text import change
from scion.report.comparison.findings import (
    APART,
    OVERLAP,
    SAME,
    UNKNOWN,
    VERDICTS,
    WITHIN,
    Finding,
    Number,
    OneSided,
    Record,
    Value,
    compare,
    pattern,
    percent,
    title,
)
from scion.report.comparison.paired import PairedNumber, paired_numbers
from scion.report.comparison.releases import Release, Stage, stages, weights

# Values of one kind that are shown without --all, and letters of a value.
_ROWS, _LETTERS = 6, 36
_ORDER = (APART, UNKNOWN, OVERLAP, WITHIN, SAME)
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class ComparisonReport:
    """What differs between two releases.

    Attributes:
        a: One release.
        b: The other.
        findings: All that their result files hold.
        paired: What both were measured on prompt by prompt.
        everything: Whether what is unchanged is told too.
    """

    a: Release
    b: Release
    findings: Sequence[Finding]
    paired: Sequence[PairedNumber]
    everything: bool

    @classmethod
    def of(cls, a: Release, b: Release, *, everything: bool) -> "ComparisonReport":
        """Compare two releases.

        Raises:
            ScionError: A result file has another shape in one of them.
        """
        findings = compare(a.results, b.results)
        return cls(a, b, findings, paired_numbers(a.results, b.results), everything)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind, told or not."""
        numbers = Counter(
            finding.verdict for finding in self.findings if isinstance(finding, Number)
        )
        equal = Counter(finding.equal for finding in self.findings if isinstance(finding, Value))
        sides = Counter(finding.side for finding in self.findings if isinstance(finding, OneSided))
        return {
            "numbers": numbers.total(),
            **{verdict: numbers[verdict] for verdict in VERDICTS},
            "paired": len(self.paired),
            "paired_different": sum(number.differs is True for number in self.paired),
            "values_different": equal[False],
            "values_equal": equal[True],
            "only_in_a": sides["A"],
            "only_in_b": sides["B"],
        }

    def record(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {
            "a": _identity(self.a),
            "b": _identity(self.b),
            "weights": weights(self.a, self.b),
            "stages": [
                {"name": stage.name, "same": not stage.reasons, "reasons": list(stage.reasons)}
                for stage in self._stages
            ],
            "numbers": [_number_record(number) for number in self._numbers],
            "paired": [
                {
                    "path": number.title,
                    "a": number.a,
                    "b": number.b,
                    "difference": number.difference,
                    "differs": number.differs,
                }
                for number in self._paired
            ],
            "values": [
                {"path": title(value.path), "a": value.a, "b": value.b} for value in self._values
            ],
            **{
                f"only_in_{side.lower()}": [
                    {
                        "path": title(finding.path),
                        "numbers": finding.numbers,
                        "value": finding.value,
                    }
                    for finding in self._only_in(side)
                ]
                for side in ("A", "B")
            },
            "counts": self.counts,
        }

    def lines(self) -> list[str]:
        """The comparison as text; its last line counts."""
        lines = [
            f"A        {self.a.artifact.folder}",
            f"B        {self.b.artifact.folder}",
            f"weights  {weights(self.a, self.b)}",
            *_digests(self._stages),
        ]
        if self._numbers:
            heads = ("verdict", "A", "B", "change", "half-widths", "number")
            lines += ["", *_table(heads, [_number_row(number) for number in self._numbers])]
        if self._paired:
            heads = ("verdict", "A", "B", "difference", "prompts", "number")
            lines += ["", "the same prompts, one by one:"]
            lines += _table(heads, [_paired_row(number) for number in self._paired])
        if self._values:
            lines += ["", "without an interval:", *self._value_lines()]
        for side in ("A", "B"):
            if findings := self._only_in(side):
                lines += [
                    "",
                    f"only in {side}:",
                    *(f"  {_one_sided(finding)}" for finding in findings),
                ]
        return [*lines, "", self._closing()]

    @cached_property
    def _stages(self) -> list[Stage]:
        return stages(self.a, self.b)

    @cached_property
    def _numbers(self) -> list[Number]:
        """Those to tell, the farthest apart first."""
        numbers = [finding for finding in self.findings if isinstance(finding, Number)]
        kept = [finding for finding in numbers if self.everything or finding.verdict != SAME]
        return sorted(kept, key=lambda number: _ORDER.index(number.verdict))

    @cached_property
    def _paired(self) -> list[PairedNumber]:
        return [
            number for number in self.paired if self.everything or number.difference["value"] != 0
        ]

    @cached_property
    def _values(self) -> list[Value]:
        values = [value for value in self.findings if isinstance(value, Value)]
        return [value for value in values if self.everything or not value.equal]

    def _only_in(self, side: str) -> list[OneSided]:
        findings = [finding for finding in self.findings if isinstance(finding, OneSided)]
        return [finding for finding in findings if finding.side == side]

    def _value_lines(self) -> Iterator[str]:
        """A table of the values; of many of one kind the first, and how many more there are."""
        kinds = Counter(pattern(value.path) for value in self._values)
        seen: Counter[tuple[str, ...]] = Counter()
        rows: list[list[str]] = []
        for value in self._values:
            kind = pattern(value.path)
            seen[kind] += 1
            if self.everything or seen[kind] <= _ROWS or kinds[kind] == _ROWS + 1:
                rows.append([*_beside(value.a, value.b), title(value.path)])
            elif seen[kind] == _ROWS + 1:
                rows.append(["…", "…", "", f"{title(kind)}: {kinds[kind] - _ROWS} more (--all)"])
        yield from _table(("A", "B", "change", "value"), rows)

    def _closing(self) -> str:
        count = self.counts
        verdicts = ", ".join(
            f"{count[verdict]} {verdict}"
            for verdict in VERDICTS
            if count[verdict] or verdict != UNKNOWN
        )
        if self._paired:
            verdicts += f"; {count['paired_different']} of {count['paired']} paired ones differ"
        sides: list[str] = []
        for side in ("A", "B"):
            findings = self._only_in(side)
            numbers = sum(finding.numbers for finding in findings)
            sides.append(
                f"{len(findings)} only in {side}" + (f" ({numbers} numbers)" * bool(numbers))
            )
        return (
            f"{count['numbers']} numbers: {verdicts}; {count['values_different']} other values "
            f"differ, {count['values_equal']} are equal; {', '.join(sides)}"
        )


def _identity(release: Release) -> dict[str, str]:
    artifact = release.artifact
    return {"folder": str(artifact.folder), "root": artifact.root, "weights": release.weights}


def _number_record(number: Number) -> dict[str, Any]:
    return {
        "path": title(number.path),
        "verdict": number.verdict,
        "a": number.a,
        "b": number.b,
        "change": number.change,
        "percent": number.percent,
        "half_widths": number.halves,
    }


def _digests(compared: Sequence[Stage]) -> list[str]:
    """Which stages have one root digest, and why the others have two."""
    same = [stage.name for stage in compared if not stage.reasons]
    lines = [f"digests  {len(same)} of {len(compared)} the same: {', '.join(same)}".rstrip(": ")]
    width = max((len(stage.name) for stage in compared), default=0)
    for stage in compared:
        lines += [
            f"         {'' if place else stage.name:<{width}}  {reason}"
            for place, reason in enumerate(stage.reasons)
        ]
    return lines


def _number_row(number: Number) -> list[str]:
    digits = _digits(number)
    shown = f"{number.change:+.{digits}f}"
    if number.percent is not None:
        shown += f" ({_percent(number.percent)})"
    return [
        number.verdict,
        _estimate(number.a, digits),
        _estimate(number.b, digits),
        shown.replace("-", _MINUS) if number.change else "",
        "" if number.halves is None or not number.change else f"{number.halves:.1f}",
        title(number.path),
    ]


def _paired_row(number: PairedNumber) -> list[str]:
    difference = change(number.difference, 3)
    differs = {True: "differs", False: "", None: UNKNOWN}[number.differs]
    # Nothing varies where nothing differs.
    verdict = differs if number.difference["value"] else ""
    values = [f"{value:.3f}" for value in (number.a, number.b)]
    return [verdict, *values, difference, str(number.difference["count"]), number.title]


def _digits(number: Number) -> int:
    """Places after the point: two figures of the half-width, and at least one of the change."""
    places = [
        figures - 1 - math.floor(math.log10(size))
        for figures, size in ((1, abs(number.change)), (2, number.half or 0))
        if size
    ]
    return min(max(0, *places), 6) if places else 4


def _estimate(record: Record, digits: int) -> str:
    ends = [record[end] for end in ("low", "high") if record[end] is not None]
    text = f"{record['value']:.{digits}f}"
    if len(ends) == 2:
        text += f" ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})"
    return text.replace("-", _MINUS)


def _beside(a: Any, b: Any) -> list[str]:
    """Two values and their change; long ones from the place on where they part."""
    first, second = (value if isinstance(value, str) else _json(value) for value in (a, b))
    numbers = [
        value for value in (a, b) if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    change = percent(a, b) if len(numbers) == 2 and a != b else None
    if max(len(first), len(second)) > _LETTERS:
        pairs = enumerate(zip(first, second, strict=False))
        part = next((place for place, (x, y) in pairs if x != y), min(len(first), len(second)))
        start = max(0, part - _LETTERS // 3)
        first, second = (_cut(text, start) for text in (first, second))
    shown = "" if change is None else _percent(change).replace("-", _MINUS)
    return [first, second, shown]


def _percent(change: float) -> str:
    return f"{change:+.1f} %" if abs(change) >= 0.95 else f"{change:+.2g} %"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str, start: int) -> str:
    shown = text[start : start + _LETTERS].replace("\n", " ")
    return ("…" if start else "") + shown + ("…" if start + _LETTERS < len(text) else "")


def _one_sided(finding: OneSided) -> str:
    if isinstance(finding.value, dict | list):
        return title(finding.path) + (f" ({finding.numbers} numbers)" if finding.numbers else "")
    return f"{title(finding.path)}: {_cut(_json(finding.value), 0)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; the last one is as long as it is."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
