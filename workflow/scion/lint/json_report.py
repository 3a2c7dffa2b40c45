"""The reports as data."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from scion.lint.report import Report
from scion.lint.rule import Result, Severity

VERSION = 1


def as_json(reports: Iterable[Report]) -> dict[str, Any]:
    """The reports as data.

    The layout is versioned; keys are added without notice, but none is removed or changes its
    meaning while `version` stays:

        version: 1
        checkpoints: one object for each, in the order given:
            name: what was to be judged; judged: false where nothing could be
            files, tensors: how many safetensors files and tensors it has
            engines: ["vllm 0.33.0", …]; tensor_parallel: [1, …]
            traffic: {"requests": 34, "bytes_moved": 2400000}, of a hub repository; else null
            rules: codes of those that were asked for; unchecked: what was not looked at, sentences
            counts: {"error": 2, "warning": 1, "note": 0}
            findings: worst first, each with
                code, name, severity, title: the rule's
                file, subject, expected, found, count: see `scion.lint.rule.Finding`
                engines: those it holds for; empty where it holds for whatever reads the checkpoint
                repair: the rule's, or that of this finding alone
                command, stage: the rule's; null where Scion can't repair it
    """
    return {"version": VERSION, "checkpoints": [_checkpoint(report) for report in reports]}


def _checkpoint(report: Report) -> dict[str, Any]:
    subject = report.subject
    return {
        "name": subject.source.name,
        "judged": report.judged,
        "files": report.files,
        "tensors": report.tensors,
        "engines": [str(engine) for engine in subject.engines],
        "tensor_parallel": list(subject.tensor_parallel),
        "traffic": asdict(subject.source.traffic) if subject.source.traffic else None,
        "rules": [rule.code for rule in report.rules],
        "unchecked": list(report.unchecked),
        "counts": {severity: report.counts[severity] for severity in Severity},
        "findings": [finding_row(result) for result in report.results],
    }


def finding_row(result: Result) -> dict[str, Any]:
    """One finding as data; see `as_json` for the keys."""
    rule, finding = result.rule, result.finding
    return {
        "code": rule.code,
        "name": rule.name,
        "severity": rule.severity,
        "title": rule.title,
        "file": finding.file,
        "subject": finding.subject,
        "expected": finding.expected,
        "found": finding.found,
        "count": finding.count,
        "engines": list(finding.engines),
        "repair": finding.repair or rule.repair,
        "command": result.command,
        "stage": result.stage,
    }
