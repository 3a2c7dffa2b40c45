"""The command line of `scion lint`; importing it loads nothing that judges a checkpoint."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

FORMATS = ("text", "json", "sarif", "github")
MARKDOWN = "markdown"

_DESCRIPTION = """\
Say what is wrong with a checkpoint before it is served: from its configs, its index and the headers
of its shards, for the engines that shall load it. No GPU, no torch, no download of weights."""

_EPILOG = """\
examples:
  scion lint models/agent-nvfp4                       a folder
  scion lint hf://owner/name --revision v1.1          a repository: only headers are moved
  scion lint models/*/config.json                     files: the folders that hold them, each once
  scion lint models/agent --engine vllm==0.19.1 --engine 'vllm>=0.28' --tensor-parallel 2,4
  scion lint models/agent --ignore T,mtp-dropped      all but a theme and a rule
  scion lint models/agent --format sarif --output lint.sarif
  scion lint --explain N201                           what a rule is about, and how to repair it

an engine is one of:
  vllm                  the newest release that Scion knows
  vllm==0.19.1          that release
  'vllm>=0.20,<0.30'    every release in that range that Scion knows
for vllm, sglang and tensorrt-llm. Releases that Scion does not know are refused, not guessed at.

exit codes:
  0  no finding of severity error
  1  a finding of severity error; a file that can't be used is one (F126), and so is a checkpoint
     that is not there beside others that are (F127)
  2  nothing was judged: no checkpoint there, or a wrong option
"""


def add_lint(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]
) -> None:
    """Add the parser of `scion lint`, which calls `run` with what it has read."""
    parser = add_parser(
        "lint",
        help="say what is wrong with a checkpoint, and for which engines",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH_OR_REPO",
        help="a checkpoint's folder, a file in it, or a repository: hf://owner/name[@revision], or "
        "owner/name where no such path is here",
    )
    _add_judging(parser)
    _add_reporting(parser)
    parser.set_defaults(run=lambda args: run(_consistent(parser, args)))


def _add_judging(parser: argparse.ArgumentParser) -> None:
    judging = parser.add_argument_group("what is judged (options may be repeated)")
    judging.add_argument(
        "--revision", help="commit, branch or tag of the repositories (default: their main branch)"
    )
    judging.add_argument(
        "--engine",
        type=_engines,
        action="extend",
        default=[],
        metavar="ENGINE[,…]",
        help="the engines that shall serve it (default: the newest known vLLM and SGLang)",
    )
    judging.add_argument(
        "--tensor-parallel",
        type=_counts,
        action="extend",
        default=[],
        metavar="N[,…]",
        help="the numbers of GPUs that it shall be split over (default: 1)",
    )
    rules = "codes, beginnings of codes (N) or names"
    for option, text in (("--select", "run only these rules"), ("--ignore", "leave these out")):
        judging.add_argument(
            option,
            type=_words,
            action="extend",
            default=[],
            metavar="RULE[,…]",
            help=f"{text}: {rules}",
        )
    judging.add_argument(
        "--deep", action="store_true", help="read the tensors' data too; local folders only"
    )


def _add_reporting(parser: argparse.ArgumentParser) -> None:
    reporting = parser.add_argument_group("what is told")
    reporting.add_argument(
        "--format",
        choices=(*FORMATS, MARKDOWN),
        default="text",
        help="text for people; json; sarif 2.1.0 for code scanning; github for annotations in a "
        "workflow's log; markdown for --list alone (default: text)",
    )
    reporting.add_argument(
        "--output", type=Path, metavar="FILE", help="write the report there; whole or not at all"
    )
    instead = reporting.add_mutually_exclusive_group()
    instead.add_argument(
        "--explain",
        type=_words,
        nargs="+",
        default=[],
        metavar="RULE",
        help="explain rules instead of judging a checkpoint",
    )
    instead.add_argument("--list", action="store_true", help="list every rule instead")


def _consistent(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    """The arguments, with lists of lists flattened; ends the program where they contradict."""
    args.explain = [word for words in args.explain for word in words]
    about_rules = args.list or args.explain
    if about_rules and args.paths:
        parser.error("--explain and --list judge no checkpoint: give no path with them")
    if not about_rules and not args.paths:
        parser.error("name a checkpoint: a folder, a file in it, or hf://owner/name")
    if args.format == MARKDOWN and not args.list:
        parser.error("--format markdown goes with --list")
    if about_rules and args.format not in ("text", MARKDOWN):
        parser.error(f"--explain and --list have no format {args.format}")
    return args


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _engines(text: str) -> list[str]:
    # A comma also parts the clauses of one range, but no clause begins with a letter.
    return [engine.strip() for engine in re.split(r",(?=\s*[A-Za-z])", text)]


def _counts(text: str) -> list[int]:
    words = _words(text)
    if not words or not all(re.fullmatch("[1-9][0-9]{0,5}", word) for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of GPUs")
    return list(map(int, words))
