"""The command line of `scion reproduce`: a published release is made again, and compared."""

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_DESCRIPTION = """\
Make a published release again and say whether its weights come out the same. The release itself
says how: its configuration, its sources at their commits, the Scion and the locked environment that
made it. They are fetched and converted in a folder of its own, with a store of its own, up to the
stage that made the weights; nothing is measured. Then the content digest is compared with the
published one, and, where it is another, tensor by tensor."""

_EPILOG = """\
examples:
  scion reproduce hf://owner/X                    in reproduced/X, kept for a look and for resuming
  scion reproduce downloads/X --folder /scratch/X
  scion reproduce hf://owner/X --dry-run          write the configuration and say what would run

The configuration is its publisher's: read FOLDER/release.yaml before you run what a stranger wrote.
Files that it names beside the hub's have to lie in FOLDER under the same names: put them there
after a --dry-run. Equal weights are
promised for the Scion and the locks that the release names; both are compared, too.

exit codes:
  0  the weights are the published ones, bit by bit (or --dry-run)
  1  they are not
  2  they could not be made: no release, no sources, or the run failed
"""

_DIFFERENT, _UNUSABLE, _SHOWN = 1, 2, 10


def add_reproduce(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]
) -> None:
    """Add the parser of `scion reproduce`, which calls `run` with what it has read."""
    parser = add_parser(
        "reproduce",
        help="make a published release again, and say whether its weights are the same",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("release", metavar="RELEASE", help="its folder, or hf://owner/name")
    parser.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="where to work (default: reproduced/NAME)"
    )
    parser.add_argument("--cores", default="all", metavar="N", help="as snakemake takes it")
    parser.add_argument("--dry-run", action="store_true", help="prepare, and say what would run")
    parser.set_defaults(run=run)


def reproduce(args: argparse.Namespace) -> int:
    """Run `scion reproduce`; the exit code."""
    from scion.common.errors import ScionError
    from scion.common.extras import extras_told

    try:
        with extras_told():
            return _reproduce(args)
    except ScionError as error:
        print(f"error: {error}", file=sys.stderr)
        return _UNUSABLE


def _reproduce(args: argparse.Namespace) -> int:
    # What runs the workflow, before anything is read for it.
    importlib.import_module("snakemake")
    from scion.artifacts.release_layout import REPRODUCTION
    from scion.audit.reproduced import CONFIG, PublishedRecipe, checkout, command, outcome, prepare
    from scion.audit.seal import release_tree
    from scion.common.errors import ScionError
    from scion.common.text import printable
    from scion.config import load_config

    recipe = PublishedRecipe.read(release_tree(args.release))
    # A stranger's values name folders and files: as a configuration may, and no otherwise.
    load_config(dict(recipe.settings), where=f"{recipe.name}: {REPRODUCTION}")
    folder = args.folder or Path("reproduced", recipe.settings["release"])
    prepare(recipe, folder)
    print("\n".join(map(printable, recipe.lines())))
    print(printable(f"configuration: {folder / CONFIG}"), flush=True)
    options = ["--cores", args.cores, *(["--dry-run"] if args.dry_run else [])]
    words = command(recipe, sys.executable, options)
    environment = {**os.environ, "PYTHONPATH": str(checkout() / "workflow")}
    status = subprocess.run(words, cwd=folder, env=environment).returncode
    if status:
        raise ScionError(
            "the release could not be made again",
            where=folder,
            expected="a run that ends",
            found=f"exit code {status}",
            hint="see above; once that is mended, the same command goes on where it stopped",
        )
    if args.dry_run:
        return 0
    found = outcome(recipe, folder)
    if found.locks:
        print(printable(f"other locks than the publisher's: {', '.join(found.locks)}"))
    print(f"published: {recipe.weights}\nmade here: {found.weights}")
    if found.is_equal(recipe):
        print(f"equal: {len(recipe.tensors)} tensors, bit by bit")
        return 0
    names = [*found.differing[:_SHOWN], *(["…"] if len(found.differing) > _SHOWN else [])]
    print(printable(f"different: {len(found.differing)} tensors: {', '.join(names)}"))
    return _DIFFERENT
