"""What an audit says: of each part of a release an outcome, and each thing that contradicts it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class ProofLevel(StrEnum):
    """How far a part of a release was proved, worst last."""

    PROVED = "proved"
    """It follows, bit by bit, from what was given."""
    BOUNDED = "bounded"
    """What was chosen can't be derived here, but lies within what could have been chosen."""
    UNPROVED = "unproved"
    """Nothing that was given tells."""
    REFUTED = "refuted"
    """What was given contradicts it."""


@dataclass(frozen=True)
class Fault:
    """One thing that what was given contradicts.

    Attributes:
        subject: The tensor, module, file or key.
        problem: What is wrong with it, in a few words.
        expected: What would have been right.
        found: What was there.
    """

    subject: str
    problem: str
    expected: str
    found: str


@dataclass(frozen=True)
class PartVerdict:
    """What is said of one part of a release.

    Attributes:
        part: Its name, such as `unchanged tensors`.
        outcome: How far it was proved.
        told: What was seen, with counts; a line.
        count: How many tensors, files or keys it is about.
        faults: What contradicts it; the outcome is then `REFUTED`.
        remarks: What is otherwise than expected, and may be.
    """

    part: str
    outcome: ProofLevel
    told: str
    count: int
    faults: tuple[Fault, ...] = ()
    remarks: tuple[Fault, ...] = ()

    @classmethod
    def of(
        cls,
        part: str,
        told: str,
        *,
        count: int,
        faults: "list[Fault]",
        otherwise: ProofLevel = ProofLevel.PROVED,
    ) -> "PartVerdict":
        """A verdict that is `REFUTED` where there are faults, and `otherwise` where none are."""
        return cls(part, ProofLevel.REFUTED if faults else otherwise, told, count, tuple(faults))

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "part": self.part,
            "outcome": self.outcome.value,
            "told": self.told,
            "count": self.count,
            "faults": [vars(fault) for fault in self.faults],
            "remarks": [vars(remark) for remark in self.remarks],
        }
