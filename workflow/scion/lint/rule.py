"""What a rule and a finding are, and how rules are run over a checkpoint."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from scion.architectures.class_variant import is_released
from scion.common.errors import ScionError
from scion.lint.subject import Subject

_WORKFLOW = "snakemake "


class Severity(StrEnum):
    """How bad a finding is; the words are those of SARIF's `level`."""

    ERROR = "error"
    """The checkpoint does not load, or means something else than its author thinks."""
    WARNING = "warning"
    """It serves, but something is lost, ignored or fragile."""
    NOTE = "note"
    """Worth knowing before it is served."""


WHOLE = "."
"""The file of a finding about a checkpoint that has none."""


@dataclass(frozen=True)
class Finding:
    """One fault, with its evidence.

    Attributes:
        file: The file that shows it, as named in the checkpoint.
        subject: The tensor, module or key at fault; None where it is the file itself.
        expected: What would have been right.
        found: What is there instead.
        engines: The engines, among those asked for, for which it holds; empty where it holds for
            whatever reads the checkpoint.
        repair: How to repair this one, where that is not what the rule says of all.
        count: How many subjects show the same; `subject` is the first of them.
    """

    file: str
    subject: str | None
    expected: str
    found: str
    engines: tuple[str, ...] = ()
    count: int = 1
    repair: str = ""


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a checkpoint.

    Attributes:
        code: Stable, such as `N201`; the letter is the theme's.
        name: The same in words, such as `repeated-prefix`.
        severity: Of every finding of this rule.
        title: One line.
        explanation: What happens, and why: the function's docstring.
        repair: How to repair it.
        command: Where Scion can repair it, the command.
        stage: The stage of the workflow that repairs it, if one does.
        holds_for: The engines and versions that the fault depends on; None: all.
        seen: Where it was seen: addresses.
        deep: Whether it reads tensor data, which only `--deep` does.
        always: Whether it is run whatever is selected or ignored: it says what was not judged.
        check: Finds it in a checkpoint.
    """

    code: str
    name: str
    severity: Severity
    title: str
    explanation: str
    repair: str
    command: str | None
    stage: str | None
    holds_for: str | None
    seen: tuple[str, ...]
    deep: bool
    always: bool
    check: Callable[[Subject], Iterable[Finding]]


def rule(
    code: str,
    name: str,
    severity: Severity,
    title: str,
    *,
    repair: str,
    command: str | None = None,
    stage: str | None = None,
    holds_for: str | None = None,
    seen: Sequence[str] = (),
    deep: bool = False,
    always: bool = False,
) -> Callable[[Callable[[Subject], Iterable[Finding]]], Rule]:
    """Make a rule of a function; its docstring is what `--explain` says. See `Rule`."""

    def make(check: Callable[[Subject], Iterable[Finding]]) -> Rule:
        explanation = inspect.getdoc(check)
        if not explanation:
            raise TypeError(f"{code} has no docstring to explain it")
        return Rule(
            code=code,
            name=name,
            severity=severity,
            title=title,
            explanation=explanation,
            repair=repair,
            command=command,
            stage=stage,
            holds_for=holds_for,
            seen=tuple(seen),
            deep=deep,
            always=always,
            check=check,
        )

    return make


def workflow_until(stage: str) -> str:
    """The command that runs the workflow up to the stage that repairs something.

    Its config file is one that whoever has the checkpoint writes, and its name says so.
    """
    return f"{_WORKFLOW}--cores all --configfile YOURS.yaml --until {stage}"


@dataclass(frozen=True)
class Result:
    """A finding and the rule that made it.

    Attributes:
        rule: The rule.
        finding: What it found.
        in_workflow: Whether the workflow takes the checkpoint: others it can't repair.
    """

    rule: Rule
    finding: Finding
    in_workflow: bool = True

    @property
    def command(self) -> str | None:
        """Where Scion can repair this checkpoint, the command."""
        return self.rule.command if self.in_workflow else None

    @property
    def stage(self) -> str | None:
        """The stage of the workflow that repairs this checkpoint, if one does."""
        return self.rule.stage if self.in_workflow else None


def run(subject: Subject, rules: Iterable[Rule]) -> list[Result]:
    """Every finding of `rules`, worst first, then by code; alike ones in the order found.

    A rule that needs a file which can't be used is left out; those that are always run say which
    files these are.

    Args:
        subject: The checkpoint.
        rules: Those that apply; deep ones need a local checkpoint.

    Raises:
        ScionError: A file can't be used, and none of `rules` is there to say so.
    """
    rules = list(rules)
    telling = [rule for rule in rules if rule.always]
    results: list[Result] = []
    for rule in [rule for rule in rules if not rule.always] if subject.refusal is None else ():
        try:
            found = list(rule.check(subject))
        except ScionError as error:
            if not telling:
                raise
            if error not in subject.unread.values():
                subject.unread[Path(error.where).name] = error
            continue
        results += [Result(rule, finding) for finding in grouped(merge_engines(found))]
    results += [Result(rule, finding) for rule in telling for finding in rule.check(subject)]
    order = list(Severity)
    taken = _in_workflow(subject)
    return sorted(
        (replace(result, in_workflow=taken) for result in results),
        key=lambda result: (order.index(result.rule.severity), result.rule.code),
    )


def _in_workflow(subject: Subject) -> bool:
    """Whether the workflow takes the checkpoint; no, where config.json can't be read."""
    with suppress(ScionError):
        return is_released(subject.config)
    return False


def merge_engines(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings, each once, with the engines of all that are otherwise the same."""
    merged: dict[Finding, dict[str, None]] = {}
    for finding in findings:
        engines = merged.setdefault(replace(finding, engines=()), {})
        engines |= dict.fromkeys(finding.engines)
    for finding, engines in merged.items():
        yield replace(finding, engines=tuple(engines))


def grouped(findings: Iterable[Finding]) -> Iterator[Finding]:
    """One finding for all that differ only in their subject, the first of them named.

    A fault of a whole model shows in hundreds of tensors; readers need it once, with its count.
    """
    groups: dict[Finding, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(replace(finding, subject=None, count=1), []).append(finding)
    for members in groups.values():
        yield replace(members[0], count=sum(member.count for member in members))


def select_rules(
    rules: Sequence[Rule],
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    deep: bool = False,
) -> list[Rule]:
    """The rules to run.

    Args:
        rules: All of them.
        select: Codes, beginnings of codes (`N`) or names; none: all.
        ignore: The same, taken away again.
        deep: Whether those that read tensor data are among them.

    Raises:
        ScionError: A word that names no rule.
    """
    chosen = [rule for word in select for rule in _named(rules, word)] if select else rules
    ignored = {rule.code for word in ignore for rule in _named(rules, word)}
    codes = {rule.code for rule in chosen} - ignored
    return [rule for rule in rules if rule.code in codes and (deep or not rule.deep)]


def with_telling(chosen: Sequence[Rule], rules: Sequence[Rule]) -> list[Rule]:
    """The chosen rules, and those of `rules` that are run whatever is chosen, in their order."""
    return [rule for rule in rules if rule.always or rule in chosen]


def _named(rules: Sequence[Rule], word: str) -> list[Rule]:
    matches = [rule for rule in rules if rule.name == word or (word and rule.code.startswith(word))]
    if not matches:
        raise ScionError(
            "no rule has that name",
            where=repr(word),
            expected="a code such as N201, the beginning of codes such as N, or a name such as "
            "repeated-prefix",
            found=f"none of {len(rules)} rules",
            hint="scion lint --list",
        )
    return matches
