"""Pictures of what measure_serving found: MTP acceptance and decode speed."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from scion.common.text import Record, drafts, mode, number, parallel, ratio, share
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

_INTERVALS = "lines: 95 % intervals"
# Positions, and bars of a decode, that have room for longer labels.
_ROOMY = 3


def acceptance_picture(serving: Record) -> Picture | None:
    """Accepted drafts by position, tokens a step by set of prompts; None without speculation."""
    runs = [run for run in serving["runs"] if run["acceptance"]]
    if not runs:
        return None
    height = 3.35
    counts = sorted({run["speculative_tokens"] for run in runs})
    look = {n: (SERIES[i % 4], MARKERS[i % 4]) for i, n in enumerate(counts)}
    overall = {run["speculative_tokens"]: _overall(run) for run in reversed(runs)}
    most = next(run for run in runs if run["speculative_tokens"] == counts[-1])

    def paint(figure: Figure) -> None:
        entries = [(drafts(n), *look[n], True) for n in counts]
        legend(figure, height, entries, note=_INTERVALS)
        bottom, tall = 0.43 / height, 1 - 1.5 / height
        _positions(figure.add_axes((0.07, bottom, 0.355, tall)), overall, look)
        _sets(figure.add_axes((0.59, bottom, 0.33, tall)), most, look[counts[-1]][0])

    sentences = [
        f"{drafts(n)}: {', '.join(share(rate) for rate in row['per_position'])} accepted "
        "by position,"
        f" {number(row['mean_length'], 2)} of {n + 1} tokens a step"
        for n, row in sorted(overall.items())
    ]
    title = "MTP acceptance"
    return draw(
        "acceptance", title, f"{title}. {'; '.join(sentences)}.", height=height, paint=paint
    )


def _overall(run: Record) -> Record:
    return next(row for row in run["acceptance"] if row["set"] == "all")


def _positions(axes: Axes, overall: dict[int, Record], look: dict[int, tuple[str, str]]) -> None:
    style_axes(axes, "accepted drafts by position", grid="y")
    most = max(overall)
    for place, (n, row) in enumerate(sorted(overall.items())):
        shift = (place - (len(overall) - 1) / 2) * 0.34
        colour, marker = look[n]
        for position, estimate in enumerate(row["per_position"], 1):
            value, x = 100 * estimate["value"], position + shift
            style: Any = {"color": colour, "marker": marker, "scale": 100}
            point(axes, (value, x), estimate, across=False, **style)
            # Of many positions there is room for one number each.
            if most > _ROOMY and n < most:
                continue
            top = 100 * upper_end(estimate) + 3
            axes.text(x, top, f"{value:.1f}", color=INK, ha="center", va="bottom", fontsize=8.5)
    axes.set_xlim(0.5, most + 0.5)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    word = "position " if most <= _ROOMY else ""
    axes.set_xticks(range(1, most + 1), [f"{word}{n}" for n in range(1, most + 1)])


def _sets(axes: Axes, run: Record, colour: str) -> None:
    """Mean accepted length by set and thinking, of the run that drafts most."""
    n = run["speculative_tokens"]
    style_axes(axes, f"tokens a step by prompts, {drafts(n)} (at most {n + 1})", grid="x")
    rows = run["acceptance"]
    for place, row in enumerate(rows):
        value = row["mean_length"]["value"]
        style: Any = {"color": colour, "marker": MARKERS[0], "filled": row["set"] == "all"}
        point(axes, (value, place), row["mean_length"], across=True, **style)
        axes.text(
            1.03,
            place,
            f"{value:.2f}",
            color=INK,
            va="center",
            fontsize=8.5,
            transform=axes.get_yaxis_transform(),
        )
    names = [_set_name(row) for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0.9, n + 1.1)
    axes.set_xticks(range(1, n + 2))


def _set_name(row: Record) -> str:
    name = row["set"].replace("_", " ")
    return name if row["thinking"] is None else f"{name}, {mode(row['thinking'])}"


def speed_picture(serving: Record) -> Picture:
    """Tokens a second by length, launch and requests at the same time, beside no MTP."""
    runs = serving["runs"]
    launches = list(dict.fromkeys(run["launch"] for run in runs))
    counts = sorted({run["speculative_tokens"] for run in runs})
    together = sorted({measurement["parallel"] for run in runs for measurement in run["speed"]})
    colours = {0: ZERO} | {n: SERIES[i % 4] for i, n in enumerate(n for n in counts if n)}
    height = 0.8 + 2.5 * len(launches)

    def paint(figure: Figure) -> None:
        entries = [(drafts(n), colours[n], "s", True) for n in counts]
        note = "above a bar: ratio to no MTP; " if 0 in counts and len(counts) > 1 else ""
        legend(figure, height, entries, note=f"{note}{_INTERVALS}")
        wide = (WIDTH - 0.85) / len(together) - 0.4
        for row, launch in enumerate(launches):
            own = [run for run in runs if run["launch"] == launch]
            top = max(
                upper_end(measurement["tokens_per_second"])
                for run in own
                for measurement in run["speed"]
            )
            for column, count in enumerate(together):
                left = (0.7 + column * (wide + 0.45)) / WIDTH
                bottom = (height - 0.8 - 2.5 * row - 2.15) / height
                axes = figure.add_axes((left, bottom, wide / WIDTH, 1.9 / height))
                name = f", launch {launch}" if len(launches) > 1 else ""
                style_axes(axes, f"tokens a second, {parallel(count)}{name}", grid="y")
                _bars(axes, own, count, colours)
                axes.set_ylim(0, 1.17 * top)
                axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))

    title = "Decode speed"
    return draw("speed", title, f"{title}. {_speed_words(runs)}", height=height, paint=paint)


def _bars(axes: Axes, runs: list[Record], count: int, colours: dict[int, str]) -> None:
    wide = 0.84 / len(runs)
    lengths = sorted({measurement["tokens"] for run in runs for measurement in run["speed"]})
    for place, run in enumerate(sorted(runs, key=lambda run: run["speculative_tokens"])):
        for measurement in run["speed"]:
            if measurement["parallel"] != count:
                continue
            rate = measurement["tokens_per_second"]
            x = lengths.index(measurement["tokens"]) + (place - (len(runs) - 1) / 2) * wide
            colour = colours[run["speculative_tokens"]]
            axes.bar(x, rate["value"], width=0.88 * wide, color=colour)
            if rate["low"] is not None:
                axes.plot([x, x], [rate["low"], rate["high"]], color=INK, linewidth=1.4)
            if measurement["ratio_to_baseline"] is not None:
                axes.annotate(
                    f"{measurement['ratio_to_baseline']['value']:.2f}×",
                    (x, upper_end(rate)),
                    (0, 3),
                    textcoords="offset points",
                    color=INK,
                    ha="center",
                    va="bottom",
                    fontsize=8 if len(runs) <= _ROOMY else 6.8,
                )
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_xticks(range(len(lengths)), [f"{length} tokens" for length in lengths], color=MUTED)


def _speed_words(runs: list[Record]) -> str:
    """The longest decode of each launch; the picture's other numbers stand in the card's tables."""
    longest = max(measurement["tokens"] for run in runs for measurement in run["speed"])
    sentences = [
        f"{run['launch']}, {drafts(run['speculative_tokens'])}, "
        f"{parallel(measurement['parallel'])}: "
        f"{number(measurement['tokens_per_second'])} tokens a second"
        + (
            f", {ratio(measurement['ratio_to_baseline'])} no MTP"
            if measurement["ratio_to_baseline"]
            else ""
        )
        for run in runs
        for measurement in run["speed"]
        if measurement["tokens"] == longest
    ]
    return f"Decodes of {longest} tokens: {'; '.join(sentences)}."
