"""What the models said, counted: rates by set, and how far the release is from its source."""

from collections.abc import Sequence
from typing import Any

from scion.evaluation.intervals import paired_difference, proportion

ALL = "all"
"""The set of all questions, which stands last."""


def counted(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rates of one model, by set and of all.

    Args:
        results: As `scion.evaluation.images.asking.ask_all` returns them.
    """
    rows: list[dict[str, Any]] = []
    for name, places in _sets(results).items():
        passed = sum(results[place]["passed"] for place in places)
        rate = proportion(passed, len(places)).record()
        rows.append({"name": name, "passed": passed, "questions": len(places), "rate": rate})
    return rows


def differences(
    release: Sequence[dict[str, Any]], source: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The release's rate less its source's, by set and of all, over the same questions.

    Args:
        release: The results of one model.
        source: Those of the other, of the same questions in the same order.
    """
    rows: list[dict[str, Any]] = []
    for name, places in _sets(release).items():
        pairs = [(release[place]["passed"], source[place]["passed"]) for place in places]
        rows.append({"name": name, "difference": paired_difference(pairs).record()})
    return rows


def _sets(results: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """By set, in the order in which they come, the places of its questions; `ALL` is the last."""
    sets: dict[str, list[int]] = {}
    for place, result in enumerate(results):
        sets.setdefault(result["set"], []).append(place)
    # Questions of one set that is named so, or has no name, are all there are.
    sets.pop(ALL, None)
    return sets | {ALL: list(range(len(results)))}
