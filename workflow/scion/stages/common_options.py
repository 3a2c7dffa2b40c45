"""What the `main` of every stage shares: common options, settings from JSON, exit codes."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Expectation, Output
from scion.artifacts.store.store import Store
from scion.common.errors import ScionError
from scion.common.progress import report_to

if TYPE_CHECKING:
    # Half a second that most stages need not pay; and their code digest stays free of the config.
    from pydantic import BaseModel

_Settings = TypeVar("_Settings", bound="BaseModel")


def stage_parser(description: str | None, *, inputs: Mapping[str, str]) -> argparse.ArgumentParser:
    """A parser with the options that all stages have.

    Args:
        description: The stage module's docstring.
        inputs: Help text by name of each artifact that the stage reads; `--<name>` takes the
            path of its pointer.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, text in inputs.items():
        parser.add_argument(f"--{name}", required=True, type=Path, metavar="POINTER", help=text)
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="POINTER",
        help="file to write the artifact's manifest to; its files go into the store",
    )
    parser.add_argument(
        "--store",
        required=True,
        nargs="+",
        metavar="LOCATION",
        help="folder that keeps artifacts, then stores elsewhere such as s3://bucket/prefix",
    )
    parser.add_argument(
        "--plan",
        metavar="JSON",
        help="what the workflow's plan expects of code and files; the stage stops if they changed",
    )
    parser.add_argument(
        "--environment",
        required=True,
        metavar="DIGEST",
        help="identity of the locked environment, recorded in the manifest",
    )
    parser.add_argument(
        "--progress",
        type=Path,
        metavar="FILE",
        help="file that says how far the stage is while it runs, for whoever shows it",
    )
    return parser


def add_file(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """Add `--<name>`, which takes the path of a file; `text` is its help."""
    parser.add_argument(f"--{name}", required=True, type=Path, metavar="FILE", help=text)


def add_optional(parser: argparse.ArgumentParser, name: str, kind: str, text: str) -> None:
    """Add `--<name>` for an input that not every release has, `kind` being FILE or POINTER."""
    # A rule without such an input names the option and no value.
    option = "--" + name.replace("_", "-")
    parser.add_argument(option, nargs="?", type=Path, metavar=kind, help=text)


def add_settings(parser: argparse.ArgumentParser, model: "type[BaseModel]") -> None:
    """Add `--settings`, a JSON object of the keys that `model` has."""
    keys = "; ".join(f"{name}: {info.description}" for name, info in model.model_fields.items())
    parser.add_argument("--settings", required=True, metavar="JSON", help=keys.replace("%", "%%"))


def add_locks(parser: argparse.ArgumentParser) -> None:
    """Add `--lock`, for stages that read repositories of the hub."""
    parser.add_argument(
        "--lock",
        nargs="*",
        type=Path,
        default=[],
        metavar="FILE",
        help="locks of `scion pin`, which say what the files of repositories have to be",
    )


def read_settings(text: str, model: type[_Settings]) -> _Settings:
    """Parse the value of `--settings`.

    Raises:
        ScionError: Not JSON, or not of the model's form.
    """
    try:
        return model.model_validate(json.loads(text))
    except ValueError as error:
        raise ScionError(
            "--settings does not fit this stage",
            where="command line",
            expected=f"a JSON object with {', '.join(model.model_fields)}",
            found=error,
            hint="see --help",
        ) from error


def run_stage(args: argparse.Namespace, command: Callable[[Output], Artifact]) -> int:
    """Run a stage's `main`, print where its artifact is, with its content digest, last.

    SIGTERM unwinds like Ctrl-C, so that the stage removes its half-made artifact and ends its
    server. A `ScionError` is printed without a traceback.

    Args:
        args: The command line of a `stage_parser`.
        command: Calls the stage's function with the target.

    Returns:
        An exit code.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    report_to(args.progress)
    copies = getattr(args, "copies", None)
    try:
        plan = None if args.plan is None else Expectation.read(args.plan)
        artifact = command(Output(args.output, Store.open(args.store), copies, plan))
    except ScionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: no half-made artifact is left", file=sys.stderr)
        # After an interrupt within code from a text, such as what makes a data class, `python -m`
        # ends by SIGINT instead, though it was caught; the next text makes it forget that.
        exec("")
        return 130
    finally:
        report_to(None)
    print(f"{artifact.stage}: {artifact.content} in {artifact.folder}", file=sys.stderr)
    return 0


def add_copies(parser: argparse.ArgumentParser) -> None:
    """Add `--copies`, for stages whose pictures and texts `snakemake --report` shows."""
    parser.add_argument(
        "--copies",
        type=Path,
        metavar="FOLDER",
        help="folder for copies of the artifact's pictures and texts",
    )
