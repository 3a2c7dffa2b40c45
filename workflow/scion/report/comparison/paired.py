"""Acceptance of two releases that were asked the same prompts, compared prompt by prompt.

What makes a prompt easy for one of them does so for the other, and cancels in the difference: it
tells more than two intervals beside each other, which `scion.report.comparison.findings` holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scion.common.errors import ScionError
from scion.common.text import Record, drafts, mode
from scion.evaluation.serving.acceptance import paired_acceptance
from scion.evaluation.serving.config import RECORD


@dataclass(frozen=True)
class PairedNumber:
    """A number of both releases, over the same prompts.

    Attributes:
        title: What it is.
        a: Of the one release.
        b: Of the other.
        difference: B less A, as `Estimate.record` writes it; its count is of prompts.
    """

    title: str
    a: float
    b: float
    difference: Record

    @property
    def differs(self) -> bool | None:
        """Whether the 95 % interval of the difference leaves out 0; None without one."""
        low, high = self.difference["low"], self.difference["high"]
        return None if low is None or high is None else not low <= 0 <= high


def paired_numbers(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[PairedNumber]:
    """What two releases accepted of the same prompts, with the same launch and number of drafts.

    Args:
        a: Content by name of the result file.
        b: The same of the other release.

    Returns:
        By launch and number of drafts tokens a step, then the share of drafts accepted by position,
        each by set of prompts; nothing where the prompts are others, or one release has no counts
        by prompt, as older ones.

    Raises:
        ScionError: The counts are not of the shape that the stage writes.
    """
    serving = [results.get(RECORD.name) for results in (a, b)]
    try:
        return list(_paired(*serving))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ScionError(
            "the counts of accepted drafts can't be compared",
            where=RECORD.name,
            expected="drafts and accepted tokens of the same prompts, as measure_serving writes "
            "them",
            found=f"{type(error).__name__}: {error}",
            hint="different versions of Scion wrote the two: measure the older release again",
        ) from error


def _paired(a: Any, b: Any) -> Iterator[PairedNumber]:
    if not a or not b or a["prompts"]["sha256"] != b["prompts"]["sha256"]:
        return
    replies = [
        {
            (run["launch"], run["speculative_tokens"]): run["replies"]
            for run in serving["runs"]
            if run.get("replies")
        }
        for serving in (a, b)
    ]
    for launch, drafted in (key for key in replies[0] if key in replies[1]):
        before, after = (side[launch, drafted] for side in replies)
        # The difference is of B, the first here, less A.
        rows = paired_acceptance(after, before)
        where = f"{launch} {drafts(drafted)}"
        for row in rows:
            yield PairedNumber(
                f"{where}: tokens a step, {_asked(row)}",
                row["other"]["mean_length"],
                row["one"]["mean_length"],
                row["difference"]["mean_length"],
            )
        for place in range(drafted):
            for row in rows:
                yield PairedNumber(
                    f"{where}: accepted at position {place + 1}, {_asked(row)}",
                    row["other"]["per_position"][place],
                    row["one"]["per_position"][place],
                    row["difference"]["per_position"][place],
                )


def _asked(row: Record) -> str:
    name = row["set"].replace("_", " ")
    return "all prompts" if row["thinking"] is None else f"{name}, {mode(row['thinking'])}"
