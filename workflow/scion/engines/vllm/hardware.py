"""The processors that a server really uses, as CUDA or the kernel names them."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.engines.config import Launch, Serving
from scion.engines.vllm.log import gpus
from scion.engines.vllm.server import environment

# CUDA itself says what CUDA_VISIBLE_DEVICES leaves, by index, UUID or MIG instance, and in which
# order; nvidia-smi lists all that the machine has, in an order of its own.
_VISIBLE = """
import json, torch
devices = range(torch.cuda.device_count())
print(json.dumps([torch.cuda.get_device_name(device) for device in devices]))
"""


def hardware(
    serving: Serving, launch: Launch, *, python: Path, log: Path | None = None
) -> dict[str, Any]:
    """What serves a launch; unknown for a named server.

    Args:
        serving: The server.
        launch: How it is started.
        python: The serving environment's interpreter.
        log: What the server printed: how many GPUs it uses. Without it, the launch says.

    Returns:
        `kind`, `name` and `count`.

    Raises:
        ScionError: CUDA sees no GPU, or fewer than the server uses.
    """
    if serving.server_url is not None:
        return {"kind": "unknown", "name": None, "count": None}
    if serving.environment == "serve-cuda":
        used = used_gpus(visible_gpus(python), gpus(log) or launch.tensor_parallel)
        # One name for each kind, in the order of the ranks.
        names = ", ".join(dict.fromkeys(used))
        return {"kind": "gpu", "name": names, "count": len(used)}
    models = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = models[1].strip() if models else "unknown"
    return {"kind": "cpu", "name": name, "count": len(os.sched_getaffinity(0))}


def visible_gpus(python: Path) -> list[str]:
    """The names of the GPUs that a server of this process would see, in CUDA's order.

    Args:
        python: An interpreter with torch.

    Raises:
        ScionError: It can't be asked.
    """
    done = subprocess.run(
        (str(python), "-c", _VISIBLE), env=environment(os.environ), capture_output=True, text=True
    )
    if done.returncode:
        raise ScionError(
            "CUDA can't be asked for its GPUs",
            where=python,
            expected="torch.cuda.get_device_name of each GPU",
            found=done.stderr.strip().rpartition("\n")[2],
            hint="install the serving environment anew: make SERVING=serve-cuda setup",
        )
    return json.loads(done.stdout.splitlines()[-1])


def used_gpus(visible: Sequence[str], count: int) -> Sequence[str]:
    """Those of the visible GPUs that a server takes: as many as it has ranks, the first ones.

    Raises:
        ScionError: There are fewer.
    """
    if len(visible) < count:
        raise ScionError(
            "the server uses more GPUs than CUDA shows",
            where=f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '(not set)')}",
            expected=f"{count}",
            found=f"{len(visible)}: {', '.join(visible) or 'none'}",
            hint="name the GPUs in CUDA_VISIBLE_DEVICES, or lower tensor_parallel of the launch",
        )
    return visible[:count]
