"""The command line of `scion store`: what is in the store, whether it is sound, what may go."""

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scion.artifacts.store.store import Store

_DEFAULT = Path("config/default.yaml")
_FALLBACK = "results/.store"

_DESCRIPTION = """\
Look after the store, the folder that keeps what stages made (docs/store.md).

Artifacts lie in it under the digest of their content. A root is a folder of results,
results/<release>, whose links show artifacts; each one that ever used the store is noted in it,
of whatever checkout or user. What a root shows is reachable; the rest was made for configurations
that nobody shows any longer. Nothing goes by itself: prune removes what is not reachable."""

_PRUNE = """\
Remove what no root shows and no running workflow needs.

kept:
  what the links of results folders show: results/<release>/<stage>, each of them
  what a running workflow or stage needs, however long it runs
  what folders of other hosts showed, if they can't be found here (--forget FOLDER ends that)
  of the rest, with --keep SIZE, what was used last
  half-made work that somebody is at, or that changed within --older-than DAYS

removed:
  artifacts of older configurations, the least recently used first, with their records and the
  pointers that named them; asked for again, they are made anew
  roots whose folder is gone from this host: all that only they showed goes too
  damaged entries, old half-made work, stale leases and locks, entries of caches

A folder of results that was moved or renamed away from beside its store is gone as a root, until
the workflow runs in it again. Sealed releases, results/<release>/release, are folders of their own
and are not touched. It may run beside jobs."""

_EPILOG = """\
examples:
  scion store ls                          what is there, and which release shows it
  scion store du                          what prune would free
  scion store prune --dry-run             what would go
  scion store prune --keep 200GB          all but the 200 GB of it that were used last
  scion store verify                      read everything again
  scion store verify --repair             and set aside what is damaged: the next run makes it anew

exit codes:
  0  done
  1  verify found something; or there is no store, or it can't be written
"""
_Commands = Callable[..., argparse.ArgumentParser]
_UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40},
}


def add_store(add_parser: _Commands, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the parser of `scion store`, which calls `run` with what it has read."""
    form = argparse.RawDescriptionHelpFormatter
    parser = add_parser(
        "store",
        help="look after what stages made: list it, verify it, prune it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=form,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    listing = commands.add_parser("ls", help="list artifacts, half-made work, damaged entries")
    usage = commands.add_parser("du", help="what takes how much room, and what prune would free")
    check = commands.add_parser("verify", help="hash everything again, and tell what is wrong")
    check.add_argument(
        "--repair",
        action="store_true",
        help="move damaged entries and records that mean nothing to damaged/, so that the next "
        "run makes anew what it needs",
    )
    prune = commands.add_parser(
        "prune",
        help="remove what nobody needs",
        description=_PRUNE,
        formatter_class=form,
    )
    _add_prune(prune)
    for each in (listing, usage):
        each.add_argument("--json", action="store_true", help="print one JSON object instead")
    for each in (listing, usage, check, prune):
        each.add_argument(
            "--store",
            type=Path,
            metavar="FOLDER",
            help=f"the store; default: the first of `store` in {_DEFAULT}, or {_FALLBACK}",
        )
    parser.set_defaults(run=run)


def _add_prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep",
        type=_bytes,
        default=0,
        metavar="SIZE",
        help="keep this much of what is not reachable, such as 200GB or 1.5TB: what was used last "
        "(default: nothing)",
    )
    parser.add_argument(
        "--older-than",
        type=_days,
        default=7,
        metavar="DAYS",
        help="remove half-made work that did not change for so long (default: 7)",
    )
    parser.add_argument(
        "--forget",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder of results that is gone from another host; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)\s*([A-Za-z]*)", text.strip(), re.ASCII)
    if found is None or found[2].lower() not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 200GB, 1.5TB or 300GiB")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def _days(text: str) -> float:
    if re.fullmatch(r"\d{1,6}(\.\d+)?", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days such as 7 or 0.5")
    return float(text)


def store_command(args: argparse.Namespace) -> int:
    """Run `scion store`; the exit code."""
    from scion.artifacts.store.survey import open_store

    run = {"ls": _ls, "du": _du, "verify": _verify, "prune": _prune}[args.command]
    return run(open_store(args.store or _default_store()), args)


def _default_store() -> Path:
    from scion.config import read_config

    return Path(read_config(_DEFAULT).store[0] if _DEFAULT.is_file() else _FALLBACK)


def _ls(store: "Store", args: argparse.Namespace) -> int:
    from scion.artifacts.store.listing import Listing
    from scion.common.text import printable_json

    listing = Listing.of(store)
    print(printable_json(listing.record()) if args.json else _text(listing.lines()))
    return 0


def _du(store: "Store", args: argparse.Namespace) -> int:
    from scion.artifacts.store.listing import Usage
    from scion.common.text import printable_json

    usage = Usage.of(store)
    print(printable_json(usage.parts) if args.json else _text(usage.lines()))
    return 0


def _text(lines: Iterable[str]) -> str:
    from scion.common.text import printable

    return "\n".join(map(printable, lines))


def _verify(store: "Store", args: argparse.Namespace) -> int:
    from scion.artifacts.store.audit import repair, verify
    from scion.common.text import size

    audit = verify(store)
    lines = [str(problem) for problem in audit.problems]
    if args.repair:
        lines += [f"repaired: {line}" for line in repair(store, audit)]
    counts = f"artifacts: {audit.artifacts}, records: {audit.records}, read: {size(audit.size)}"
    lines.append(f"{store.folder}: {counts}; problems: {len(audit.problems)}")
    print(_text(lines))
    return 1 if audit.problems else 0


def _prune(store: "Store", args: argparse.Namespace) -> int:
    from scion.artifacts.store.housekeeping import Doomed, Rules, prune
    from scion.artifacts.store.listing import doomed_lines

    def say(doomed: Doomed) -> None:
        print(_text(doomed_lines(store, doomed, dry_run=args.dry_run)), flush=True)

    rules = Rules(args.keep, args.older_than, tuple(args.forget))
    prune(store, rules, dry_run=args.dry_run, say=say)
    return 0
