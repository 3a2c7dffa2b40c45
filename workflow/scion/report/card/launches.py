"""The card's commands: what was measured, as it ran, and beside it what others type."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scion.common.text import Record, hardware
from scion.engines.config import Launch, Serving
from scion.engines.flag import Flag
from scion.engines.served_model import ServedModel
from scion.engines.sglang.engine import SGLANG
from scion.engines.vllm.command import ServerCommand, server_command
from scion.engines.vllm.cpu_environment import CPU_ENVIRONMENT
from scion.report.card.memory import predicted_memory
from scion.report.card.serving import recommended_drafts
from scion.report.card.typography import without_tags

_CPU_NOTE = (
    f"vLLM has no NVFP4 kernel for CPUs: {CPU_ENVIRONMENT} holds vLLM's CPU build and a "
    "plugin that decodes NVFP4 in software."
)
_FOLDER_NOTE = (
    "In place of the name after `--model` or `serve` the path of a folder with these files does "
    "as well."
)


def launch_values(
    release: Path, launches: Iterable[Launch], serving: Record, *, repository: str
) -> list[dict[str, Any]]:
    """What the template says of each launch.

    Where a measurement recommends a number of drafts, its launch drafts as many: in the command
    that was measured, and if that was on GPUs, in all that is said of GPUs.

    Args:
        release: The checkpoint's folder.
        launches: Those of the configuration.
        serving: The content of `serving.json`.
        repository: The release's name on the hub.
    """
    model = ServedModel.read(release)
    values: list[dict[str, Any]] = []
    for launch in launches:
        chosen = _recommended(launch, serving)
        on_gpus = chosen if serving["engine"]["environment"] == "serve-cuda" else launch
        values.append(
            {
                "title": without_tags(launch.title),
                **_ways(on_gpus, _measured(chosen, model, serving), model, serving, repository),
                "memory": predicted_memory(release, on_gpus, text_only=model.lost_tower),
            }
        )
    return values


def _recommended(launch: Launch, serving: Record) -> Launch:
    """The launch with the number of drafts that its measurement recommends, if it does."""
    drafted = recommended_drafts(serving)
    if drafted is None or launch.name != serving["runs"][0]["launch"]:
        return launch
    return launch.model_copy(update={"speculative_tokens": drafted})


def _ways(
    launch: Launch,
    measured: ServerCommand | None,
    model: ServedModel,
    serving: Record,
    repository: str,
) -> dict[str, Any]:
    """The commands of a launch, that of the measurement first, and the reason of each flag."""
    environment = serving["engine"]["environment"]
    commands: list[tuple[str, str, ServerCommand]] = []
    if measured is not None:
        where = f"{hardware(serving['hardware'])}, vLLM {serving['engine']['version']}"
        note = _CPU_NOTE if environment == "serve-cpu" else ""
        commands.append((f"As it was measured, on {where}", note, measured))
    elif environment == "serve-cpu":
        here = server_command(launch, model, Serving(), measuring=False)
        commands.append(("On a CPU; not measured", _CPU_NOTE, here))
    if measured is None or environment != "serve-cuda":
        gpus = Serving(environment="serve-cuda")
        there = server_command(launch, model, gpus, measuring=False)
        commands.append(("On NVIDIA GPUs; not measured", "", there))
    return {
        "ways": [
            {
                "title": title,
                "note": f"{note} {_FOLDER_NOTE}".strip(),
                "command": command.text(repository, name=repository),
            }
            for title, note, command in commands
        ],
        "flags": _once(flag for _, _, command in commands for flag in command.flags),
        "sglang": _sglang(launch, model, repository),
    }


def _measured(launch: Launch, model: ServedModel, serving: Record) -> ServerCommand | None:
    """The command that ran while the launch was measured with its number of drafts."""
    runs = (
        run
        for run in serving["runs"]
        if run["launch"] == launch.name
        and run["speculative_tokens"] == launch.speculative_tokens
        and run["command"] is not None
    )
    run = next(runs, None)
    if run is None:
        return None
    environment = Serving(environment=serving["engine"]["environment"])
    explained = server_command(launch, model, environment, measuring=True).flags
    return ServerCommand.recorded(run["command"], explained)


def _sglang(launch: Launch, model: ServedModel, repository: str) -> dict[str, str]:
    launcher = SGLANG.launcher
    assert launcher is not None
    options = (flag.text for flag in launcher.flags(launch, model))
    command = " \\\n    ".join([f"{launcher.start} {repository}", *options])
    return {"command": command, "untried": launcher.untried}


def _once(flags: Iterable[Flag]) -> Sequence[Flag]:
    """Each flag of several commands once."""
    return list({flag.arguments: flag for flag in flags}.values())
