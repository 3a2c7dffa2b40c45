"""Text for people: measured numbers with their 95 % interval in brackets, strangers' names."""

import json
from typing import Any

# Estimates as results hold them, see `scion.evaluation.intervals.Estimate.record`.
Record = dict[str, Any]


def share(estimate: Record) -> str:
    """A share in percent, such as `82.1 % (79.0–84.9)`."""
    return _with_interval(estimate, lambda part: f"{100 * part:.1f}", unit=" %")


def number(estimate: Record, digits: int = 1) -> str:
    """A number that is never negative, such as `109.9 (105.2–112.0)`."""
    return _with_interval(estimate, lambda part: f"{part:.{digits}f}")


def change(estimate: Record, digits: int = 4) -> str:
    """A difference with its sign, such as `+0.0031 (+0.0010 to +0.0072)`."""

    def signed(part: float) -> str:
        return f"{part:+.{digits}f}".replace("-", "\N{MINUS SIGN}")

    return _with_interval(estimate, signed, between=" to ")


def ratio(estimate: Record) -> str:
    """How many times as much, such as `2.25× (2.10–2.41)`."""
    return _with_interval(estimate, lambda part: f"{part:.2f}", unit="×")


def small(estimate: Record) -> str:
    """A small number that is never negative, to three digits that count: `0.00134 (0.00112–…)`."""
    return _with_interval(
        estimate, lambda part: f"{part:#.3g}" if part >= 0.0001 else f"{part:.6f}"
    )


def size(count: float) -> str:
    """Bytes in the unit that people read, powers of ten."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float, *, rough: bool = False) -> str:
    """A time as people tell it: `0.4 s`, `42 s`, `4 min 21 s`, `3 h 05 min`.

    Args:
        seconds: The time.
        rough: Only as exact as an estimate is.
    """
    if rough:
        grain = next((grain for limit, grain in ((60, 5), (600, 10)) if seconds < limit), 60)
        seconds = max(round(seconds / grain) * grain, grain)
    if seconds < 9.95 and not rough:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, left = divmod(whole, 60)
        return f"{minutes} min {left:02d} s" if left or not rough else f"{minutes} min"
    hours, left = divmod(round(whole / 60), 60)
    return f"{hours} h {left:02d} min"


def hardware(record: Record) -> str:
    """What a result was measured on."""
    if record["name"] is None:
        return "a server named by its address"
    if record["kind"] == "cpu":
        return f"{record['count']} cores of {record['name']}"
    return f"{record['count']} × {record['name']}"


def printable(text: object) -> str:
    """Text of strangers; what could steer a terminal, break a line or command a CI is spelled out.

    What a workflow's log takes for a command of GitHub's begins with `::`, after white space, or
    holds `##[`; escapes stand for the first character of both.
    """
    plain = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )
    start = len(plain) - len(plain.lstrip())
    if plain.startswith("::", start):
        plain = f"{plain[:start]}\\x3a{plain[start + 1 :]}"
    return plain.replace("##[", "\\x23#[")


def printable_json(value: object) -> str:
    """JSON in ASCII, for programs and for a log: as `printable`, in the escapes that JSON has."""
    # A line of it begins with a bracket or a quotation mark.
    return json.dumps(value, indent=1).replace("##[", "\\u0023#[")


def drafts(count: int) -> str:
    """How a launch speculates, as a column's heading."""
    return f"MTP n={count}" if count else "no MTP"


def parallel(count: int) -> str:
    """How many requests run at the same time."""
    return {1: "single", 2: "two in parallel"}.get(count, f"{count} in parallel")


def mode(thinking: bool | None) -> str:
    """Whether the model thinks before it answers."""
    return {True: "thinking", False: "no thinking", None: "both"}[thinking]


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a column whose cells are all empty is left out."""
    columns = [place for place in range(len(headings)) if any(row[place] for row in rows)]
    lines = [[headings[place] for place in columns], ["---"] * len(columns)]
    lines += [[row[place].replace("|", "\\|") for place in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _with_interval(estimate: Record, form: Any, *, unit: str = "", between: str = "–") -> str:
    text = form(estimate["value"]) + unit
    if estimate["low"] is None or estimate["high"] is None:
        return text
    return f"{text} ({form(estimate['low'])}{between}{form(estimate['high'])})"
