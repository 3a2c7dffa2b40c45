"""vLLM: the command that serves a checkpoint, and what its server tells about itself.

Both environments run the same code base: `serve-cpu` the CPU build, `serve-cuda` the usual one.
Speculation is vLLM's `mtp` method: one MTP layer, run once for each drafted token.
"""

import contextlib
import json
import os
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scion.engines.config import Launch, Serving
from scion.engines.served_model import ServedModel
from scion.engines.server import Command, Server, connect, free_port, running
from scion.engines.vllm.command import ServerCommand, program, server_command
from scion.engines.vllm.log import phase

ALSO_RUNS = ("vllm_plugin/scion_vllm_plugin",)
"""Code of ours that vLLM runs as a plugin: it counts for each stage that serves, by
`scion.artifacts.code_digest`. Off the CPU it does nothing, but which environment serves is a
setting, and code is told before settings."""

# Keeps vLLM from asking the hub, and from telling anybody.
_QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def command(
    model: Path,
    *,
    name: str,
    what: ServerCommand,
    port: int,
    python: Path,
    inherited: Mapping[str, str],
) -> Command:
    """The command and environment that serve a checkpoint on this machine.

    Args:
        model: The checkpoint's folder.
        name: The name to serve it under.
        what: The command.
        port: The loopback port.
        python: The serving environment's interpreter.
        inherited: Environment variables of the caller.
    """
    word, *rest = what.arguments(str(model), name=name, port=port)
    return Command(
        arguments=(program(python, word), *rest),
        environment={**environment(inherited), **what.variables},
        model=name,
        record=what.record(),
        explain=phase,
    )


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables of vLLM's processes: the caller's, less another Python's, and no way outside.

    Numbers of threads are the caller's own, too. Snakemake sets them to the threads of its rule,
    and torch prefers MKL_NUM_THREADS to OMP_NUM_THREADS. A server with a second thread that waits
    for a core which something else needs is several times slower.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        and not name.endswith("_NUM_THREADS")
    }
    return kept | _QUIET


@contextlib.contextmanager
def serve(
    model: Path,
    *,
    name: str,
    launch: Launch,
    serving: Serving,
    python: Path,
    log: Path,
    text_only: bool = False,
    arguments: tuple[str, ...] = (),
) -> Generator[Server]:
    """Serve a checkpoint while the block lasts, or use the server that `serving` names.

    Args:
        model: The checkpoint's folder.
        name: The name to serve it under.
        launch: Context, batch, cache and speculation.
        serving: The environment, its machine's needs, or a server's address.
        python: The serving environment's interpreter.
        log: Written anew with all that the server prints.
        text_only: Whether a vision tower stays out even if the checkpoint has one.
        arguments: Further options, for what one measurement asks of its server.

    Raises:
        ScionError: As `scion.engines.server.running` and `connect` do.
    """
    if serving.server_url is not None:
        yield connect(serving.server_url, model=serving.server_model)
        return
    port = serving.port or free_port()
    served = serving.model_copy(update={"arguments": (*serving.arguments, *arguments)})
    stored = ServedModel.read(model)
    if text_only:
        stored = replace(stored, lost_tower=True)
    what = command(
        model,
        name=name,
        what=server_command(launch, stored, served, measuring=True),
        port=port,
        python=python,
        inherited=os.environ,
    )
    with running(what, port=port, log=log, start_seconds=serving.start_seconds) as server:
        yield server


def context(server: Server) -> int:
    """The longest sequence, prompt and answer, that the server takes (tokens)."""
    offered = json.loads(server.read("/v1/models"))["data"]
    return next(model["max_model_len"] for model in offered if model["id"] == server.model)


def describe(server: Server, serving: Serving) -> dict[str, Any]:
    """The engine as results record it: name, version, environment."""
    return {
        "name": "vLLM",
        "version": json.loads(server.read("/version"))["version"],
        "environment": None if serving.server_url else serving.environment,
    }
