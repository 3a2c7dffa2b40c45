"""What was found in one checkpoint, and how that reads in a terminal."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from scion.checkpoint.shards import CONFIG
from scion.checkpoint.source import Traffic
from scion.common.errors import ScionError
from scion.common.text import printable
from scion.engines.registry.decisions import is_modelled
from scion.engines.registry.engines import ENGINES
from scion.lint.rule import WHOLE, Finding, Result, Rule, Severity
from scion.lint.subject import Subject

TOKENIZER = "tokenizer.json"
UNREADABLE = "F126"

_COLOURS = {Severity.ERROR: "1;31", Severity.WARNING: "1;33", Severity.NOTE: "1;36"}


@dataclass(frozen=True)
class Report:
    """What came of one checkpoint.

    Attributes:
        subject: The checkpoint.
        rules: The rules that were run.
        results: Their findings, worst first.
        unchecked: What was not looked at, and why, a line each.
    """

    subject: Subject
    rules: Sequence[Rule]
    results: Sequence[Result]
    unchecked: Sequence[str]

    @property
    def judged(self) -> bool:
        """Whether there was anything to judge."""
        return self.subject.refusal is None

    @property
    def files(self) -> int:
        """Number of safetensors files, sound or not."""
        return sum(name.endswith(".safetensors") for name in self.subject.source.files)

    @property
    def tensors(self) -> int:
        """Number of tensors that engines read; 0 where a file that says so can't be used."""
        try:
            return len(self.subject.tensors)
        except ScionError:
            return 0

    @property
    def counts(self) -> Counter[Severity]:
        """Number of findings by severity."""
        return Counter(result.rule.severity for result in self.results)

    def total(self, severity: Severity) -> str:
        """Findings of a severity, and of how many rules where these are fewer: the paragraphs."""
        found = self.counts[severity]
        rules = len({result.rule for result in self.results if result.rule.severity is severity})
        of_rules = "" if rules == found else f" of {plural(rules, 'rule')}"
        return f"{plural(found, severity)}{of_rules}"

    def path(self, file: str) -> Path | None:
        """A file of the checkpoint as seen from the working folder; None where it is on the hub.

        Relative if it lies below the working folder, which in CI is the repository's.
        """
        if self.subject.source.folder is None:
            return None
        path, working_folder = Path(os.path.abspath(self.subject.source.folder / file)), Path.cwd()
        return path.relative_to(working_folder) if path.is_relative_to(working_folder) else path


def unchecked(subject: Subject, rules: Sequence[Rule], known: Sequence[Rule]) -> Iterator[str]:
    """What a run leaves unlooked at: a clean report must not promise more than was read.

    Args:
        subject: The checkpoint.
        rules: The rules that are run.
        known: All rules that there are.
    """
    if subject.refusal is not None:
        return
    if subject.unread:
        files = printable(", ".join(sorted(subject.unread)))
        yield f"what depends on {files}: {UNREADABLE} says why"
    if CONFIG not in subject.unread:
        yield from _unjudged_by_config(subject)
    yield from _unread_for_size(subject)
    if unread := _unread_scalars(subject):
        yield f"the values of {plural(unread, 'scale')}: they lie scattered over files on the hub"
    left_out = [rule for rule in known if rule not in rules]
    if deep := [rule.code for rule in left_out if rule.deep]:
        yield f"the tensors' data: {', '.join(deep)} run with --deep, on a local folder"
    if codes := [rule.code for rule in left_out if not rule.deep]:
        yield f"{', '.join(codes)}: left out by --select or --ignore"


def _unjudged_by_config(subject: Subject) -> Iterator[str]:
    if subject.mlx_marks:
        yield "what config.json implies and what engines make of it: the layout is MLX's"
    elif subject.config_problem is not None:
        yield "what config.json implies and what engines make of it: it is unusable"
    elif subject.inventory is None:
        kind = printable(repr(subject.config.get("model_type")))
        yield f"what config.json implies and what engines make of it: model_type {kind} is unknown"
    else:
        unmodelled = [
            engine for engine in subject.engines if not is_modelled(engine, subject.config)
        ]
        if unmodelled:
            names = printable(repr(subject.config.get("architectures")))
            engines = engine_list(map(str, unmodelled))
            yield f"which modules {engines} would quantize: how they build {names} is not modelled"
    # hf_quant_config.json, which fills in what config.json lacks, may be unusable.
    with suppress(ScionError):
        if subject.formats is None:
            method = "quantization_config is of a method that lint does not know"
            yield f"the quantized tensors: {method}"


def _unread_for_size(subject: Subject) -> Iterator[str]:
    size = subject.source.files.get(TOKENIZER)
    with suppress(ScionError):
        if size is not None and subject.read(TOKENIZER) is None:
            yield f"{TOKENIZER}: {megabytes(size)} are more than is read of it"


