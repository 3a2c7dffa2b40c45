"""vLLM: the command that serves a checkpoint, and what its server tells about itself.

Both environments run the same code base: `serve-cpu` the CPU build, `serve-cuda` the usual one.
Speculation is vLLM's `mtp` method: one MTP layer, run once for each drafted token.
"""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from scion.architectures.families import family_of
from scion.checkpoint.shards import read_json
from scion.engines.config import Launch, Serving
from scion.engines.server import LOOPBACK, Command, Server, connect, free_port, running
from scion.engines.vllm.flags import flags
from scion.engines.vllm.log import phase

ALSO_RUNS = ("vllm_plugin/scion_vllm_plugin",)
"""Code of ours that vLLM runs as a plugin: it counts for each stage that serves, by
`scion.artifacts.code_digest`. Off the CPU it does nothing, but which environment serves is a
setting, and code is told before settings."""

# `python -m vllm.entrypoints.openai.api_server` is deprecated in 0.32, and the `vllm` script does
# not run in the CPU build (it asks for the metadata of a package named vllm).
_MODULES = {
    "serve-cpu": ("vllm.entrypoints.launchers.api_server.entry", "--model"),
    "serve-cuda": ("vllm.entrypoints.cli.main", "serve"),
}
_FLAGS: dict[str, tuple[str, ...]] = {
    # The aligned Mamba cache that prefix caching needs on a hybrid model calls a Triton kernel,
    # and Triton has no CPU backend; torch.compile costs more time than it saves at such sizes.
    "serve-cpu": ("--no-enable-prefix-caching", "--enforce-eager"),
    # Otherwise a second, identical prompt would be measured without its prefill.
    "serve-cuda": ("--no-enable-prefix-caching",),
}


def command(
    model: Path,
    *,
    name: str,
    launch: Launch,
    serving: Serving,
    port: int,
    python: Path,
    inherited: Mapping[str, str],
) -> Command:
    """The command and environment that serve a checkpoint.

    Args:
        model: The checkpoint's folder.
        name: The name to serve it under.
        launch: Context, batch, cache and speculation.
        serving: The environment, and what its machine needs.
        port: The loopback port.
        python: The serving environment's interpreter.
        inherited: Environment variables of the caller.
    """
    module = _MODULES[serving.environment]
    # A vision tower would be of no use here: whatever is measured is text.
    config = read_json(model / "config.json")
    quantized = "quantization_config" in config
    options = flags(launch, family_of(config), quantized=quantized, text_only=True)
    arguments = [
        *("--served-model-name", name, "--host", LOOPBACK, "--port", str(port)),
        *(argument for flag in options for argument in flag.arguments),
        *_FLAGS[serving.environment],
        *serving.arguments,
    ]
    return Command(
        arguments=(str(python), "-m", *module, str(model), *arguments),
        environment=environment(serving, inherited),
        model=name,
        explain=phase,
    )


def environment(serving: Serving, inherited: Mapping[str, str]) -> dict[str, str]:
    """The server's environment variables: the caller's, less another Python's, and vLLM's own."""
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    own = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if serving.environment == "serve-cpu":
        own |= {
            "VLLM_CPU_KVCACHE_SPACE": str(serving.kv_cache_gigabytes),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(serving.cpu_threads),
            # On CPUs with AMX vLLM would prefer a kernel that leaves activations in bf16. What it
            # takes instead rounds them to FP8 as GPUs do.
            "VLLM_DISABLED_KERNELS": "CPUFp8PerTensorScaledMMLinearKernel",
            # The engine process runs the model itself: one process less that imports vLLM.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return kept | own


@contextlib.contextmanager
def serve(
    model: Path,
    *,
    name: str,
    launch: Launch,
    serving: Serving,
    python: Path,
    log: Path,
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
        arguments: Further options, for what one measurement asks of its server.

    Raises:
        ScionError: As `scion.engines.server.running` and `connect` do.
    """
    if serving.server_url is not None:
        yield connect(serving.server_url)
        return
    port = serving.port or free_port()
    what = command(
        model,
        name=name,
        launch=launch,
        serving=serving.model_copy(update={"arguments": (*serving.arguments, *arguments)}),
        port=port,
        python=python,
        inherited=os.environ,
    )
    with running(what, port=port, log=log, start_seconds=serving.start_seconds) as server:
        yield server


def context(server: Server) -> int:
    """The longest sequence, prompt and answer, that the server takes (tokens)."""
    return json.loads(server.read("/v1/models"))["data"][0]["max_model_len"]


def describe(server: Server, serving: Serving) -> dict[str, Any]:
    """The engine as results record it: name, version, environment."""
    return {
        "name": "vLLM",
        "version": json.loads(server.read("/version"))["version"],
        "environment": None if serving.server_url else serving.environment,
    }


def hardware(serving: Serving) -> dict[str, Any]:
    """The processor that serves, as its driver or kernel names it; empty for a named server."""
    if serving.server_url is not None:
        return {"kind": "unknown", "name": None, "count": None}
    if serving.environment == "serve-cuda":
        query = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
        output = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        names = output.split("\n")[:-1]
        return {"kind": "gpu", "name": names[0], "count": len(names)}
    models = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = models[1].strip() if models else "unknown"
    return {"kind": "cpu", "name": name, "count": len(os.sched_getaffinity(0))}
