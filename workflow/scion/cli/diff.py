"""The command line of `scion diff`: what two checkpoints have otherwise."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scion.audit.difference import Difference

_DESCRIPTION = """\
Tell what B has otherwise than A: tensors that are renamed, removed, added, stored by another
algorithm, or changed, and keys of config.json. A and B are checkpoints or artifacts, as folders or
repositories of the hub. Where both hold the same tensors, it says so, whatever their names."""

_EPILOG = """\
Every tensor is read. With --tables, digests are taken from the tensors.json of a checkpoint that
has one: nothing but headers is moved then, and what such a table says is believed, which scion
check holds to the shards.

examples:
  scion diff results/X/fetch_source results/X/fix_keys        renamed, and nothing else
  scion diff results/X/fix_keys results/X/graft_mtp           what became of the source
  scion diff downloads/before hf://owner/name@COMMIT --tables --json

exit codes:
  0  the same weights, under the same names or others, and the same configuration
  1  something differs
  2  there is no checkpoint, or it can't be read
"""

_DIFFERENT, _UNUSABLE = 1, 2
_SHOWN = 20


def add_diff(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]
) -> None:
    """Add the parser of `scion diff`, which calls `run` with what it has read."""
    parser = add_parser(
        "diff",
        help="tell which tensors and keys two checkpoints have otherwise",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", help="a folder, or hf://owner/name[@revision]")
    parser.add_argument("b", metavar="B", help="the other")
    parser.add_argument(
        "--tables", action="store_true", help="believe tensors.json where there is one"
    )
    parser.add_argument("--all", action="store_true", help=f"list more than {_SHOWN} of a kind")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=run)


def diff(args: argparse.Namespace) -> int:
    """Run `scion diff`; the exit code."""
    from scion.common.errors import ScionError, of_system
    from scion.common.extras import extras_told
    from scion.common.text import printable, printable_json

    try:
        with extras_told():
            from scion.audit.difference import difference
        found = difference(args.a, args.b, tables=args.tables)
    except (ScionError, OSError) as error:
        told = of_system(error) if isinstance(error, OSError) else error
        print(f"error: {told}", file=sys.stderr)
        return _UNUSABLE
    if args.json:
        print(printable_json(found.record()))
    else:
        print("\n".join(map(printable, _lines(found, everything=args.all))))
    return 0 if found.same_weights and not found.config else _DIFFERENT


def _lines(found: "Difference", *, everything: bool) -> Iterator[str]:
    for title, name, read in zip("AB", (found.a, found.b), found.read, strict=True):
        yield f"{title}: {name}, digests from {read}"
    kinds: Mapping[str, Sequence[str]] = {
        "renamed": [f"{old} -> {new}" for old, new in found.renamed.items()],
        "changed": [f"{name}: {how}" for name, how in found.changed.items()],
        "requantized": [f"{name}: {a} -> {b}" for name, (a, b) in found.requantized.items()],
        "removed": found.removed,
        "added": found.added,
        "config.json": [f"{key}: {a} -> {b}" for key, (a, b) in found.config.items()],
    }
    for kind, entries in kinds.items():
        if not entries:
            continue
        yield f"{kind}: {len(entries)}"
        shown = entries if everything else entries[:_SHOWN]
        yield from (f"  {entry}" for entry in shown)
        if len(shown) < len(entries):
            yield f"  and {len(entries) - len(shown)} more: --all lists them"
    yield _closing(found)


def _closing(found: "Difference") -> str:
    if not found.same_weights:
        parts = ("renamed", "changed", "requantized", "removed", "added")
        counts = ", ".join(f"{len(getattr(found, part))} {part}" for part in parts)
        return f"{found.same} tensors are the same; {counts}"
    names = f", {len(found.renamed)} of them under other names" if found.renamed else ""
    config = f"; {len(found.config)} keys of config.json differ" if found.config else ""
    return f"the same weights: {found.same + len(found.renamed)} tensors{names}{config}"
