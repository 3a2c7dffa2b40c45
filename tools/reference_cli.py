"""The command line as a Markdown page, from its parsers."""

# argparse has no public way to ask a parser what it takes.
# pyright: reportPrivateUsage=false

import argparse
from collections.abc import Iterator

from scion.cli.main import command_parser

_HEAD = """\
# The command line

Every subcommand of `scion`, with its options. Generated from the parsers by `make reference`;
`scion COMMAND --help` says the same in a terminal, and `scion --version` which Scion that is.

Releases are made by Snakemake, not by `scion`: see [a release of your own](../guides/release.md).
"""


def cli_reference() -> str:
    """The page: a section for each subcommand, one below it for each of a subcommand's own."""
    parts = [_HEAD]
    for name, summary, parser in _subcommands(command_parser()):
        parts.append(_section(f"scion {name}", summary, parser, level=2))
        parts += [
            _section(f"scion {name} {below}", told, inner, level=3)
            for below, told, inner in _subcommands(parser)
        ]
    return "\n".join(parts)


def _subcommands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Name, line of help and parser of each subcommand."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, inner in action.choices.items():
                yield name, told[name], inner


def _section(name: str, summary: str, parser: argparse.ArgumentParser, *, level: int) -> str:
    lines = [f"{'#' * level} {name}", ""]
    lines += _text(parser.description or f"{_title(summary)}.")
    lines += ["```text", _usage(name, parser), "```", ""]
    for group in parser._action_groups:
        entries = [line for action in group._group_actions for line in _entry(action)]
        if entries:
            plain = group.title in ("positional arguments", "options")
            lines += entries if plain else ["", f"{_title(group.title)}:", "", *entries]
    lines.append("")
    if parser.epilog:
        lines += ["```text", parser.epilog.rstrip(), "```", ""]
    return "\n".join(lines)


def _text(description: str) -> list[str]:
    """A description; what is laid out in it, such as indented lists, stays as it is."""
    if "\n  " in description:
        return ["```text", description.rstrip(), "```", ""]
    return [description.rstrip(), ""]


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    """The shape of a call, on one line, the options apart."""
    words = [name]
    optional = False
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if action.option_strings:
            optional = optional or not action.required
            if action.required:
                words.append(f"{action.option_strings[-1]} {_value(action)}")
        else:
            word = _value(action)
            words.append(f"[{word} …]" if action.nargs == "*" else word)
            if action.nargs == "?":
                words[-1] = f"[{word}]"
    words[1:1] = ["[OPTIONS]"] if optional else []
    return " ".join(words)


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if isinstance(action, argparse._SubParsersAction):
        return "COMMAND"
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def _entry(action: argparse.Action) -> Iterator[str]:
    if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
        return
    if isinstance(action, argparse._SubParsersAction):
        for choice in action._choices_actions:
            yield f"- `{choice.dest}`: {choice.help}"
        return
    name = ", ".join(action.option_strings)
    if action.nargs != 0:
        name = f"{name} {_value(action)}".strip()
    yield f"- `{name}`: {(action.help or '') % vars(action)}"


def _title(text: str | None) -> str:
    return f"{(text or '')[:1].upper()}{(text or '')[1:]}"
