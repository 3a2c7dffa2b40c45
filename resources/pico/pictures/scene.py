"""What a picture shows, drawn by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dialogues.writer import Writer

SIDE: Final = 128
"""Edge of a picture in pixels. 64 patches of 16 x 16, which the tower merges to 16 tokens; within
the limits of preprocessor_config.json, so no processor resizes it."""

CELLS: Final = 2
"""Cells in a row and in a column; each holds one figure at most."""

MOST: Final = CELLS**2
"""How many figures a picture shows at most."""

Colour = tuple[int, int, int]
Kind = tuple[str, str]
"""A shape and a colour, by name."""

COLOURS: Final[dict[str, Colour]] = {
    "red": (220, 35, 35),
    "green": (30, 160, 50),
    "blue": (35, 70, 225),
    "yellow": (245, 225, 40),
    "orange": (245, 140, 20),
    "purple": (135, 40, 170),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}
"""RGB in 0..255; every figure of a picture is up to `_JITTER` off in each channel."""

SHAPES: Final = ("circle", "square", "triangle", "cross", "ring")
KINDS: Final = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)

_JITTER: Final = 12
_RADIUS: Final = (16, 26)


@dataclass(frozen=True)
class Figure:
    """One shape in a picture: what it is, its RGB, its centre and radius in pixels."""

    shape: str
    colour: str
    rgb: Colour
    x: int
    y: int
    radius: int

    @property
    def kind(self) -> Kind:
        """Shape and colour by name."""
        return self.shape, self.colour


@dataclass(frozen=True)
class Scene:
    """A picture: the RGB of its ground, and its figures in reading order, none touching another."""

    ground: Colour
    figures: tuple[Figure, ...]


def draw_scene(writer: Writer, kinds: Sequence[Kind]) -> Scene:
    """Places figures of the given kinds at random; the ground is a grey with a tint."""
    cells = sorted(writer.rng.sample(range(MOST), len(kinds)))
    figures = [_figure(writer, kind, cell) for kind, cell in zip(kinds, cells, strict=True)]
    level = writer.between(105, 200)
    red, green, blue = (level + writer.between(-12, 12) for _ in range(3))
    return Scene((red, green, blue), tuple(figures))


def _figure(writer: Writer, kind: Kind, cell: int) -> Figure:
    shape, colour = kind
    red, green, blue = (
        min(255, max(0, channel + writer.between(-_JITTER, _JITTER))) for channel in COLOURS[colour]
    )
    radius, side = writer.between(*_RADIUS), SIDE // CELLS
    row, column = divmod(cell, CELLS)
    x, y = (place * side + writer.between(radius + 1, side - radius - 2) for place in (column, row))
    return Figure(shape, colour, (red, green, blue), x, y, radius)
