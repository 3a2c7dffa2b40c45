"""Pictures of what the release can do: quality beside its reference, and scores of tasks."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from scion.common.text import Record, change, number, share, small
from scion.report.card.scores import MODELS, PARTS, ScoreGroup
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

_PANELS: tuple[tuple[str, str, Any], ...] = (
    ("perplexity", "perplexity", lambda estimate: f"{estimate['value']:.3f}"),
    ("loss_change", "loss change (nats a token)", lambda estimate: f"{estimate['value']:+.4f}"),
    ("kl", "KL divergence (nats a token)", lambda estimate: f"{estimate['value']:.2g}"),
    (
        "top1_agreement",
        "same most likely token (%)",
        lambda estimate: f"{100 * estimate['value']:.1f}",
    ),
)


def quality_picture(quality: Record) -> Picture:
    """Perplexity of the models, and how far they are from the bf16 reference."""
    scored = {model["name"]: model["parts"] for model in quality["models"] if model["parts"]}
    models = [name for name in MODELS if name in scored]
    reference = quality["reference"]
    parts = [part for part in PARTS if any(scored[name].get(part) for name in models)]
    look = {part: (SERIES[i], MARKERS[i]) for i, part in enumerate(parts)}
    tall = 0.185 * len(parts)
    heights = [0.3 + tall * len(models), 0.3 + tall * max(1, len(models) - 1)]
    height = 1.05 + sum(heights) + 0.65 + 0.38

    def paint(figure: Figure) -> None:
        entries = [(PARTS[part], *look[part], True) for part in parts]
        legend(figure, height, entries, note="lines: 95 % intervals")
        for place, (key, title, form) in enumerate(_PANELS):
            row, column = divmod(place, 2)
            shown = models if key == "perplexity" else [m for m in models if m != reference]
            bottom = height - 1.05 - heights[0] - row * (heights[1] + 0.65)
            box = (0.135 + 0.5 * column, bottom / height, 0.275, heights[row] / height)
            axes = figure.add_axes(box)
            style_axes(axes, title, grid="x")
            rows = [(name, part, scored[name].get(part)) for name in shown for part in parts]
            _dots(axes, [(MODELS[n], p, r and r[key]) for n, p, r in rows], look, key, form)

    text = f"{MODELS['release']}, {_words(scored['release'])}"
    title = "Quality beside the bf16 reference"
    return draw("quality", title, f"{title}. {text}.", height=height, paint=paint)


def _words(parts: Record) -> str:
    """The release in words; the picture's other numbers stand in the card's tables."""
    return "; ".join(
        f"{PARTS[part]}: perplexity {number(scores['perplexity'], 3)}, loss change "
        f"{change(scores['loss_change'])}, KL {small(scores['kl'])}, same most likely token "
        f"{share(scores['top1_agreement'])}"
        for part, scores in parts.items()
        if scores
    )


def _dots(
    axes: Axes,
    rows: list[tuple[str, str, Record | None]],
    look: dict[str, tuple[str, str]],
    key: str,
    form: Any,
) -> None:
    scale = 100 if key == "top1_agreement" else 1
    names: dict[str, list[int]] = {}
    for place, (name, part, estimate) in enumerate(rows):
        names.setdefault(name, []).append(place)
        if estimate is None:
            continue
        colour, marker = look[part]
        style: Any = {"color": colour, "marker": marker, "scale": scale}
        point(axes, (scale * estimate["value"], place), estimate, across=True, **style)
        axes.text(
            1.04,
            place,
            form(estimate).replace("-", "\N{MINUS SIGN}"),
            color=INK,
            va="center",
            fontsize=8.5,
            transform=axes.get_yaxis_transform(),
        )
    axes.set_yticks([sum(own) / len(own) for own in names.values()], list(names))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for own in list(names.values())[1:]:
        axes.axhline(own[0] - 0.5, color=MUTED, linewidth=0.5)
    if key == "loss_change":
        axes.axvline(0, color=MUTED, linewidth=1)
    values = [
        estimate["value"]
        for _, _, estimate in rows
        if estimate is not None and estimate["value"] > 0
    ]
    _scale(axes, values, logarithmic=key in ("perplexity", "kl"))


def _scale(axes: Axes, values: list[float], *, logarithmic: bool) -> None:
    """A linear axis, or a logarithmic one where the values are far apart."""
    if not logarithmic or not values or max(values) < 4 * min(values):
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 1.8, max(values) * 1.8)
    wanted = (1, 10) if max(values) > 30 * min(values) else (1, 2, 5, 10)
    ticks = [factor * 10.0**power for power in range(-8, 8) for factor in wanted[:-1]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def scores_picture(groups: Sequence[ScoreGroup]) -> Picture:
    """Pass rates, such as those of the agent tasks, of IFEval and of the function calls."""
    lines = sum(len(rows) + 1 for _, rows in groups)
    height = 0.55 + 0.21 * lines + 0.35

    def paint(figure: Figure) -> None:
        legend(figure, height, [], note="lines: 95 % intervals; n: cases, prompts or instructions")
        box = (2.75 / WIDTH, 0.4 / height, 4.6 / WIDTH, 0.21 * lines / height)
        axes = figure.add_axes(box)
        style_axes(axes, "", grid="x")
        place = 0
        for group, (name, rows) in enumerate(groups):
            colour, marker = SERIES[group % 4], MARKERS[group % 4]
            beside = axes.get_yaxis_transform()
            axes.text(-0.56, place, name, color=INK, weight="bold", va="center", transform=beside)
            for text, estimate in rows:
                place += 1
                style: Any = {"color": colour, "marker": marker, "scale": 100}
                point(axes, (100 * estimate["value"], place), estimate, across=True, **style)
                axes.text(
                    -0.03, place, text, color=MUTED, ha="right", va="center", transform=beside
                )
                told = f"{100 * estimate['value']:.1f} %"
                axes.text(1.17, place, told, color=INK, ha="right", va="center", transform=beside)
                told = f"n={estimate['count']}"
                axes.text(
                    1.2, place, told, color=MUTED, va="center", fontsize=8.5, transform=beside
                )
            place += 1
        axes.set_yticks([])
        axes.set_ylim(lines - 0.5, -0.5)
        axes.set_xlim(-2, 102)
        axes.set_xticks(range(0, 101, 20), [f"{value} %" for value in range(0, 101, 20)])

    told = [
        f"{name}: " + ", ".join(f"{text} {share(rate)} of {rate['count']}" for text, rate in rows)
        for name, rows in groups
    ]
    title = "Scores of tasks"
    return draw("scores", title, f"{title}. {'; '.join(told)}.", height=height, paint=paint)
