"""What vLLM's log tells of a start: its phase, the cache it made, the memory it took.

The lines are those of vLLM 0.25 to 0.32. Memory is told by GPU workers alone; a CPU server says
what its cache takes.
"""

import math
import re
from pathlib import Path
from typing import Any

# Phase by a piece of the log, the last that has come counts.
_PHASES = (
    ("non-default args", "reading the configuration"),
    ("Initializing a V1 LLM engine", "starting the worker"),
    ("Starting to load model", "loading weights"),
    ("KV cache size", "preparing the cache"),
    ("Starting vLLM server", "opening the port"),
)
_RANKS = re.compile(
    r"tensor_parallel_size=(\d+), pipeline_parallel_size=(\d+), data_parallel_size=(\d+)"
)
_CACHE = re.compile(r"KV cache size: ([\d,]+) tokens")
_CONCURRENCY = re.compile(r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x")
_WEIGHTS = re.compile(r"Model loading took ([\d.]+) GiB")
_KV_CACHE = re.compile(r"Available KV cache memory: ([\d.]+) GiB")
_CPU_KV_CACHE = re.compile(r"set \(([\d.]+)/[\d.]+\) GiB for KV cache")
_GRAPHS = re.compile(r"Graph capturing finished in \d+ secs, took (-?[\d.]+) GiB")


def phase(log: str) -> str:
    """What a starting server does, as its log shows."""
    return next((text for mark, text in reversed(_PHASES) if mark in log), "importing vLLM")


def gpus(log: Path | None) -> int | None:
    """How many GPUs a server uses, one for each rank; None where its log does not say."""
    ranks = _RANKS.search(log.read_text(errors="replace")) if log else None
    return math.prod(map(int, ranks.groups())) if ranks else None


def capacity(log: Path | None) -> dict[str, Any]:
    """What a server that is ready holds; null where its log, or the lack of one, does not say.

    Returns:
        `kv_cache_tokens`; `concurrency`, the requests of full context that the cache holds at
        once; and `memory` of one GPU, or of the CPU worker: `weights_gib`, `kv_cache_gib` and
        `graphs_gib` (CUDA graphs).
    """
    text = log.read_text(errors="replace") if log else ""
    tokens = _CACHE.search(text)
    return {
        "kv_cache_tokens": int(tokens[1].replace(",", "")) if tokens else None,
        "concurrency": _number(_CONCURRENCY, text),
        "memory": {
            "weights_gib": _number(_WEIGHTS, text),
            "kv_cache_gib": _number(_KV_CACHE, text) or _number(_CPU_KV_CACHE, text),
            "graphs_gib": _number(_GRAPHS, text),
        },
    }


def _number(pattern: re.Pattern[str], text: str) -> float | None:
    match = pattern.search(text)
    return float(match[1]) if match else None
