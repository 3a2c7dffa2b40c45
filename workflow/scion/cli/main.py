"""The command `scion`: what people do around the workflow, by hand.

Each subcommand imports what it needs when it is called: reading a config file takes pydantic and
the hub's client, a second of imports that `scion lint`, run on every commit, must not pay.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from scion.cli.acceptance import add_acceptance
from scion.cli.audit import add_audit
from scion.cli.check import add_check
from scion.cli.compare import add_compare
from scion.cli.diff import add_diff
from scion.cli.estimate import add_estimate
from scion.cli.explain import add_explain
from scion.cli.heal import add_heal
from scion.cli.launch_options import add_launch
from scion.cli.publish import add_publish
from scion.cli.reproduce import add_reproduce
from scion.cli.respell import add_respell
from scion.cli.sign import add_sign
from scion.cli.simulate import add_simulate
from scion.cli.store import add_store
from scion.cli.streams import lasting_streams
from scion.common.errors import exit_on_error
from scion.common.extras import extras_told
from scion.common.text import printable
from scion.lint.options import add_lint

_AddParser = Callable[..., argparse.ArgumentParser]
_DEFAULT = Path("config/default.yaml")


def main() -> int:
    """Parse arguments and run a subcommand."""
    args = command_parser().parse_args()
    with lasting_streams():
        return exit_on_error(lambda: _run(args))


def _run(args: argparse.Namespace) -> int | None:
    with extras_told():
        return args.run(args)


def command_parser() -> argparse.ArgumentParser:
    """The parser of `scion` with all its subcommands, which docs/reference/cli.md lists too."""
    parser = argparse.ArgumentParser(
        prog="scion",
        description="Lint checkpoints; make, check and describe releases. Releases are made by the "
        "workflow: snakemake --cores all --configfile config/releases/X.yaml",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="say which Scion this is, and of which commit"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_summary(commands.add_parser)
    add_check(commands.add_parser, _check)
    _add_pin(commands.add_parser)
    _add_config(commands.add_parser)
    add_lint(commands.add_parser, _lint)
    add_acceptance(commands.add_parser, _acceptance)
    add_estimate(commands.add_parser, _estimate)
    add_simulate(commands.add_parser, _simulate)
    add_launch(commands.add_parser, _launch)
    add_audit(commands.add_parser, _audit)
    add_compare(commands.add_parser, _compare)
    add_diff(commands.add_parser, _diff)
    add_explain(commands.add_parser, _explain)
    add_sign(commands.add_parser, _sign)
    add_publish(commands.add_parser, _publish)
    add_reproduce(commands.add_parser, _reproduce)
    add_respell(commands.add_parser, _respell)
    add_heal(commands.add_parser, _heal)
    add_store(commands.add_parser, _store)
    return parser


class _Version(argparse.Action):
    """Says which Scion this is; git is asked only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from scion.artifacts.software import this_software

        print(f"{parser.prog} {this_software()}")
        parser.exit()


def _add_summary(add_parser: _AddParser) -> None:
    parser = add_parser("summary", help="say what a finished run made and measured")
    parser.add_argument("config", nargs="?", type=Path, default=_DEFAULT, help="its config file")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    parser.set_defaults(run=_summary)


def _summary(args: argparse.Namespace) -> None:
    from scion.config import read_configs
    from scion.report.summary import family_summary, summary

    configs = read_configs(args.config)
    folders = [args.results / config.release for config in configs]
    if configs[0].family is None:
        lines = summary(*folders, config=args.config)
    else:
        lines = family_summary(folders, config=args.config)
    print("\n".join(map(printable, lines)))


def _check(args: argparse.Namespace) -> None:
    from scion.cli.check import check

    check(args)


def _sign(args: argparse.Namespace) -> None:
    from scion.cli.sign import sign

    sign(args)


def _publish(args: argparse.Namespace) -> None:
    from scion.cli.publish import publish

    publish(args)


def _reproduce(args: argparse.Namespace) -> int:
    from scion.cli.reproduce import reproduce

    return reproduce(args)


def _audit(args: argparse.Namespace) -> int:
    from scion.cli.audit import audit_release

    return audit_release(args)


def _add_pin(add_parser: _AddParser) -> None:
    parser = add_parser(
        "pin",
        help="write the commit that each hf:// location has now into a config file, and a lock",
        description="Write the commit that each hf:// location has now into a config file, and "
        "size and SHA-256 of every file of these repositories into a lock beside it, "
        "X.lock.json. Commit both: the workflow takes nothing else for them.",
    )
    parser.add_argument("config", type=Path, help="YAML file; comments and layout stay")
    parser.set_defaults(run=_pin)


def _pin(args: argparse.Namespace) -> None:
    from scion.cli.pin import pin_all

    if not pin_all(args.config):
        print(f"{printable(args.config)}: every location is pinned already")


def _add_config(add_parser: _AddParser) -> None:
    parser = add_parser("config", help="print the default configuration, or check one")
    parser.add_argument("--write", action="store_true", help=f"write it to {_DEFAULT}")
    parser.add_argument("--check", type=Path, metavar="FILE", help="check a config file")
    parser.set_defaults(run=_config)


def _config(args: argparse.Namespace) -> None:
    from scion.common.files import atomic_file
    from scion.config import check_sources, default_yaml, lacking_environment, read_configs

    if args.check is not None:
        configs = read_configs(args.check)
        told = [
            line for each in configs for line in check_sources(each, where=args.check, hub=True)
        ]
        # It may be meant for another machine.
        told += [
            f"warning: serving.environment: {lacking}"
            for each in configs
            if (lacking := lacking_environment(each))
        ]
        for line in dict.fromkeys(told):
            print(line, file=sys.stderr)
        releases = "release" if len(configs) == 1 else f"{len(configs)} releases"
        names = ", ".join(each.release for each in configs)
        print(f"{printable(args.check)}: sound, {releases} {names}")
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


def _simulate(args: argparse.Namespace) -> None:
    from scion.cli.simulate import simulate_run

    simulate_run(args)


def _launch(args: argparse.Namespace) -> int:
    from scion.cli.launch import launch

    return launch(args)


def _compare(args: argparse.Namespace) -> int:
    from scion.cli.compare import compare_releases

    return compare_releases(args)


def _diff(args: argparse.Namespace) -> int:
    from scion.cli.diff import diff

    return diff(args)


def _explain(args: argparse.Namespace) -> None:
    from scion.cli.explain import explain_subject

    explain_subject(args)


def _respell(args: argparse.Namespace) -> None:
    from scion.cli.respell import respell

    respell(args)


def _heal(args: argparse.Namespace) -> None:
    from scion.cli.heal import heal_release

    heal_release(args)


def _store(args: argparse.Namespace) -> int:
    from scion.cli.store import store_command

    return store_command(args)


if __name__ == "__main__":
    sys.exit(main())
