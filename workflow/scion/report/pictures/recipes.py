"""The picture of a comparison of recipes: how far from bf16 each is, and how large."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from scion.common.text import Record, size, small
from scion.report.pictures.style import (
    INK,
    MARKERS,
    MUTED,
    SERIES,
    WIDTH,
    Picture,
    draw,
    legend,
    point,
    style_axes,
)
from scion.report.recipes import RANKED

_HEIGHT = 4.4
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
# By whether some projections are in FP8, and some in bf16.
_FORMATS = {
    (False, False): "all projections in NVFP4",
    (True, False): "some in FP8",
    (False, True): "some in bf16",
    (True, True): "some in FP8, some in bf16",
}
# Labels are kept so far apart, as a share of the axis.
_APART = 0.075
# The width of a label, as such a share.
_LABEL = 0.3


def recipes_picture(result: Record) -> Picture:
    """Divergence from the bf16 source against the size of the release.

    Args:
        result: `recipes.json`.
    """
    variants = [variant for variant in result["variants"] if variant["recipe"] is not None]
    present = [key for key in _FORMATS if any(_formats(variant) == key for variant in variants)]
    look = {key: (SERIES[place], MARKERS[place]) for place, key in enumerate(present)}
    unit, factor = next(
        (pair for pair in _UNITS if max(variant["bytes"] for variant in variants) >= pair[1]),
        ("B", 1),
    )

    def paint(figure: Figure) -> None:
        entries = [(_FORMATS[key], *look[key], True) for key in present]
        legend(figure, _HEIGHT, entries, note="intervals stand in the table")
        box = (0.75 / WIDTH, 0.55 / _HEIGHT, (WIDTH - 0.95) / WIDTH, (_HEIGHT - 1.75) / _HEIGHT)
        axes = figure.add_axes(box)
        style_axes(axes, "KL divergence from bf16 (nats a token), lower is better", grid="y")
        axes.set_yscale("log")
        for variant in variants:
            colour, marker = look[_formats(variant)]
            # Without whiskers: those of one size would cover each other, and documents differ more
            # than recipes do, which are compared document by document.
            divergence: float = variant["parts"][RANKED]["kl"]["value"]
            mark = {**variant["parts"][RANKED]["kl"], "low": None, "high": None}
            place = (divergence, variant["bytes"] / factor)
            point(axes, place, mark, across=False, color=colour, marker=marker)
        _scales(axes, variants, factor)
        axes.set_xlabel(f"size of the release ({unit})", color=MUTED)
        _labels(axes, variants, factor)

    text = "; ".join(
        f"{variant['title']}: {size(variant['bytes'])}, KL {small(variant['parts'][RANKED]['kl'])}"
        for variant in variants
    )
    title = "Recipes: quality against size"
    return draw("recipes", title, f"{title}. {text}.", height=_HEIGHT, paint=paint)


def _formats(variant: Record) -> tuple[bool, bool]:
    return variant["use_fp8"] != "none", variant["keep_bf16"] != "none"


def _scales(axes: Axes, variants: Sequence[Record], factor: float) -> None:
    sizes = [variant["bytes"] / factor for variant in variants]
    smallest, span = min(sizes), max(sizes) - min(sizes) or 0.2 * max(sizes)
    # Room for the labels, which stand to the right of the marks.
    axes.set_xlim(smallest - 0.06 * span, smallest + 1.6 * span)
    kls = [variant["parts"][RANKED]["kl"]["value"] for variant in variants]
    axes.set_ylim(min(kls) / 1.25, max(kls) * 1.25)
    ticks = [step * 10.0**power for power in range(-8, 3) for step in (1, 2, 3, 5, 7)]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _labels(axes: Axes, variants: Sequence[Record], factor: float) -> None:
    """Names and numbers beside the marks, spread where sizes are near, so that none is covered."""
    to_axes = axes.transData + axes.transAxes.inverted()

    def mark_of(variant: Record) -> tuple[float, float]:
        across, up = to_axes.transform(
            (variant["bytes"] / factor, variant["parts"][RANKED]["kl"]["value"])
        )
        return float(across), float(up)

    groups: list[list[Record]] = []
    last = -math.inf
    for variant in sorted(variants, key=lambda variant: variant["bytes"]):
        across, _ = mark_of(variant)
        if across - last > _LABEL:
            groups.append([])
        groups[-1].append(variant)
        last = across
    for group in groups:
        ordered = sorted(group, key=lambda variant: variant["parts"][RANKED]["kl"]["value"])
        marks = [mark_of(variant) for variant in ordered]
        heights = spread([mark[1] for mark in marks], apart=_APART)
        for variant, mark, height in zip(ordered, marks, heights, strict=True):
            beside = (mark[0] + 0.035, height)
            axes.plot(
                [mark[0] + 0.01, beside[0] - 0.004],
                [mark[1], height],
                color=MUTED,
                linewidth=0.7,
                transform=axes.transAxes,
            )
            text = f"{variant['title']}  {variant['parts'][RANKED]['kl']['value']:.2g}"
            axes.text(*beside, text, color=INK, va="center", transform=axes.transAxes, fontsize=9)


def spread(places: Sequence[float], *, apart: float) -> list[float]:
    """Places that are at least so far apart, in the same order, near those that are given.

    Args:
        places: Ascending, in [0, 1].
        apart: The smallest distance; there is room for all of them.
    """
    moved = list(places)
    for number in range(1, len(moved)):
        moved[number] = max(moved[number], moved[number - 1] + apart)
    # Down again as a whole as far as the mean was pushed up, but not below the axis.
    excess = sum(moved) / len(moved) - sum(places) / len(places)
    down = min(excess, moved[0]) if moved[0] > 0 else 0.0
    return [place - down for place in moved]
