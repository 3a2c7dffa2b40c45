"""vLLM's CPU platform, but its engine process is forked where that is safe.

vLLM spawns the engine process anew on a CPU, so that an OpenMP runtime can be preloaded into it.
That process then imports vLLM and torch a second time, which takes longer than all the rest of a
small model's start. A single OpenMP thread needs no such runtime; the engine is forked then, as
vLLM does by default on a GPU. With more threads nothing changes: forked, they would run many times
slower.
"""

import os
from typing import TYPE_CHECKING

from vllm.platforms.cpu import CpuPlatform

if TYPE_CHECKING:  # vLLM's configuration asks for the platform while it is imported
    from vllm.config import VllmConfig


class ForkingCpuPlatform(CpuPlatform):
    """`CpuPlatform` that forks its engine process if `OMP_NUM_THREADS` is 1."""

    @classmethod
    def check_and_update_config(cls, vllm_config: "VllmConfig") -> None:
        """Adapt the configuration as the parent class does, then choose how processes start."""
        super().check_and_update_config(vllm_config)
        if os.environ.get("OMP_NUM_THREADS") == "1":
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
