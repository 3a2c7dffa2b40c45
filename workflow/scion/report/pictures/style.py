"""How the pictures look: one palette for light and dark pages, one way from a figure to SVG.

A picture that a page shows as `<img>` can't ask the page for its colours, but it follows the
reader's `prefers-color-scheme`. So each paints its own panel, and takes every colour from a CSS
variable that a media query sets. matplotlib knows no variables: figures are drawn in `Colour.mark`
colours, which stand for the roles and are replaced in the text.

The same results give the same bytes: no date, no random ids, and fonts are named, not embedded.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scion.common.text import Record

WIDTH = 9.0
"""Inches of 72 points; about 860 pixels, and still readable on half of that."""


@dataclass(frozen=True)
class Colour:
    """A role: how matplotlib draws it, and what it is on a light and on a dark page."""

    mark: str
    light: str
    dark: str


# Okabe and Ito's palette, darkened or lightened until text has a contrast of 4.5 and marks of 3
# with the panel. Marks differ in shape or order as well, never in colour alone.
PALETTE = {
    "panel": Colour("#010001", "#ffffff", "#161b22"),
    "edge": Colour("#010002", "#d0d7de", "#30363d"),
    "grid": Colour("#010003", "#e4e8ec", "#2a313a"),
    "ink": Colour("#010004", "#1f2328", "#e6edf3"),
    "muted": Colour("#010005", "#57606a", "#9da7b3"),
    "zero": Colour("#010006", "#7d8590", "#8b949e"),
    "one": Colour("#010007", "#0072b2", "#56b4e9"),
    "two": Colour("#010008", "#c04f00", "#e69f00"),
    "three": Colour("#010009", "#00805d", "#2fc79a"),
    "four": Colour("#01000a", "#a8437f", "#e29bc5"),
}
INK, MUTED, GRID, ZERO = (PALETTE[role].mark for role in ("ink", "muted", "grid", "zero"))
SERIES = tuple(PALETTE[role].mark for role in ("one", "two", "three", "four"))
MARKERS = ("o", "s", "D", "^")

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "scion",
    "font.family": "sans-serif",
    # Comes with matplotlib, so places are the same everywhere; it is wider than what readers have.
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Picture:
    """An SVG and what it shows in words, for those who do not see it."""

    name: str
    title: str
    alt: str
    svg: str


def draw(
    name: str, title: str, alt: str, *, height: float, paint: Callable[[Figure], None]
) -> Picture:
    """Make a picture.

    Args:
        name: Its file's name without the ending.
        title: Its heading, which is also drawn.
        alt: What it shows, numbers included.
        height: Inches.
        paint: Draws on an empty figure below the heading.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure((WIDTH, height))
        figure.patch.set_visible(False)
        top = 1 - 0.28 / height
        heading: Any = {"color": INK, "fontsize": 12, "fontweight": "bold", "va": "center"}
        figure.text(0.022, top, title, parse_math=False, **heading)
        paint(figure)
        file = io.BytesIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=metadata)
    return Picture(name, title, alt, _themed(file.getvalue().decode(), title, alt))


def _themed(svg: str, title: str, alt: str) -> str:
    """The text of matplotlib with our colours, panel, generic font and words."""
    for role, colour in PALETTE.items():
        svg = svg.replace(colour.mark, f"var(--{role})")
    svg = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", svg)
    _, drawn = re.split(r"<svg[^>]*>", svg, maxsplit=1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    if box is None:
        raise AssertionError("matplotlib writes a viewBox")
    width, height = box.groups()
    light, dark = (
        " ".join(f"--{role}: {getattr(colour, theme)};" for role, colour in PALETTE.items())
        for theme in ("light", "dark")
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}" role="img" '
        'aria-labelledby="title description">\n'
        f' <title id="title">{escape(title)}</title>\n <desc id="description">{escape(alt)}</desc>'
        f"\n <style>:root {{ {light} }}\n"
        f"  @media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>\n"
        f' <rect x="0.5" y="0.5" width="{float(width) - 1:g}" height="{float(height) - 1:g}" '
        f'rx="10" style="fill: var(--panel); stroke: var(--edge)"/>{drawn}'
    )


def style_axes(axes: Axes, title: str, *, grid: str) -> None:
    """Quiet axes: no box, a grid along the values (`x` or `y`), a heading on the left."""
    axes.patch.set_visible(False)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, colors=MUTED, labelcolor=MUTED)
    axes.grid(axis=grid, color=GRID, linewidth=1)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", color=INK, fontsize=10, pad=10)


def point(
    axes: Axes, place: tuple[float, float], estimate: Record, *, across: bool, **look: Any
) -> None:
    """A mark with its interval's whisker; `across` if the values run along x.

    Args:
        axes: Where.
        place: The value, and the place on the other axis; both as they are drawn.
        estimate: Gives the ends of the whisker, in units of `look["scale"]`.
        across: Direction of the whisker.
        look: `color`, `marker`, `filled`, `scale`.
    """
    value, row = place
    scale = look.get("scale", 1)
    if estimate["low"] is not None and estimate["high"] is not None:
        ends, rows = [estimate["low"] * scale, estimate["high"] * scale], [row, row]
        line = (ends, rows) if across else (rows, ends)
        axes.plot(*line, color=look["color"], linewidth=1.8, solid_capstyle="round", zorder=2)
    fill = look["color"] if look.get("filled", True) else PALETTE["panel"].mark
    axes.plot(
        *([value], [row]) if across else ([row], [value]),
        marker=look["marker"],
        markersize=6.5,
        markerfacecolor=fill,
        markeredgecolor=look["color"],
        markeredgewidth=1.6,
        linestyle="none",
        zorder=3,
    )


def upper_end(estimate: Record) -> float:
    """Where a whisker ends, or the value without one."""
    return estimate["value"] if estimate["high"] is None else estimate["high"]


def legend(
    figure: Figure, height: float, entries: Sequence[tuple[str, str, str, bool]], *, note: str
) -> None:
    """Marks and what they mean, in one line below the heading, and a remark after them.

    Without marks the remark stands beside the heading.

    Args:
        figure: The picture.
        height: Its height in inches.
        entries: Text, colour, marker, and whether the marker is filled.
        note: The remark.
    """
    axes = figure.add_axes((0, 1 - (0.7 if entries else 0.43) / height, 1, 0.3 / height))
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, 1)
    place = 0.27
    for text, colour, marker, filled in entries:
        fill = colour if filled else PALETTE["panel"].mark
        axes.plot(
            [place],
            [0.5],
            marker=marker,
            markersize=7,
            markerfacecolor=fill,
            markeredgecolor=colour,
            markeredgewidth=1.6,
            linestyle="none",
        )
        axes.text(place + 0.12, 0.47, text, color=INK, va="center", fontsize=9.5)
        place += 0.42 + 0.082 * len(text)
    axes.text(WIDTH - 0.2, 0.47, note, color=MUTED, va="center", ha="right", fontsize=8.5)
