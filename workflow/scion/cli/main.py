"""The command `scion`: what people do around the workflow, by hand.

Each subcommand imports what it needs when it is called: reading a config file takes pydantic and
the hub's client, a second of imports that `scion lint`, run on every commit, must not pay.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from scion.cli.acceptance import add_acceptance
from scion.cli.compare import add_compare
from scion.cli.estimate import add_estimate
from scion.cli.launch import add_launch
from scion.cli.store import add_store
from scion.common.errors import ScionError, exit_on_error
from scion.lint.options import add_lint

_AddParser = Callable[..., argparse.ArgumentParser]
_DEFAULT = Path("config/default.yaml")


def main() -> int:
    """Parse arguments and run a subcommand."""
    args = command_parser().parse_args()
    return exit_on_error(lambda: args.run(args))


def command_parser() -> argparse.ArgumentParser:
    """The parser of `scion` with all its subcommands, which docs/reference/cli.md lists too."""
    parser = argparse.ArgumentParser(
        prog="scion",
        description="Lint checkpoints; make, check and describe releases. Releases are made by the "
        "workflow: snakemake --cores all --configfile config/releases/X.yaml",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_summary(commands.add_parser)
    _add_check(commands.add_parser)
    _add_pin(commands.add_parser)
    _add_config(commands.add_parser)
    add_lint(commands.add_parser, _lint)
    add_acceptance(commands.add_parser, _acceptance)
    add_estimate(commands.add_parser, _estimate)
    add_launch(commands.add_parser, _launch)
    add_compare(commands.add_parser, _compare)
    add_store(commands.add_parser, _store)
    return parser


def _add_summary(add_parser: _AddParser) -> None:
    parser = add_parser("summary", help="say what a finished run made and measured")
    parser.add_argument("config", nargs="?", type=Path, default=_DEFAULT, help="its config file")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    parser.set_defaults(run=_summary)


def _summary(args: argparse.Namespace) -> None:
    from scion.config import read_config
    from scion.report.summary import summary

    print("\n".join(summary(args.results / read_config(args.config).release)))


def _add_check(add_parser: _AddParser) -> None:
    parser = add_parser(
        "check", help="hash a release or any artifact again and follow its provenance"
    )
    parser.add_argument("folder", type=Path, help="a release folder, downloaded or made here")
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> None:
    from scion.artifacts.artifact import Artifact
    from scion.artifacts.release_check import check_release

    artifact = Artifact.open(args.folder)
    if artifact.manifest["stage"] == "seal_release":
        artifact, problems = check_release(args.folder)
    else:
        problems = artifact.check()
    if problems:
        raise ScionError(
            "the folder is not what its manifest says",
            where=args.folder,
            expected=f"{len(artifact.files)} files with the recorded digests",
            found="; ".join(problems),
            hint="download the release again, or make it again with the workflow",
        )
    print(f"{args.folder}: {len(artifact.files)} files are what the manifest says")
    if "weights" in artifact.facts:
        print(f"weights: {artifact.facts['weights']}")
    else:
        print(f"content: {artifact.content}")
    print(f"root:    {artifact.root}")


def _add_pin(add_parser: _AddParser) -> None:
    parser = add_parser(
        "pin", help="write the commit that each hf:// location has now into a config file"
    )
    parser.add_argument("config", type=Path, help="YAML file; comments and layout stay")
    parser.set_defaults(run=_pin)


def _pin(args: argparse.Namespace) -> None:
    from scion.cli.pin import pin_config

    if not pin_config(args.config):
        print(f"{args.config}: every location is pinned already")


def _add_config(add_parser: _AddParser) -> None:
    parser = add_parser("config", help="print the default configuration, or check one")
    parser.add_argument("--write", action="store_true", help=f"write it to {_DEFAULT}")
    parser.add_argument("--check", type=Path, metavar="FILE", help="check a config file")
    parser.set_defaults(run=_config)


def _config(args: argparse.Namespace) -> None:
    from scion.common.files import atomic_file
    from scion.config import default_yaml, read_config

    if args.check is not None:
        print(f"{args.check}: sound, release {read_config(args.check).release}")
    elif args.write:
        with atomic_file(_DEFAULT) as file:
            file.write(default_yaml().encode())
    else:
        print(default_yaml(), end="")


def _lint(args: argparse.Namespace) -> int:
    from scion.lint.command import lint

    return lint(args)


def _acceptance(args: argparse.Namespace) -> None:
    from scion.cli.acceptance import acceptance

    acceptance(args)


def _estimate(args: argparse.Namespace) -> int:
    from scion.cli.estimate import estimate

    return estimate(args)


def _launch(args: argparse.Namespace) -> int:
    from scion.cli.launch import launch

    return launch(args)


def _compare(args: argparse.Namespace) -> int:
    from scion.cli.compare import compare_releases

    return compare_releases(args)


def _store(args: argparse.Namespace) -> int:
    from scion.cli.store import store_command

    return store_command(args)


if __name__ == "__main__":
    sys.exit(main())
