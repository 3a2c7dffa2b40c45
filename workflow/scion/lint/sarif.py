"""The reports as SARIF 2.1.0, laid out as GitHub's code scanning reads it.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
https://docs.github.com/en/code-security/reference/code-scanning/sarif-support-for-code-scanning
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from scion.lint.catalogue import markdown
from scion.lint.report import Report, message, sentence
from scion.lint.rule import Finding, Rule, Severity

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
# Where the reader's copy of the repository lies is the reader's to know: the base has no address.
BASE = "%SRCROOT%"

_PROBLEM = {
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.NOTE: "recommendation",
}


def sarif(reports: Sequence[Report]) -> dict[str, Any]:
    """One run for all checkpoints: code scanning takes one run of a tool in a file."""
    rules = list(dict.fromkeys(rule for report in reports for rule in report.rules))
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": _driver(rules)},
                "invocations": [_invocation(reports)],
                "originalUriBaseIds": {
                    BASE: {"description": {"text": "The folder in which scion lint was run."}}
                },
                "columnKind": "unicodeCodePoints",
                "results": list(_results(reports, rules)),
            }
        ],
    }


def _driver(rules: Iterable[Rule]) -> dict[str, Any]:
    return {
        "name": "scion lint",
        "semanticVersion": version("scion"),
        "rules": [_rule(rule) for rule in rules],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": sentence(rule.title)},
        "fullDescription": {"text": rule.explanation},
        "help": {
            "text": f"{rule.explanation}\n\n{sentence(f'repair: {rule.repair}')}",
            "markdown": markdown(rule),
        },
        "defaultConfiguration": {"level": rule.severity},
        "properties": {"tags": ["checkpoint"], "problem.severity": _PROBLEM[rule.severity]},
    }


def _invocation(reports: Sequence[Report]) -> dict[str, Any]:
    notes = [
        {
            "level": "note",
            "message": {"text": f"{report.subject.source.name}: not checked: {omission}"},
        }
        for report in reports
        for omission in report.unchecked
    ]
    return {
        "executionSuccessful": all(report.judged for report in reports),
        "toolExecutionNotifications": notes,
    }


def _results(reports: Iterable[Report], rules: Sequence[Rule]) -> Iterator[dict[str, Any]]:
    places = {rule.code: place for place, rule in enumerate(rules)}
    for report in reports:
        seen = Counter[str]()
        for result in report.results:
            identity = _identity(result.rule, result.finding)
            seen[identity] += 1
            yield {
                "ruleId": result.rule.code,
                "ruleIndex": places[result.rule.code],
                "level": result.rule.severity,
                "message": {"text": message(result)},
                "locations": [_location(report, result.finding)],
                # Under this name code scanning takes it for its own, which is computed from the
                # line: all faults of a shard are in its first.
                "partialFingerprints": {"primaryLocationLineHash": f"{identity}:{seen[identity]}"},
                "occurrenceCount": result.finding.count,
            }


def _location(report: Report, finding: Finding) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": _artifact(report, finding.file),
            # Headers have no lines, but code scanning drops a result without a region.
            "region": {"startLine": 1},
        }
    }
    if finding.subject is not None:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.subject}]
    return location


def _artifact(report: Report, file: str) -> dict[str, str]:
    path = report.path(file)
    if path is None:
        return {"uri": _quoted(f"{report.subject.source.name}/{file}", safe=":/@")}
    if path.is_absolute():
        return {"uri": f"file://{_quoted(path.as_posix())}"}
    return {"uri": _quoted(path.as_posix()), "uriBaseId": BASE}


def _quoted(path: str, *, safe: str = "/") -> str:
    # A name need not be valid text.
    return quote(path, safe=safe, errors="backslashreplace")


def _identity(rule: Rule, finding: Finding) -> str:
    """The same for the same fault of the same tensor, whatever else changes in the checkpoint."""
    identity = "\0".join((rule.code, finding.file, finding.subject or ""))
    return hashlib.sha256(identity.encode(errors="backslashreplace")).hexdigest()[:16]
