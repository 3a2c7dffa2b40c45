"""`scion lint`: judge checkpoints, or tell about the rules."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scion.checkpoint.folder_source import open_source
from scion.checkpoint.source import EmptySource, Source
from scion.common.errors import ScionError
from scion.common.files import atomic_file
from scion.engines.registry.engines import DEFAULT_ENGINES, parse_engines
from scion.engines.releases import EngineRelease
from scion.lint.all_rules import RULES
from scion.lint.catalogue import explained, listed, reference
from scion.lint.github import github
from scion.lint.json_report import as_json
from scion.lint.options import MARKDOWN
from scion.lint.report import Report, closing, text, unchecked
from scion.lint.rule import Rule, Severity, run, select_rules, with_telling
from scion.lint.sarif import sarif
from scion.lint.subject import Subject

FOUND, UNUSABLE = 1, 2


def lint(args: argparse.Namespace) -> int:
    """Do what the command line asks for; the exit code."""
    try:
        if args.explain:
            output = explained(select_rules(RULES, select=args.explain, deep=True))
        elif args.list:
            output = reference(RULES) if args.format == MARKDOWN else listed(RULES)
        else:
            return _judge(args)
        _tell(output, args.output)
    except ScionError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    return 0


def _judge(args: argparse.Namespace) -> int:
    rules = _rules(args)
    engines = parse_engines(args.engine) or DEFAULT_ENGINES
    tensor_parallel = tuple(dict.fromkeys(args.tensor_parallel)) or (1,)
    reports: list[Report] = []
    for location in checkpoints(args.paths):
        subject = _subject(location, args, engines=engines, tensor_parallel=tensor_parallel)
        results = run(subject, rules)
        reports.append(Report(subject, rules, results, list(unchecked(subject, rules, RULES))))
    _require_no_file_of(reports, args.output)
    _tell(_render(reports, args.format, colour=_in_colour(args.output)), args.output)
    if args.output is not None:
        print("\n".join(line for report in reports for line in closing(report)))
    if not any(report.judged for report in reports):
        return UNUSABLE
    return FOUND if any(report.counts[Severity.ERROR] for report in reports) else 0


def _subject(
    location: str,
    args: argparse.Namespace,
    *,
    engines: Sequence[EngineRelease],
    tensor_parallel: Sequence[int],
) -> Subject:
    """The checkpoint of a location; where there is none, or none of use, it says why."""
    try:
        source = open_source(location, revision=args.revision)
        if args.deep:
            _require_folder(source)
    except ScionError as error:
        return Subject(EmptySource(location), engines, tensor_parallel, error)
    return Subject.open(source, engines=engines, tensor_parallel=tensor_parallel)


def _rules(args: argparse.Namespace) -> list[Rule]:
    rules = select_rules(RULES, select=args.select, ignore=args.ignore, deep=args.deep)
    if not rules:
        options = {"--select": args.select, "--ignore": args.ignore}
        options_given = [
            f"{option} {','.join(words)}" for option, words in options.items() if words
        ]
        raise ScionError(
            "no rule is left to run",
            where=" ".join(options_given),
            expected="one rule at least",
            found="none",
            hint="scion lint --list; D rules read the tensors' data and need --deep",
        )
    return with_telling(rules, RULES)


def checkpoints(paths: Sequence[str]) -> Iterator[str]:
    """The folders and repositories that are meant, each once; a file means the folder it is in.

    pre-commit calls with the files that changed, several of one checkpoint.
    """
    seen = set[str]()
    for path in paths:
        location = str(Path(path).parent) if os.path.isfile(path) else path
        identity = os.path.realpath(location) if os.path.isdir(location) else location
        if identity not in seen:
            seen.add(identity)
            yield location


def _require_folder(source: Source) -> None:
    if source.folder is None:
        raise ScionError(
            "--deep reads every tensor, which is not done over the hub",
            where=source.name,
            expected="a folder on this machine",
            found="a hub repository",
            hint="hf download OWNER/NAME --revision COMMIT --local-dir FOLDER, then "
            "scion lint --deep FOLDER",
        )


def _render(reports: Sequence[Report], form: str, *, colour: bool) -> str:
    if form == "text":
        return text(reports, colour=colour)
    if form == "github":
        return github(reports)
    # In ASCII: a hostile checkpoint can hold names that are no valid text.
    return json.dumps(sarif(reports) if form == "sarif" else as_json(reports), indent=2) + "\n"


def _in_colour(output: Path | None) -> bool:
    # https://no-color.org: set to anything but the empty string.
    return output is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _require_no_file_of(reports: Sequence[Report], output: Path | None) -> None:
    """A report that is written over a file of its checkpoint would be the end of that file."""
    for source in (report.subject.source for report in reports):
        if output is None or source.folder is None:
            continue
        if output.resolve() in {(source.folder / name).resolve() for name in source.files}:
            raise ScionError(
                "the report would replace a file of the checkpoint",
                where=output,
                expected="a name that the checkpoint has no file of",
                found=f"a file of {source.name}",
                hint="name another --output",
            )


def _tell(content: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(content)
        return
    try:
        if output.exists() and not output.is_file():
            raise OSError("a folder, pipe or device is there")
        with atomic_file(output.resolve()) as file:
            file.write(content.encode())
    except OSError as error:
        raise ScionError(
            "the report can't be written",
            where=output,
            expected="a file that can be made or replaced",
            found=error,
            hint="name another --output",
        ) from error
