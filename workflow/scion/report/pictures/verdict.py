"""The picture of a verdict: each criterion's estimate and interval beside its threshold."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scion.common.text import Record
from scion.report.pictures.style import (
    INK,
    MARKERS,
    MUTED,
    SERIES,
    WIDTH,
    ZERO,
    Picture,
    draw,
    legend,
    point,
    style_axes,
)
from scion.report.verdict import estimate_words

_ROW = 0.3
# Inches left and right of the axes, for names and numbers.
_NAMES, _NUMBERS = 2.75, 3.1
# What is further out stands at the edge.
_LEFT, _RIGHT = -1.5, 3.0
_LOOK = {
    "accept": (SERIES[2], MARKERS[0], True),
    "undecided": (SERIES[0], MARKERS[2], False),
    "regression": (SERIES[1], MARKERS[1], True),
}


def verdict_picture(verdict: Record) -> Picture:
    """A row a criterion, on one axis: 0 is the source, 1 the threshold, right of it is worse.

    Args:
        verdict: The content of `verdict.json`.
    """
    criteria = [each for each in verdict["criteria"] if each["outcome"] != "not asked"]
    height = 1.35 + _ROW * len(criteria)

    def paint(figure: Figure) -> None:
        legend(
            figure,
            height,
            [(outcome, *look) for outcome, look in _LOOK.items()],
            note="lines: 95 % intervals",
        )
        tall = _ROW * len(criteria)
        wide = WIDTH - _NAMES - _NUMBERS
        box = (_NAMES / WIDTH, 0.5 / height, wide / WIDTH, tall / height)
        axes = figure.add_axes(box)
        style_axes(axes, "", grid="x")
        axes.axvline(0, color=ZERO, linewidth=1.2)
        axes.axvline(1, color=SERIES[1], linewidth=1.6)
        for row, criterion in enumerate(criteria):
            _row(axes, row, criterion)
        axes.set_ylim(len(criteria) - 0.5, -0.5)
        axes.set_xlim(_LEFT, _RIGHT)
        axes.set_xticks([-1, 0, 1, 2, 3], ["", "source", "threshold", "", "worse"])
        axes.set_yticks(range(len(criteria)), [each["title"] for each in criteria], fontsize=8.5)

    told = "; ".join(
        f"{each['title']} {estimate_words(each)} {each['unit']}, {each['bound']} "
        f"{each['threshold']:g}: {each['outcome']}"
        for each in criteria
    )
    title = f"Verdict: {verdict['outcome']}"
    return draw("verdict", title, f"{title}. {told}.", height=height, paint=paint)


def _row(axes: Axes, row: int, criterion: Record) -> None:
    beside = axes.get_yaxis_transform()
    words = f"{estimate_words(criterion)}, {criterion['bound']} {criterion['threshold']:g}"
    axes.text(1.03, row, words, color=INK, va="center", fontsize=8, transform=beside)
    estimate = criterion["estimate"]
    if estimate is None:
        axes.text(0, row, "  not measured", color=MUTED, va="center", fontsize=8)
        return
    colour, marker, filled = _LOOK[criterion["outcome"]]
    ends = [estimate[end] for end in ("low", "high")]
    drawn = [None if end is None else _placed(end, criterion) for end in ends]
    low, high = drawn if None in drawn else sorted(end for end in drawn if end is not None)
    place = _placed(estimate["value"], criterion)
    look = {"color": colour, "marker": marker, "filled": filled}
    point(axes, (place, row), {"low": low, "high": high}, across=True, **look)


def _placed(value: float, criterion: Record) -> float:
    """Where a value stands between source and threshold, no further than the picture's edge."""
    neutral, threshold = criterion["neutral"], criterion["threshold"]
    if neutral == threshold:
        # All is asked for: what falls short is wholly beyond.
        return 0.0 if value == neutral else _RIGHT - 0.1
    place = (value - neutral) / (threshold - neutral)
    return min(max(place, _LEFT + 0.05), _RIGHT - 0.05)
