"""What the stages that run a harness share."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scion.common.files import atomic_file
from scion.engines.config import Launch
from scion.engines.server import Server

# Longest wait for one answer: a long decode on two slow cores, not a hang.
REQUEST_SECONDS = 3600
# Requests at a time where the launch leaves that to the engine.
_PARALLEL = 16


def parallel_requests(launch: Launch) -> int:
    """How many requests are sent at the same time."""
    return launch.max_num_seqs or _PARALLEL


def served_context(server: Server) -> int:
    """The server's context in tokens, as it says itself.

    Raises:
        ScionError: It does not say.
    """
    models = json.loads(server.read("/v1/models"))["data"]
    (length,) = (model.get("max_model_len") for model in models if model["id"] == server.model)
    if not isinstance(length, int):
        raise server.failure(
            "the server does not say how long its context is",
            where=f"{server.url}/v1/models",
            expected="max_model_len, as vLLM says it",
            found=length,
        )
    return length


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write JSON values atomically, one a line."""
    with atomic_file(path) as file:
        file.writelines(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values)
