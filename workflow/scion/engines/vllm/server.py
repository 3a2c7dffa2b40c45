"""vLLM: the command that serves a checkpoint, and what its server tells about itself.

Both environments run the same code base: `serve-cpu` the CPU build, `serve-cuda` the usual one.
Speculation is vLLM's `mtp` method: one MTP layer, run once for each drafted token.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scion.common.digest import digest_json
from scion.common.errors import ScionError
from scion.engines.config import Launch, Serving
from scion.engines.processes import ForkServer, fork_server_socket, share, shared_socket
from scion.engines.served_model import ServedModel
from scion.engines.server import Command, Server, connect, free_port, running
from scion.engines.vllm.command import ServerCommand, program, server_command, variables
from scion.engines.vllm.gpu_slots import VARIABLE, own_gpus, visible
from scion.engines.vllm.log import phase

ALSO_RUNS = ("vllm_plugin/scion_vllm_plugin",)
"""Code of ours that vLLM runs as a plugin: it counts for each stage that serves, by
`scion.artifacts.code_digest`. Off the CPU it does nothing, but which environment serves is a
setting, and code is told before settings."""

# What a server, its engine process and vLLM's benchmark import before they do anything.
_IMPORTS = (
    "vllm.benchmarks.serve",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.reasoning.qwen3_engine_reasoning_parser",
    "vllm.v1.engine.async_llm",
    "vllm.v1.worker.cpu_worker",
)
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

    What torch compiles on the way is kept for the next server: in the TMPDIR of each, it would be
    compiled by each. Torch itself sets the variable where it is imported, so it says nothing.
    """
    compiled = {"TORCHINDUCTOR_CACHE_DIR": str(_user_cache() / "scion" / "torchinductor")}
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        and not name.endswith("_NUM_THREADS")
        # What signs a release is nothing of a server's.
        and not name.startswith("SCION_SIGNING_")
    }
    return kept | _QUIET | compiled


def _user_cache() -> Path:
    """The folder of this user's caches; that of temporary files where there can be none."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = folder.is_absolute() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    return folder if usable else Path(tempfile.gettempdir())


def forks(python: Path, serving: Serving, log: Path) -> Path:
    """The socket of a fork server that has imported vLLM where that can be.

    Args:
        python: The serving environment's interpreter.
        serving: The environment's settings.
        log: Where it writes what the imports say, if it is to be started.
    """
    return fork_server_socket(*_imports(python, serving), log=log)


def share_forks(python: Path, serving: Serving, log: Path) -> None:
    """Start a fork server for all stages that this process starts, unless it is given one.

    Args:
        python: As `forks` takes it.
        serving: As `forks` takes it.
        log: As `forks` takes it.
    """
    if shared_socket() is None:
        share(ForkServer(*_imports(python, serving), log=log))


def _imports(python: Path, serving: Serving) -> tuple[Path, tuple[str, ...], Mapping[str, str]]:
    """Interpreter, modules and environment variables of a fork server.

    Only the CPU build with one thread: neither CUDA nor OpenMP's threads outlive a fork.

    Raises:
        ScionError: The environment is not installed.
    """
    if not python.exists():
        raise ScionError(
            "the serving environment is not installed",
            where=python,
            expected=f"the interpreter of envs/{serving.environment}",
            found="no such file",
            hint=f"make SERVING={serving.environment} setup",
        )
    imports = serving.environment == "serve-cpu" and serving.cpu_threads == 1
    inherited = environment(os.environ) | variables(serving)
    return python.absolute(), _IMPORTS if imports else (), inherited


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
    shared: bool = False,
    timed: bool = False,
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
        shared: Whether the next who asks for the same may have this server, and this may be one of
            an earlier such. The folder must be one that never changes.
        timed: Whether it is to be a fresh one, with no idle server beside it.

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
    with _own_variables(launch, serving) as own:
        what = command(
            model,
            name=name,
            what=server_command(launch, stored, served, measuring=True),
            port=port,
            python=python,
            inherited={**os.environ, **own},
        )
        # Nothing else could listen on a port that was named while a kept one does.
        kept = shared and serving.port is None
        key = _key(model, name, what, python, own) if kept else None
        # A GPU's memory is one server's own.
        alone = timed or serving.environment != "serve-cpu"
        with running(
            replace(what, key=key, fresh=timed, alone=alone),
            forks=forks(python, serving, log.with_suffix(".imports.log")),
            port=port,
            log=log,
            start_seconds=serving.start_seconds,
        ) as server:
            yield server


@contextlib.contextmanager
def _own_variables(launch: Launch, serving: Serving) -> Generator[dict[str, str]]:
    """What a server's environment says of the GPUs that are its own while the block lasts."""
    gpus = visible(os.environ) if serving.environment == "serve-cuda" else []
    if not gpus:
        yield {}
        return
    with own_gpus(launch.tensor_parallel, gpus) as chosen:
        yield {VARIABLE: ",".join(chosen)}


def _key(model: Path, name: str, what: Command, python: Path, own: Mapping[str, str]) -> str:
    """What servers that are alike have in common."""
    return digest_json(
        [str(python.absolute()), str(model.absolute()), name, what.record, dict(own)]
    )


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
