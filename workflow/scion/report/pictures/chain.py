"""The chain of artifacts behind something: stages as boxes, each below those it was made from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import networkx
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from scion.common.digest import hex_digits
from scion.common.errors import ScionError
from scion.common.text import printable
from scion.report.pictures.style import INK, MUTED, PALETTE, SERIES, WIDTH, Picture, draw

MOST_NODES = 60
"""A release has some twenty stages; more than this is no release of ours, and no picture."""
_DIGITS = 12
_ROW, _TOP, _BOTTOM, _HALF, _GAP = 0.62, 0.75, 0.45, 0.2, 0.12


def chain_picture(
    name: str,
    title: str,
    made_from: Mapping[str, Sequence[str]],
    contents: Mapping[str, str],
    *,
    subject: str | None = None,
) -> Picture:
    """Draw the stages behind something.

    Args:
        name: Of the picture's file.
        title: Its heading.
        made_from: By node the nodes that it was made from; each is a node as well.
        contents: By node the digest of its content, whose beginning its box has.
        subject: The node that is asked about, if it is one of them.

    Raises:
        ScionError: Nodes were made from each other, or there are more than `MOST_NODES`.
    """
    graph: Any = networkx.DiGraph()
    graph.add_nodes_from(made_from)
    graph.add_edges_from((before, node) for node, all_of in made_from.items() for before in all_of)
    if len(graph) > MOST_NODES or not networkx.is_directed_acyclic_graph(graph):
        raise ScionError(
            "the chain can't be drawn",
            where=title,
            expected=f"at most {MOST_NODES} stages, each made from earlier ones",
            found=f"{len(graph)} stages"
            if len(graph) > MOST_NODES
            else "stages that were made from each other",
            hint="scion check says what is wrong with the manifests",
        )
    rows = _rows(graph)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    places = {
        node: ((column + 0.5) / len(row) * WIDTH, height - _TOP - _ROW * (number + 0.5))
        for number, row in enumerate(rows)
        for column, node in enumerate(row)
    }
    # What is reached through another has no line of its own: a card is made from every stage.
    reduced = networkx.transitive_reduction(graph)

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(0, height)
        axes.axis("off")
        axes.patch.set_visible(False)
        for before, after in sorted(reduced.edges):
            (x, y), (u, v) = places[before], places[after]
            axes.annotate(
                "",
                (u, v + _HALF),
                (x, y - _HALF),
                arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 0.9},
            )
        for node, (x, y) in places.items():
            note = hex_digits(contents.get(node, ""))[:_DIGITS]
            _box(axes, (x, y), node, note, chosen=node == subject)

    edges = [f"{node} from {', '.join(all_of)}" for node, all_of in made_from.items() if all_of]
    return draw(name, title, "; ".join(edges) or title, height=height, paint=paint)


def _rows(graph: Any) -> list[Sequence[str]]:
    """The nodes from top to bottom: what was made from nothing stands just above what takes it."""
    level = {
        node: number
        for number, row in enumerate(networkx.topological_generations(graph))
        for node in row
    }
    for node in [each for each in level if not graph.pred[each] and graph.succ[each]]:
        level[node] = min(level[after] for after in graph.succ[node]) - 1
    rows: list[list[str]] = [[] for _ in range(max(level.values()) + 1)]
    for node in sorted(level):
        rows[level[node]].append(node)
    return [part for row in rows for part in _parts(row)]


def _parts(row: Sequence[str]) -> list[Sequence[str]]:
    """A row of boxes, or the rows that it is cut into where it is wider than the picture."""
    most = max(1, int(WIDTH / (_GAP + 2 * max(map(_half_width, row)))))
    count = math.ceil(len(row) / most)
    size = math.ceil(len(row) / count)
    return [row[begin : begin + size] for begin in range(0, len(row), size)]


def _shown(node: str) -> str:
    name = printable(node)
    return name if len(name) <= 30 else f"{name[:29]}…"


def _half_width(node: str) -> float:
    return 0.04 + 0.042 * max(len(_shown(node)), _DIGITS)


def _box(axes: Any, place: tuple[float, float], node: str, note: str, *, chosen: bool) -> None:
    x, y = place
    half = _half_width(node)
    axes.add_patch(
        FancyBboxPatch(
            (x - half, y - _HALF),
            2 * half,
            2 * _HALF,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=PALETTE["panel"].mark,
            zorder=3,
            edgecolor=SERIES[1] if chosen else SERIES[0],
            linewidth=1.6 if chosen else 1,
        )
    )
    look: Any = {"ha": "center", "va": "center", "zorder": 4, "parse_math": False}
    axes.text(x, y + (0.07 if note else 0), _shown(node), color=INK, fontsize=8, **look)
    if note:
        axes.text(x, y - 0.09, note, color=MUTED, fontsize=6.5, **look)
