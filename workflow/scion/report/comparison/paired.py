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
        each by set of prompts; nothing where the prompts are others, or a release has no counts by
        prompt, as older ones.

    Raises:
        ScionError: The counts of two servers are not to the same prompts, or no counts.
    """
    counted = [_Counted.of(results.get(RECORD.name)) for results in (a, b)]
    before, after = counted
    if before is None or after is None or before.prompts != after.prompts:
        return []
    both = [key for key in before.replies if key in after.replies]
    try:
        return [
            number
            for key in both
            for number in _paired(*key, before.replies[key], after.replies[key])
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ScionError(
            "the counts of accepted drafts can't be compared",
            where=RECORD.name,
            expected="drafts and accepted tokens of each prompt, as measure_serving writes them",
            found=f"{type(error).__name__}: {error}",
            hint="different versions of Scion wrote the two: measure the older release again",
        ) from error


@dataclass(frozen=True)
class _Counted:
    """The prompts of a release, by their digest, and the counts by launch and drafts."""

    prompts: str
    replies: dict[tuple[str, int], Any]

    @classmethod
    def of(cls, serving: Any) -> "_Counted | None":
        """What a record holds; None if it is of another shape."""
        try:
            replies = {
                (str(run["launch"]), int(run["speculative_tokens"])): run["replies"]
                for run in serving["runs"]
                if run.get("replies")
            }
            return cls(str(serving["prompts"]["sha256"]), replies)
        except (LookupError, TypeError, ValueError, AttributeError):
            return None


def _paired(launch: str, drafted: int, before: Any, after: Any) -> Iterator[PairedNumber]:
    # The difference is of the one less the other.
    rows = paired_acceptance(after, before)
    where = f"{launch} {drafts(drafted)}"
    for row in rows:
        yield PairedNumber(
            f"{where}: tokens a step, {_asked(row)}",
            row["other"]["mean_length"],
            row["one"]["mean_length"],
            row["difference"]["mean_length"],
        )
    for place in range(len(rows[0]["difference"]["per_position"])):
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
