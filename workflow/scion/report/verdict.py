"""What the verdict on a release says: its page, its lines, and what a program asks of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from scion.artifacts.release_layout import RESULTS
from scion.checkpoint.shards import read_object
from scion.common.errors import ScionError
from scion.common.text import Record, table
from scion.evaluation.verdict.decision import Judged
from scion.evaluation.verdict.records import RECORD

_OVERALL = ("accept", "regression", "undecided")
WORDS = {
    "accept": "it may stand for its bf16 source",
    "regression": "it is worse than its bf16 source by more than was allowed",
    "undecided": "too little was measured to say",
}
"""What each outcome says of the release."""


@dataclass(frozen=True)
class ReleaseVerdict:
    """The verdict on a release, as its folder holds it.

    Attributes:
        outcome: `accept`, `regression` or `undecided`.
        reasons: What stands against an `accept`, a sentence each; empty where nothing does.
        weights: Content digest, `sha256:…`, of the checkpoint that was judged.
    """

    outcome: Judged
    reasons: tuple[str, ...]
    weights: str


def read_verdict(folder: Path) -> ReleaseVerdict | None:
    """The verdict that a sealed release holds.

    Args:
        folder: The release.

    Returns:
        None where the release was not judged.

    Raises:
        ScionError: The file is there and is no verdict.
    """
    path = folder / RESULTS / RECORD.name
    if not path.exists():
        return None
    record = read_object(path, hint=f"see what else is wrong: scion check {folder}")
    outcome, reasons, weights = (record.get(key) for key in ("outcome", "reasons", "weights"))
    if (
        outcome not in _OVERALL
        or not isinstance(reasons, list)
        or not all(isinstance(reason, str) for reason in reasons)
        or not isinstance(weights, str)
    ):
        raise ScionError(
            "the verdict on the release can't be read",
            where=path,
            expected=f"`outcome` ({', '.join(_OVERALL)}), `reasons` and `weights`",
            found=f"{outcome!r:.80}, {reasons!r:.80}, {weights!r:.80}",
            hint=f"see what else is wrong: scion check {folder}",
        )
    return ReleaseVerdict(outcome, tuple(reasons), weights)


def verdict_values(verdict: Record) -> dict[str, Any]:
    """What the page, and the card's section, may quote.

    Args:
        verdict: The content of `verdict.json`.
    """
    criteria = verdict["criteria"]
    return {
        "outcome": verdict["outcome"],
        "words": WORDS[verdict["outcome"]],
        "against": _against(verdict),
        "weights": verdict["weights"],
        "source": verdict["source"],
        "table": _table(criteria),
        "sums": [each for each in criteria if each["outcome"] != "not asked"],
        "counts": [
            {"title": each["title"], "told": _counts(each["counts"])}
            for each in criteria
            if each["counts"]
        ],
    }


def _table(criteria: list[Record]) -> str:
    rows = [
        [
            each["title"],
            f"{each['bound']} {each['threshold']:g} {each['unit']}",
            estimate_words(each),
            str(each["prompts"] or ""),
            f"**{each['outcome']}**" if each["outcome"] != "not asked" else "not asked",
        ]
        for each in criteria
    ]
    return table(["criterion", "threshold", "measured", "n", ""], rows)


def estimate_words(criterion: Record) -> str:
    """An estimate with its interval, in its criterion's unit; a dash where there is none."""
    estimate = criterion["estimate"]
    if estimate is None:
        return "–"
    digits = {"points": 2, "nats a token": 4}.get(criterion["unit"], 3)
    ends = [estimate[end] for end in ("low", "high")]
    text = f"{estimate['value']:.{digits}f}"
    if None in ends or ends[0] == ends[1]:
        return text.replace("-", "\N{MINUS SIGN}")
    told = " to ".join(f"{end:.{digits}f}" for end in ends)
    return f"{text} ({told})".replace("-", "\N{MINUS SIGN}")


def _counts(counts: Record) -> str:
    def told(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key.replace('_', ' ')} {part}" for key, part in value.items())
        return f"{value:g}" if isinstance(value, float) else str(value)

    return "; ".join(f"{key.replace('_', ' ')}: {told(value)}" for key, value in counts.items())


def verdict_lines(verdict: Record) -> list[str]:
    """What `scion summary` says of it: the outcome, and what stands against the release."""
    outcome = verdict["outcome"]
    lines = [f"verdict:     {outcome}: {WORDS[outcome]}"]
    return lines + [f"             {each}" for each in _against(verdict)]


def _against(verdict: Record) -> list[str]:
    """What stands against a release, a line each; the page has the sums behind it."""
    if verdict["outcome"] == "accept":
        return []
    criteria = verdict["criteria"]
    return [_told(each) for each in criteria if each["outcome"] == verdict["outcome"]]


def _told(criterion: Record) -> str:
    if criterion["estimate"] is None:
        return f"{criterion['title']}: {criterion['reason']}"
    told = (
        f"{criterion['title']}: {estimate_words(criterion)}, {criterion['bound']} "
        f"{criterion['threshold']:g} {criterion['unit']}"
    )
    more = criterion["more"]
    return told if more is None else f"{told}; {more:,} more prompts would decide"


def verdict_brief(verdict: Record) -> str:
    """The outcome, and how many criteria came to what."""
    kinds = get_args(Judged)
    found = [each["outcome"] for each in verdict["criteria"]]
    counts = ", ".join(f"{found.count(kind)} {kind}" for kind in kinds if kind in found)
    return f"{verdict['outcome']} ({counts})"
