"""The command line of `scion explain`: where something of a release came from."""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scion.audit.explanation import ChainStep, Explanation

_DESCRIPTION = """\
Tell where a tensor, a file or a number of a sealed release came from: the stages behind it, each
with its settings, the digests of its code and environment, and the files it read. A tensor is
followed to source or donor by its bytes; a number is looked for among the recorded results, and
every value that the card would tell so is named. Nothing is proved: scion check and scion audit do
that."""

_EPILOG = """\
examples:
  scion explain results/X/release lm_head.weight
  scion explain results/X/release README.md
  scion explain results/X/release "82.1 %"
  scion explain hf://owner/name lm_head.weight --svg > chain.svg
  scion explain hf://owner/name lm_head.weight --dot

PROVENANCE.md of a release has all of its stages on one page.
"""


def add_explain(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]
) -> None:
    """Add the parser of `scion explain`, which calls `run` with what it has read."""
    parser = add_parser(
        "explain",
        help="tell where a tensor, a file or a number of a release came from",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("release", metavar="RELEASE", help="its folder, or hf://owner/name")
    parser.add_argument("name", metavar="NAME", help="a tensor, a file, or a number of the card")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON list instead")
    form.add_argument("--dot", action="store_true", help="print the chain as a graph in DOT")
    form.add_argument("--svg", action="store_true", help="print the chain as a picture")
    parser.set_defaults(run=run)


def explain_subject(args: argparse.Namespace) -> None:
    """Run `scion explain`.

    Raises:
        ScionError: There is no sealed release, or nothing of that name in it.
    """
    from scion.audit.explanation import dot, explain, svg
    from scion.audit.seal import release_tree
    from scion.common.text import printable

    found = explain(release_tree(args.release), args.name)
    if args.json:
        print(json.dumps([each.record() for each in found], indent=2))
    elif args.dot:
        print(dot(found[0]), end="")
    elif args.svg:
        print(svg(found[0]))
    else:
        print("\n".join(printable(line) for each in found for line in _lines(each)))


def _lines(found: "Explanation") -> Iterator[str]:
    yield found.subject
    yield from (f"  {line}" for line in found.lines)
    yield f"  made by {found.made_by}"
    for step in found.steps:
        yield from (f"  {line}" for line in _step(step))


def _step(step: "ChainStep") -> Iterator[str]:
    manifest = step.manifest
    yield f"{step.stage}, content {manifest['content']}"
    for name, entry in manifest["made_from"].items():
        of = entry.get("stage") or f"{entry['file']}, sha256 {entry['sha256']}"
        yield f"    from {of} as {name}"
    settings = json.dumps(manifest["settings"], sort_keys=True)
    if manifest["settings"]:
        yield f"    settings {settings if len(settings) < 400 else settings[:400] + '…'}"
    yield f"    code {manifest['code']}, environment {manifest['environment']}"
