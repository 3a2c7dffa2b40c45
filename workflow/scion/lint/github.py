"""The reports as commands in a workflow's log, which GitHub shows as annotations.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

from collections.abc import Iterable

from scion.common.text import printable
from scion.lint.report import Report, closing, message
from scion.lint.rule import Severity

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def github(reports: Iterable[Report]) -> str:
    """An annotation for each finding, and the rest as lines of the log."""
    lines: list[str] = []
    for report in reports:
        for result in report.results:
            path = report.path(result.finding.file)
            properties = {"file": printable(str(path)), "line": "1"} if path else {}
            properties["title"] = f"{result.rule.code} {result.rule.name}"
            listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
            lines.append(f"::{_COMMANDS[result.rule.severity]} {listed}::{_data(message(result))}")
        lines += closing(report)
    return "".join(f"{line}\n" for line in lines)


def _data(value: str) -> str:
    # https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
