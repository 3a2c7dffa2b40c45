"""An audit as text, and as SARIF."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from scion.audit.audit import ReleaseAudit
from scion.audit.verdict import PartVerdict, ProofLevel
from scion.common.text import printable
from scion.lint.sarif import SCHEMA

# Told one by one.
_SHOWN = 100


def text(audit: ReleaseAudit) -> str:
    """A line for each part, a table of what contradicts the release, and what it comes to."""
    return "\n".join(map(printable, _lines(audit))) + "\n"


def closing(audit: ReleaseAudit) -> str:
    """What the audit comes to, in a line."""
    counts = {
        outcome: sum(verdict.outcome is outcome for verdict in audit.verdicts)
        for outcome in ProofLevel
    }
    parts = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count)
    faults = sum(len(verdict.faults) for verdict in audit.verdicts)
    if audit.refuted:
        return f"REFUTED: {faults} {'exception' if faults == 1 else 'exceptions'} ({parts})"
    unproved = [v.part for v in audit.verdicts if v.outcome is ProofLevel.UNPROVED]
    left = f"; nothing was proved of: {', '.join(unproved)}" if unproved else ""
    return f"nothing contradicts the release ({parts}){left}"


def _lines(audit: ReleaseAudit) -> Iterator[str]:
    for title, name in (("source", audit.source), ("donor", audit.donor)):
        yield f"{title}: {name or 'not given'}"
    yield f"release: {audit.release}"
    if audit.root is not None:
        yield f"root: {audit.root}"
    yield ""
    width = max(len(verdict.part) for verdict in audit.verdicts)
    for verdict in audit.verdicts:
        yield f"{verdict.part:<{width}}  {verdict.outcome.value:<8}  {verdict.told}"
    faults = [(v.part, fault) for v in audit.verdicts for fault in v.faults]
    if faults:
        yield ""
    for part, fault in faults[:_SHOWN]:
        yield f"{part}: {fault.subject}: {fault.problem}"
        yield f"    expected {fault.expected}; found {fault.found}"
    if len(faults) > _SHOWN:
        yield f"and {len(faults) - _SHOWN} more: --format json has all"
    yield ""
    yield closing(audit)


def sarif(audit: ReleaseAudit) -> dict[str, Any]:
    """SARIF 2.1.0: a rule for each part, a result for each thing that contradicts the release."""
    parts = list(dict.fromkeys(verdict.part for verdict in audit.verdicts))
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "scion audit",
                        "semanticVersion": version("scion"),
                        "rules": [_rule(part) for part in parts],
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "toolExecutionNotifications": [
                            {
                                "level": "note",
                                "message": {
                                    "text": f"{verdict.part}: {verdict.outcome.value}: "
                                    f"{verdict.told}"
                                },
                            }
                            for verdict in audit.verdicts
                        ],
                    }
                ],
                "columnKind": "unicodeCodePoints",
                "results": [
                    result
                    for verdict in audit.verdicts
                    for result in _results(audit, verdict, parts.index(verdict.part))
                ],
            }
        ],
    }


def _rule(part: str) -> dict[str, Any]:
    return {
        "id": part.replace(" ", "-"),
        "shortDescription": {"text": f"The {part} of a release."},
        "defaultConfiguration": {"level": "error"},
    }


def _results(audit: ReleaseAudit, verdict: PartVerdict, rule: int) -> Iterator[dict[str, Any]]:
    for fault in verdict.faults:
        told = f"{fault.subject}: {fault.problem}: expected {fault.expected}, found {fault.found}"
        yield {
            "ruleId": verdict.part.replace(" ", "-"),
            "ruleIndex": rule,
            "level": "error",
            "message": {"text": printable(told)},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": quote(audit.release, safe=":/@")},
                        "region": {"startLine": 1},
                    },
                    "logicalLocations": [{"fullyQualifiedName": printable(fault.subject)}],
                }
            ],
        }
