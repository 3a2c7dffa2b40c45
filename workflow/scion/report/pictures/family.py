"""The picture of a family: how fast its releases are beside the baseline, and how near to bf16."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from scion.common.text import Record, drafts, number, parallel, ratio, small
from scion.report.card.scores import leading_part
from scion.report.family import form, longest
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
    upper_end,
)

_ROW = 0.42
# Inches left of the axes, for the names.
_NAMES = 3.0


def family_picture(compared: Record) -> Picture:
    """A row a release: speed beside the baseline, and divergence from bf16.

    Args:
        compared: The content of `family.json`.
    """
    releases: Sequence[Record] = compared["releases"]
    counts = sorted({decode["parallel"] for release in releases for decode in release["speed"]})
    look = {count: (SERIES[place % 4], MARKERS[place % 4]) for place, count in enumerate(counts)}
    height = 1.55 + _ROW * len(releases)

    def paint(figure: Figure) -> None:
        entries = [(parallel(count), *look[count], True) for count in counts]
        legend(figure, height, entries, note="lines: 95 % intervals")
        bottom, tall = 0.4 / height, _ROW * len(releases) / height
        wide = (WIDTH - _NAMES - 0.3) / 2 - 0.55
        left = figure.add_axes((_NAMES / WIDTH, bottom, wide / WIDTH, tall))
        right = figure.add_axes(((_NAMES + wide + 0.75) / WIDTH, bottom, wide / WIDTH, tall))
        _speed(left, compared, look)
        _quality(right, releases)

    sentences = [
        f"{release['release']} ({form(release)}, {drafts(release['speculative_tokens'])}): "
        + (", ".join(_beside(release, counts)) or "the baseline")
        + f", KL {small(leading_part(release['quality'], 'release')[1]['kl'])}"
        for release in releases
    ]
    title = compared["family"]["title"]
    return draw("family", title, f"{title}. {'; '.join(sentences)}.", height=height, paint=paint)


def _beside(release: Record, counts: Sequence[int]) -> list[str]:
    found = [(count, longest(release, count)) for count in counts]
    return [f"{parallel(count)} {ratio(beside)}" for count, beside in found if beside]


def _rows(axes: Axes, releases: Sequence[Record], *, named: bool) -> None:
    axes.set_ylim(len(releases) - 0.5, -0.5)
    names = [
        f"{release['release']}\n{form(release)}, {drafts(release['speculative_tokens'])}"
        for release in releases
    ]
    axes.set_yticks(range(len(releases)), names if named else [""] * len(names), fontsize=8)


def _speed(axes: Axes, compared: Record, look: dict[int, tuple[str, str]]) -> None:
    releases = compared["releases"]
    style_axes(axes, "speed, longest decode", grid="x")
    axes.axvline(1, color=ZERO, linewidth=1.4)
    most = 1.0
    for row, release in enumerate(releases):
        for place, (count, (colour, marker)) in enumerate(look.items()):
            beside = longest(release, count)
            if beside is None:
                continue
            shifted = row + (place - (len(look) - 1) / 2) * 0.32
            style = {"color": colour, "marker": marker}
            point(axes, (beside["value"], shifted), beside, across=True, **style)
            most = max(most, upper_end(beside))
        if not release["speed"][0]["ratio_to_baseline"]:
            axes.text(1, row, "  baseline", color=MUTED, va="center", fontsize=8)
    axes.set_xlim(0, 1.08 * most)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    _rows(axes, releases, named=True)


def _quality(axes: Axes, releases: Sequence[Record]) -> None:
    style_axes(axes, "KL divergence from bf16", grid="x")
    most = 0.0
    for row, release in enumerate(releases):
        _, scores = leading_part(release["quality"], "release")
        style = {"color": SERIES[2], "marker": MARKERS[2]}
        point(axes, (scores["kl"]["value"], row), scores["kl"], across=True, **style)
        most = max(most, upper_end(scores["kl"]))
        axes.text(
            1.02,
            row,
            number({**scores["kl"], "low": None, "high": None}, 4),
            color=INK,
            va="center",
            fontsize=8.5,
            transform=axes.get_yaxis_transform(),
        )
    axes.set_xlim(0, 1.08 * most or 1)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    _rows(axes, releases, named=False)