def _unread_scalars(subject: Subject) -> int:
    # The property is there once a rule has asked for it; to ask here would move what none needs.
    if "scalars" not in vars(subject):
        return 0
    return len(subject.scalar_tensors) - len(subject.scalars)


def text(reports: Iterable[Report], *, colour: bool) -> str:
    """The reports for people: a paragraph a rule, and what it all comes to at the end."""
    return "".join(f"{line}\n" for report in reports for line in _lines(report, colour))


def _lines(report: Report, colour: bool) -> Iterator[str]:
    codes: list[str] = []
    # They are sorted by rule, whose repair is told once.
    for rule, group in groupby(report.results, key=lambda result: result.rule):
        results = list(group)
        codes.append(rule.code)
        yield f"{_word(rule.severity, colour)} {rule.code} {rule.name}: {rule.title}"
        for result in results:
            yield from _finding_lines(result.finding)
        if not all(result.finding.repair for result in results):
            yield f"  repair:   {rule.repair}"
            if command := results[0].command:
                yield f"            {command}"
        yield ""
    if codes:
        yield f"more about these: scion lint --explain {','.join(codes)}"
    yield from closing(report)


def _finding_lines(finding: Finding) -> Iterator[str]:
    yield f"  where:    {where(finding)}"
    yield f"  expected: {printable(finding.expected)}"
    yield f"  found:    {printable(finding.found)}"
    if finding.engines:
        yield f"  engines:  in {engine_list(finding.engines)}"
    if finding.repair:
        yield f"  repair:   {printable(finding.repair)}"


def _word(severity: Severity, colour: bool) -> str:
    return f"\x1b[{_COLOURS[severity]}m{severity}\x1b[0m" if colour else str(severity)


def closing(report: Report) -> list[str]:
    """What was not looked at, and the line that sums up."""
    return [*(f"not checked: {omission}" for omission in report.unchecked), _summary(report)]


def _summary(report: Report) -> str:
    subject = report.subject
    totals = [report.total(severity) for severity in Severity if report.counts[severity]]
    name = printable(subject.source.name)
    if not report.judged:
        return f"{', '.join(totals)}: {name} was not judged"
    tensors, files = plural(report.tensors, "tensor"), plural(report.files, "file")
    engines = engine_list(map(str, subject.engines))
    whole = not subject.unread and subject.inventory and subject.formats is not None
    clean = "clean" if whole else "nothing found in the little that could be checked"
    return (
        f"{', '.join(totals) or clean}: {tensors} in {files} of {name}; "
        f"judged for {engines}{_split(subject.tensor_parallel)}{_moved(subject.source.traffic)}"
    )


def _split(tensor_parallel: Sequence[int]) -> str:
    return (
        "" if list(tensor_parallel) == [1] else f" on {', '.join(map(str, tensor_parallel))} GPUs"
    )


def _moved(traffic: Traffic | None) -> str:
    if traffic is None:
        return ""
    requests = plural(traffic.requests, "request")
    return f"; {megabytes(traffic.bytes_moved)} moved in {requests}"


def plural(number: int, thing: str) -> str:
    """`1 tensor` or `1,184 tensors`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def megabytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:,.1f} MB"


def where(finding: Finding) -> str:
    """The file and the subject of a finding, and how many more there are."""
    parts = [part for part in (finding.file, finding.subject) if part not in (None, WHOLE)]
    place = ": ".join(map(str, parts))
    return printable(place) + (f" and {finding.count - 1:,} more" if finding.count > 1 else "")


def engine_list(engines: Iterable[str]) -> str:
    """Engines for people: `vLLM 0.19.1, 0.20.0, SGLang 0.5.23`."""
    versions: dict[str, list[str]] = {}
    for engine in engines:
        name, _, version = engine.partition(" ")
        versions.setdefault(ENGINES[name].title, []).append(version)
    return ", ".join(f"{title} {', '.join(numbers)}" for title, numbers in versions.items())


def message(result: Result) -> str:
    """A finding in sentences, for reports that have no columns."""
    rule, finding = result.rule, result.finding
    sentences = [
        f"{rule.title}: {where(finding)}",
        f"expected: {printable(finding.expected)}",
        f"found: {printable(finding.found)}",
        f"repair: {printable(finding.repair) or rule.repair}",
    ]
    if finding.engines:
        sentences.insert(1, f"in {engine_list(finding.engines)}")
    return " ".join(map(sentence, sentences))


def sentence(text: str) -> str:
    """A phrase as a sentence: a full stop, and a capital unless it begins with a file or a key."""
    first = text.split(" ", 1)[0]
    start = text[0].upper() if first.strip(":,").isalpha() else text[0]
    return f"{start}{text[1:]}{'' if text.endswith('.') else '.'}"
