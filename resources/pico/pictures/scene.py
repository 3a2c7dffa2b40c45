"""What a picture shows, drawn by chance on one side of the held-out wall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from dialogues.writer import Writer

SIDE: Final = 128
"""Edge of a picture in pixels. 64 patches of 16 x 16, which the tower merges to 16 tokens; within
the limits of preprocessor_config.json, so no processor resizes it."""

MOST: Final = 4
"""How many shapes a picture shows at most."""

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
"""RGB in 0..255; every shape of a picture is up to `_JITTER` off in each channel."""

SHAPES: Final = ("circle", "square", "triangle", "cross", "ring", "diamond")

_JITTER: Final = 12
_RADIUS: Final = (12, 18)
_GAP: Final = 3


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
    """A picture.

    Attributes:
        ground: RGB of the ground.
        grain: How far a grain of the ground may be off, in each direction; 0 is a plain ground.
        grain_seed: Of the grains.
        figures: The shapes; none touches another or the edge.
    """

    ground: Colour
    grain: int
    grain_seed: int
    figures: tuple[Figure, ...]


def is_held_out(kind: Kind) -> bool:
    """Whether a pair of shape and colour belongs to the evaluation side: 8 of the 48 do."""
    shape, colour = kind
    return (SHAPES.index(shape) + list(COLOURS).index(colour)) % len(SHAPES) == 0


KINDS: Final = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
TRAINED: Final = tuple(kind for kind in KINDS if not is_held_out(kind))
HELD_OUT: Final = tuple(kind for kind in KINDS if is_held_out(kind))


def draw_scene(writer: Writer, kinds: Sequence[Kind]) -> Scene:
    """Places figures of the given kinds at random; the ground is a grey with a tint."""
    while True:
        figures = [_figure(writer, kind) for kind in kinds]
        if all(_apart(*pair) for pair in combinations(figures, 2)):
            break
    level = writer.between(105, 200)
    red, green, blue = (level + writer.between(-12, 12) for _ in range(3))
    grain = writer.even((0, writer.between(4, 14)))
    return Scene((red, green, blue), grain, writer.between(0, 2**32 - 1), tuple(figures))


def _figure(writer: Writer, kind: Kind) -> Figure:
    shape, colour = kind
    red, green, blue = (
        min(255, max(0, channel + writer.between(-_JITTER, _JITTER))) for channel in COLOURS[colour]
    )
    radius = writer.between(*_RADIUS)
    x, y = (writer.between(radius + 1, SIDE - radius - 2) for _ in range(2))
    return Figure(shape, colour, (red, green, blue), x, y, radius)


def _apart(one: Figure, other: Figure) -> bool:
    """Whether the boxes around two figures leave a gap."""
    reach = one.radius + other.radius + _GAP
    return abs(one.x - other.x) > reach or abs(one.y - other.y) > reach
