"""The command line of `scion compare`: what moved between two releases, and how far."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

_DESCRIPTION = """\
Compare the measurements of two releases: which numbers moved, by how much, and how that stands to
their 95 % intervals; which other values differ; and whether the weights and each stage's digest are
the same. A and B are release folders, or the folders of their artifacts (results/X): two runs of
one configuration, or two configurations. Nothing is served, and no weights are read."""

_EPILOG = """\
verdicts:
  same      the values are equal
  within    each value lies inside the other's interval
  overlap   the intervals overlap, no more than that
  apart     they do not overlap
  unknown   the values differ, and one has no interval

Holding intervals side by side is a cautious check rather than a test: of two numbers whose
intervals overlap nothing is proven, and where they do not, the difference is significant well
beyond 5 %, if the two were measured independently. Numbers of the same prompts are not quite
independent, and of hundreds of numbers one or the other parts by chance. An interval covers what
one run sampled: timings also part because a machine was busier, and another GPU is another matter.

Accepted drafts of the same prompts are compared prompt by prompt as well, by set of prompts: B less
A with the 95 % interval of that difference, of which a prompt is the unit. It "differs" where the
interval leaves out 0. Both need the same prompts, launch and number of drafts.

A change's size is told in half-widths as well: of the wider one of the two intervals. What is
never the same is not compared: the port of a server, and the ids and times in answers. Files of
lines (timings.jsonl, answers) are compared by their digests.

examples:
  scion compare results/before results/after
  scion compare results/X/release downloads/X            mine and the published one
  scion compare results/X results/Y --all                what is unchanged as well
  scion compare results/X results/Y --json > moved.json
  scion compare results/before results/after --fail-apart

exit codes:
  0  compared
  1  with --fail-apart: a number is apart (one that is only in A or B is not)
  2  there is no release, or it can't be compared
"""

_APART, _UNUSABLE = 1, 2


def add_compare(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]
) -> None:
    """Add the parser of `scion compare`, which calls `run` with what it has read."""
    parser = add_parser(
        "compare",
        help="tell which numbers moved between two releases, against their intervals",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", type=Path, metavar="A", help="a release's folder")
    parser.add_argument("b", type=Path, metavar="B", help="the other's")
    parser.add_argument(
        "--all", action="store_true", help="show what is unchanged as well, and every line"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--fail-apart", action="store_true", help="exit with 1 if the intervals of a number part"
    )
    parser.set_defaults(run=run)


def compare_releases(args: argparse.Namespace) -> int:
    """Run `scion compare`; the exit code."""
    from scion.common.errors import ScionError, of_system
    from scion.common.text import printable, printable_json
    from scion.report.comparison.releases import open_release
    from scion.report.comparison.tables import ComparisonReport

    try:
        report = ComparisonReport.of(
            open_release(args.a), open_release(args.b), everything=args.all
        )
    except (ScionError, OSError) as error:
        told = of_system(error) if isinstance(error, OSError) else error
        print(f"error: {told}", file=sys.stderr)
        return _UNUSABLE
    if args.json:
        print(printable_json(report.record()))
    else:
        print("\n".join(map(printable, report.lines())))
    return _APART if args.fail_apart and report.counts["apart"] else 0
