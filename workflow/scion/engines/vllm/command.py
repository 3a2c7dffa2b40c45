"""The command of a vLLM server: what is run, what a result records and what a card prints are one.

The CPU build has an entry point and flags of its own: its `vllm` script does not run (it asks for
the metadata of a package named vllm), and `python -m vllm.entrypoints.openai.api_server` is
deprecated in 0.32.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.engines.config import Launch, Serving
from scion.engines.flag import Flag
from scion.engines.served_model import ServedModel
from scion.engines.server import LOOPBACK
from scion.engines.vllm.flags import START, flags

# Up to the checkpoint's folder.
_STARTS = {
    "serve-cpu": ("python", "-m", "vllm.entrypoints.launchers.api_server.entry", "--model"),
    "serve-cuda": tuple(START.split()),
}
_NO_PREFIXES = "--no-enable-prefix-caching"
_CPU = (
    Flag(
        (_NO_PREFIXES,),
        "on a CPU: the cache of a hybrid model's prefixes calls a Triton kernel, and Triton has no "
        "CPU backend",
    ),
    Flag(
        ("--enforce-eager",),
        "on a CPU: torch.compile takes more time than it saves at such sizes",
    ),
)
_MEASURED_ON_GPUS = (
    Flag(
        (_NO_PREFIXES,),
        "while measuring: a prompt's second run would be timed without its prefill; leave it out "
        "to serve",
    ),
)
_LOCAL = "what the machine that measured needed besides"
# The port of vLLM's own that a reader's command has.
_READERS_PORT = 8000


@dataclass(frozen=True)
class ServerCommand:
    """A server's command, but for interpreter, folder, served name and port.

    Attributes:
        variables: The environment variables that decide what it computes, and how fast.
        start: The words before the folder; the first is a program of the serving environment.
        flags: The options that say how it serves.
    """

    variables: Mapping[str, str]
    start: tuple[str, ...]
    flags: tuple[Flag, ...]

    def arguments(self, folder: str, *, name: str, port: int) -> tuple[str, ...]:
        """The whole command line; it answers on the loopback address alone.

        Args:
            folder: The checkpoint's folder, or its name on the hub.
            name: The name to serve it under.
            port: The port.
        """
        return (*self.start, folder, *_address(name, port).arguments, *self._options())

    def text(self, folder: str, *, name: str, port: int = _READERS_PORT) -> str:
        """The same as one types it in a shell, one option a line."""
        words = [f"{key}={shlex.quote(value)}" for key, value in self.variables.items()]
        start = shlex.join((*self.start, folder))
        lines = [start, *(flag.text for flag in (_address(name, port), *self.flags))]
        return " \\\n    ".join([*words, *lines])

    def record(self) -> dict[str, Any]:
        """As results keep it; `recorded` reads it back."""
        return {
            "variables": dict(self.variables),
            "start": list(self.start),
            "options": [list(flag.arguments) for flag in self.flags],
        }

    @classmethod
    def recorded(cls, record: Mapping[str, Any], explained: Iterable[Flag]) -> "ServerCommand":
        """The command that a result recorded.

        Args:
            record: As `record` made it.
            explained: The flags that the launch has, for their reasons.
        """
        reasons = {flag.arguments: flag.reason for flag in explained}
        options = [tuple(option) for option in record["options"]]
        return cls(
            record["variables"],
            tuple(record["start"]),
            tuple(Flag(option, reasons.get(option, _LOCAL)) for option in options),
        )

    def _options(self) -> list[str]:
        return [argument for flag in self.flags for argument in flag.arguments]


def server_command(
    launch: Launch, model: ServedModel, serving: Serving, *, measuring: bool
) -> ServerCommand:
    """The command that serves a checkpoint.

    Args:
        launch: Context, batch, cache and speculation.
        model: The checkpoint.
        serving: The environment, and what its machine needs.
        measuring: Whether requests will be timed, which on GPUs takes a flag more.
    """
    cpu = serving.environment == "serve-cpu"
    here = _CPU if cpu else (_MEASURED_ON_GPUS if measuring else ())
    local = (Flag(serving.arguments, _LOCAL),) if serving.arguments else ()
    return ServerCommand(
        variables(serving),
        _STARTS[serving.environment],
        (*flags(launch, model), *here, *local),
    )


def program(python: Path, name: str) -> str:
    """The path of a program in the environment of an interpreter."""
    return str(python if name == "python" else python.parent / name)


def variables(serving: Serving) -> dict[str, str]:
    """The environment variables that say how the processes of an environment compute."""
    if serving.environment != "serve-cpu":
        return {}
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(serving.kv_cache_gigabytes),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(serving.cpu_threads),
        # The engine process runs the model itself: one process less that imports vLLM.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def _address(name: str, port: int) -> Flag:
    return Flag(
        ("--served-model-name", name, "--host", LOOPBACK, "--port", str(port)),
        "the name that requests give; the server answers this machine alone",
    )
