"""A scene as pixels, and pixels as a PNG file: integers throughout, so alike on every machine."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from pictures.scene import SIDE, Figure, Scene

Pixels = NDArray[np.uint8]
"""[SIDE, SIDE, 3], RGB."""

_ROWS, _COLUMNS = np.mgrid[:SIDE, :SIDE]


def paint(scene: Scene) -> Pixels:
    """The picture of a scene."""
    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[:] = scene.ground
    for figure in scene.figures:
        pixels[_covered(figure)] = figure.rgb
    return pixels


def _covered(figure: Figure) -> NDArray[np.bool_]:
    """The pixels of a figure, [SIDE, SIDE]; its box is 2 * radius + 1 wide and high."""
    x, y, r = _COLUMNS - figure.x, _ROWS - figure.y, figure.radius
    across, down = abs(x), abs(y)
    box = (across <= r) & (down <= r)
    square_of_distance = x * x + y * y
    match figure.shape:
        case "circle":
            return square_of_distance <= r * r
        case "ring":
            return (square_of_distance <= r * r) & (square_of_distance * 4 >= r * r)
        case "square":
            # Not the whole box: as wide as the circle looks.
            return (across * 8 <= r * 7) & (down * 8 <= r * 7)
        case "cross":
            return box & ((across * 3 <= r) | (down * 3 <= r))
        case "triangle":
            return box & (across * 2 <= y + r)
        case _:
            raise ValueError(f"no such shape: {figure.shape}")


def png(pixels: Pixels) -> bytes:
    """The picture as a PNG file: 8 bits, RGB, no filters."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def data_url(pixels: Pixels) -> str:
    """The PNG as the URL that an `image_url` request carries."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
