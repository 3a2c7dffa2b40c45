"""Lint as a gate of the workflow: what stops a run, and what a later stage repairs."""

from collections.abc import Sequence
from pathlib import Path

from scion.checkpoint.folder_source import open_source
from scion.common.errors import ScionError
from scion.common.section import Section
from scion.common.text import printable
from scion.engines.registry.engines import parse_engines
from scion.lint.all_rules import RULES
from scion.lint.config import Lint
from scion.lint.rule import Result, Severity, run, select_rules, with_telling
from scion.lint.subject import Subject


class LintSettings(Section):
    """What `--settings` of a stage that lints holds."""

    lint: Lint


def lint_folder(folder: Path, settings: Lint) -> list[Result]:
    """Every finding of the rules that read headers and configs, worst first.

    Raises:
        ScionError: Not a checkpoint, or a setting that names no engine or rule.
    """
    subject = Subject.open(
        open_source(str(folder)),
        engines=parse_engines(settings.engines),
        tensor_parallel=settings.tensor_parallel,
    )
    return run(subject, with_telling(select_rules(RULES, ignore=settings.ignore), RULES))


def judged_engines(settings: Lint) -> list[str]:
    """The releases that a checkpoint is judged for."""
    return [str(engine) for engine in parse_engines(settings.engines)]


def require_sound(results: Sequence[Result], folder: Path, *, hint: str) -> None:
    """Refuse a checkpoint with findings of severity error.

    Args:
        results: What is left to be refused.
        folder: The checkpoint.
        hint: What to do next, but for `scion lint --explain`.

    Raises:
        ScionError: Names each finding.
    """
    errors = [result for result in results if result.rule.severity is Severity.ERROR]
    if errors:
        first = errors[0].finding
        codes = sorted({result.rule.code for result in errors})
        raise ScionError(
            f"lint finds {len(errors)} error{'s' if len(errors) > 1 else ''} in the checkpoint",
            where=f"{folder / first.file}: {first.subject}"
            if first.subject
            else folder / first.file,
            expected="no finding of severity error",
            found="; ".join(map(in_one_line, errors)),
            hint=f"scion lint --explain {','.join(codes)}; {hint}",
        )


def in_one_line(result: Result) -> str:
    """A finding for a log or an error."""
    finding = result.finding
    more = f" and {finding.count - 1} more" if finding.count > 1 else ""
    return printable(
        f"{result.rule.code} {result.rule.name}: {finding.subject or finding.file}{more}: "
        f"{finding.found}, expected {finding.expected}"
    )
