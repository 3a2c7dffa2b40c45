"""What the stages that start a server share: their options and settings, the server, its record."""

import argparse
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.common.errors import ScionError
from scion.common.section import Section
from scion.engines.config import Launch, Serving
from scion.engines.server import Server
from scion.engines.vllm import server as vllm
from scion.engines.vllm.hardware import hardware
from scion.evaluation.serving.named_server import check_named_server
from scion.stages.common_options import (
    add_file,
    add_locks,
    add_optional,
    add_settings,
    read_settings,
    run_stage,
    stage_parser,
)

# Keys of `serving` that leave a result as it is (the launch itself is recorded); manifests do
# without them.
_UNMEASURED = {"launch", "port", "start_seconds"}
_RELEASE = {"release": "pointer of a complete checkpoint"}


class ServedSettings(Section):
    """The sections that each stage with one server reads; `launch` is that of `serving.launch`."""

    serving: Serving
    launch: Launch


@dataclass(frozen=True)
class ServedStage:
    """A stage as its servers see it.

    Attributes:
        name: Name of the stage, which the logs begin with.
        serving: The server.
        python: Interpreter of the serving environment.
        log_folder: Where the logs go.
    """

    name: str
    serving: Serving
    python: Path
    log_folder: Path

    def log(self, *parts: str) -> Path:
        """The log of one part of the stage: `<stage>.<parts, with dots between>.log`."""
        return self.log_folder / ".".join((self.name, *parts, "log"))

    @contextmanager
    def server(
        self,
        release: Artifact,
        launch: Launch,
        *part: str,
        timed: bool = False,
        shared: bool = True,
    ) -> Generator[Server]:
        """Serve the release while the block lasts.

        Args:
            release: The checkpoint.
            launch: How it is served.
            part: Names the logs of one of several servers.
            timed: Whether it must be a fresh one, with no idle server beside it.
            shared: Whether it may be one that an earlier stage had, and the next one's afterwards.

        Raises:
            ScionError: The server can't be started, or one that was named serves something else.
        """
        with vllm.serve(
            release.folder,
            name="release",
            launch=launch,
            serving=self.serving,
            python=self.python,
            log=self.log(*part, "server"),
            shared=shared,
            timed=timed,
        ) as server:
            if self.serving.server_url is not None:
                check_named_server(server, release.folder)
            yield server

    def describe(self, server: Server, launch: Launch) -> dict[str, Any]:
        """`engine` and `hardware`, as the record of each such stage holds them."""
        return server_record(server, self.serving, launch, self.python)


def server_record(server: Server, serving: Serving, launch: Launch, python: Path) -> dict[str, Any]:
    """What answered: `engine` and `hardware` of a record."""
    used = hardware(serving, launch, python=python, log=server.log)
    return {"engine": vllm.describe(server, serving), "hardware": used}


def recorded(serving: Serving) -> dict[str, Any]:
    """What of the section `serving` a manifest holds: all that can change what is measured."""
    return serving.model_dump(mode="json", exclude=_UNMEASURED)


def require_own_servers(serving: Serving) -> None:
    """Refuse a named server where several models are served in turn.

    Raises:
        ScionError: `serving.server_url` names one.
    """
    if serving.server_url is not None:
        raise ScionError(
            "the evaluation needs several models, and serving.server_url names one server",
            where="serving.server_url",
            expected="null",
            found=serving.server_url,
            hint="set serving.server_url to null, so that the servers are started in turn",
        )


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add `--python` and `--log-folder`."""
    add_file(parser, "python", "interpreter of the serving environment")
    parser.add_argument(
        "--log-folder",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="folder for the servers' logs",
    )


def run_served_stage(
    stage: Callable[..., Artifact],
    description: str | None,
    *,
    settings: type[Section],
    manifests: Mapping[str, str] = _RELEASE,
    optional_manifests: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    optional_files: Mapping[str, str] | None = None,
    locks: bool = False,
) -> int:
    """The `main` of a stage that starts servers: parse the command line, and run the stage.

    The stage's function gets each option, and each section of the settings, by its name.

    Args:
        stage: The function.
        description: The stage module's docstring.
        settings: The sections that the stage reads.
        manifests: Help text by name of the artifacts that the stage reads.
        optional_manifests: The same of those that may be left out.
        files: The same of plain files, interpreters of further environments among them.
        optional_files: The same of those that may be left out.
        locks: Whether the stage reads a repository of the hub, which `--lock` may hold.

    Returns:
        The exit code.
    """
    parser = stage_parser(description, inputs=manifests)
    for name, text in (optional_manifests or {}).items():
        add_optional(parser, name, "POINTER", text)
    for name, text in (files or {}).items():
        add_file(parser, name, text)
    for name, text in (optional_files or {}).items():
        add_optional(parser, name, "FILE", text)
    if locks:
        add_locks(parser)
    add_server_options(parser)
    add_settings(parser, settings)
    args = parser.parse_args()
    arguments = vars(args).copy()

    def command(output: Output) -> Artifact:
        sections = read_settings(arguments.pop("settings"), settings)
        for name in {*manifests, *(optional_manifests or {})}:
            path = arguments[name]
            arguments[name] = None if path is None else output.store.open_pointer(path)
        arguments["output"] = output
        # What the output was made of.
        for name in ("store", "plan", "progress"):
            del arguments[name]
        return stage(
            **arguments, **{name: getattr(sections, name) for name in settings.model_fields}
        )

    return run_stage(args, command)
