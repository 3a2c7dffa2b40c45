"""What the comparison of a family says: the table of its releases, the table of all decodes."""

from collections.abc import Sequence
from typing import Any

from scion.common.text import (
    Record,
    change,
    drafts,
    hardware,
    mode,
    number,
    parallel,
    ratio,
    share,
    size,
    small,
    table,
)
from scion.report.card.scores import in_points, leading_part


def family_values(compared: Record) -> dict[str, Any]:
    """What the card's section may quote.

    Args:
        compared: The content of `family.json`.

    Returns:
        Title, baseline, prompts and what it was measured on; the table of the releases, `table`,
        and by the digest of one's weights with that in bold, `own_table`; and the table of all
        decodes, `decodes`.
    """
    return {
        "title": compared["family"]["title"],
        "baseline": compared["family"]["baseline"],
        "rounds": compared["family"]["rounds"],
        "prompts": compared["prompts"],
        "hardware": hardware(compared["hardware"]),
        "engine": f"{compared['engine']['name']} {compared['engine']['version']}",
        "table": summary_table(compared),
        "own_table": {
            release["weights"]: summary_table(compared, own=release["release"])
            for release in compared["releases"]
        },
        "decodes": decode_table(compared["releases"]),
        "acceptance": acceptance_beside(compared["releases"]),
    }


def summary_table(compared: Record, *, own: str | None = None) -> str:
    """A row a release: how it is made, how fast it is, what it accepts and how good it is.

    Args:
        compared: The content of `family.json`.
        own: The release whose row is in bold; none if nothing is named.
    """
    releases: Sequence[Record] = compared["releases"]
    counts = sorted({decode["parallel"] for release in releases for decode in release["speed"]})
    lengths = sorted({decode["tokens"] for release in releases for decode in release["speed"]})
    told = " / ".join(map(str, lengths))
    headings = ["release", "format", "MTP"]
    headings += [f"{parallel(count)}, {told} tokens" for count in counts]
    headings += [f"{parallel(count)}, beside the baseline" for count in counts]
    headings += ["tokens a step", "agent cases", "KL to bf16", "same token", "size"]
    rows = [_row(release, counts, bold=release["release"] == own) for release in releases]
    return table(headings, rows)


def _row(release: Record, counts: Sequence[int], *, bold: bool) -> list[str]:
    name = f"**{release['repository']}**" if bold else release["repository"]
    _, quality = leading_part(release["quality"], "release")
    taken, tasks = release["acceptance"], release["agent_tasks"]
    return [
        name,
        form(release),
        drafts(release["speculative_tokens"]),
        *(
            " / ".join(
                f"{decode['tokens_per_second']['value']:.1f}" for decode in _decodes(release, count)
            )
            for count in counts
        ),
        *(ratio(beside) if (beside := longest(release, count)) else "1.00×" for count in counts),
        number(taken["mean_length"], 2) if taken else "",
        f"{tasks['passed']} of {tasks['total']}",
        small(quality["kl"]),
        share(quality["top1_agreement"]),
        size(release["bytes"]),
    ]


def form(release: Record) -> str:
    """How the numbers of a release are made, and how they are spelled."""
    return " ".join(filter(None, (release["algorithm"], release["spelling"])))


def _decodes(release: Record, count: int) -> list[Record]:
    """The decodes of so many requests at once, the shortest first."""
    own = [decode for decode in release["speed"] if decode["parallel"] == count]
    return sorted(own, key=lambda decode: decode["tokens"])


def longest(release: Record, count: int) -> Record | None:
    """How many times as fast as the baseline its longest decode of so many requests is.

    None of the baseline itself.
    """
    return _decodes(release, count)[-1]["ratio_to_baseline"]


def decode_table(releases: Sequence[Record]) -> str:
    """A row a decode, with all intervals."""
    rows = [
        [
            release["repository"],
            f"{decode['tokens']} tokens",
            parallel(decode["parallel"]),
            number(decode["tokens_per_second"]),
            ratio(decode["ratio_to_baseline"]) if decode["ratio_to_baseline"] else "",
            number(decode["ttft_ms"]),
            number(decode["itl_ms"], 2),
            str(decode["repeats"]),
        ]
        for release in releases
        for decode in release["speed"]
    ]
    headings = ["release", "decode", "requests", "tokens a second", "beside the baseline"]
    return table([*headings, "first token (ms)", "between tokens (ms)", "n"], rows)


def acceptance_beside(releases: Sequence[Record]) -> str:
    """A row a release and set of prompts: what the baseline accepts, the release, the difference.

    Empty where no release drafts as well as the baseline. A record of an older version has none.
    """
    rows: list[list[str]] = []
    most = 0
    for release in releases:
        for row in release.get("acceptance_beside_baseline") or ():
            before, after, differences = row["other"], row["one"], row["difference"]
            positions = [
                f"{100 * old:.1f} → {100 * new:.1f} %: {change(in_points(difference), 1)}"
                for old, new, difference in zip(
                    before["per_position"],
                    after["per_position"],
                    differences["per_position"],
                    strict=False,
                )
            ]
            lengths = f"{before['mean_length']:.2f} → {after['mean_length']:.2f}"
            name = row["set"].replace("_", " ")
            asked = "all" if row["thinking"] is None else f"{name}, {mode(row['thinking'])}"
            told = f"{lengths}: {change(differences['mean_length'], 2)}"
            rows.append([release["repository"], asked, told, str(row["prompts"]), *positions])
            most = max(most, len(positions))
    if not rows:
        return ""
    headings = ["release", "prompts of", "tokens a step", "prompts"]
    headings += [f"position {place} (points)" for place in range(1, most + 1)]
    return table(headings, [[*row, *[""] * (len(headings) - len(row))] for row in rows])


def family_lines(compared: Record) -> list[str]:
    """What `scion summary` says of it: a line a release."""
    releases = compared["releases"]
    width = max(len(release["release"]) for release in releases)
    lines = [f"family:      {compared['family']['title']}, on {hardware(compared['hardware'])}"]
    return lines + [f"  {release['release']:<{width}}  {_line(release)}" for release in releases]


def _line(release: Record) -> str:
    count = min(decode["parallel"] for decode in release["speed"])
    last = _decodes(release, count)[-1]
    beside = last["ratio_to_baseline"]
    parts = [
        f"{drafts(release['speculative_tokens'])}: {number(last['tokens_per_second'])} tokens a "
        f"second{f', {ratio(beside)} the baseline' if beside else ', the baseline'}"
    ]
    if release["acceptance"]:
        told = f"{release['acceptance']['mean_length']['value']:.2f} tokens a step"
        if paired := release.get("acceptance_beside_baseline"):
            told += f", {change(paired[-1]['difference']['mean_length'], 2)} beside the baseline"
        parts.append(told)
    tasks = release["agent_tasks"]
    parts += [f"{tasks['passed']}/{tasks['total']} agent cases", size(release["bytes"])]
    return "; ".join(parts)


def family_brief(compared: Record) -> str:
    """The fastest beside the baseline, in a few words."""
    releases: Sequence[Record] = compared["releases"]
    count = min(decode["parallel"] for release in releases for decode in release["speed"])
    beside = {
        release["release"]: found["value"]
        for release in releases
        if (found := longest(release, count))
    }
    fastest = max(beside, key=lambda name: beside[name], default=None)
    told = "1 release" if len(releases) == 1 else f"{len(releases)} releases"
    if fastest is None:
        return told
    return f"{told}; {fastest} at {beside[fastest]:.2f}× {compared['family']['baseline']}"
