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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.checkpoint import read_json
from scion.config import Serving
from scion.engines.server import LOOPBACK, Command, Server, connect, running

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
# Phase by a piece of the log, the last that has come counts.
_PHASES = (
    ("non-default args", "reading the configuration"),
    ("Initializing a V1 LLM engine", "starting the worker"),
    ("Starting to load model", "loading weights"),
    ("KV cache size", "preparing the cache"),
    ("Starting vLLM server", "opening the port"),
)
_CACHE = re.compile(r"KV cache size: ([\d,]+) tokens")
_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_COUNTER = "vllm:spec_decode_num_"


def command(
    model: Path,
    *,
    name: str,
    speculative_tokens: int,
    serving: Serving,
    python: Path,
    inherited: Mapping[str, str],
) -> Command:
    """The command and environment that serve a checkpoint.

    Args:
        model: The checkpoint's folder.
        name: The name to serve it under.
        speculative_tokens: MTP drafts a step; 0 serves without speculation.
        serving: Environment, port, context and batch.
        python: The serving environment's interpreter.
        inherited: Environment variables of the caller.
    """
    module = _MODULES[serving.environment]
    flags = [
        *("--served-model-name", name, "--host", LOOPBACK, "--port", str(serving.port)),
        "--language-model-only",
        *("--max-model-len", str(serving.max_model_len)),
        *("--max-num-seqs", str(serving.max_num_seqs)),
        *("--enable-auto-tool-choice", "--tool-call-parser", "qwen3_xml"),
        *("--reasoning-parser", "qwen3"),
        *_FLAGS[serving.environment],
    ]
    if serving.kv_cache_dtype != "auto":
        flags += ["--kv-cache-dtype", serving.kv_cache_dtype]
    if serving.gpu_memory_utilization is not None:
        flags += ["--gpu-memory-utilization", str(serving.gpu_memory_utilization)]
    if "quantization_config" in read_json(model / "config.json"):
        flags += ["--quantization", "modelopt"]
    if speculative_tokens:
        speculation = {"method": "mtp", "num_speculative_tokens": speculative_tokens}
        flags += ["--speculative-config", json.dumps(speculation)]
    return Command(
        arguments=(str(python), "-m", *module, str(model), *flags),
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
            # The engine process runs the model itself: one process less that imports vLLM.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return kept | own


def phase(log: str) -> str:
    """What a starting server does, as its log shows."""
    return next((text for mark, text in reversed(_PHASES) if mark in log), "importing vLLM")


@contextlib.contextmanager
def serve(
    model: Path,
    *,
    name: str,
    speculative_tokens: int,
    serving: Serving,
    python: Path,
    log: Path,
) -> Generator[Server]:
    """Serve a checkpoint while the block lasts, or use the server that `serving` names.

    Raises:
        ScionError: As `scion.engines.server.running` and `connect` do.
    """
    if serving.server_url is not None:
        yield connect(serving.server_url)
        return
    what = command(
        model,
        name=name,
        speculative_tokens=speculative_tokens,
        serving=serving,
        python=python,
        inherited=os.environ,
    )
    limit = serving.start_seconds
    with running(what, port=serving.port, log=log, start_seconds=limit) as server:
        yield server


@dataclass(frozen=True)
class SpecDecodeCounters:
    """vLLM's counters of speculative decoding, since the server's start or a difference of two.

    Attributes:
        drafts: Steps that drafted.
        draft_tokens: Tokens drafted.
        accepted: Drafted tokens that the model accepted.
        accepted_per_position: Of those, by place in the draft.
    """

    drafts: int
    draft_tokens: int
    accepted: int
    accepted_per_position: tuple[int, ...]

    def __sub__(self, earlier: "SpecDecodeCounters") -> "SpecDecodeCounters":
        before = earlier.accepted_per_position or (0,) * len(self.accepted_per_position)
        pairs = zip(self.accepted_per_position, before, strict=True)
        return SpecDecodeCounters(
            self.drafts - earlier.drafts,
            self.draft_tokens - earlier.draft_tokens,
            self.accepted - earlier.accepted,
            tuple(now - then for now, then in pairs),
        )

    @property
    def per_position(self) -> tuple[float, ...]:
        """Share of the drafts whose token at each place was accepted."""
        return tuple(count / self.drafts for count in self.accepted_per_position)

    @property
    def mean_length(self) -> float:
        """Mean tokens a step: the accepted ones, and the one that the model adds itself."""
        return 1 + self.accepted / self.drafts

    def summary(self) -> dict[str, Any] | None:
        """Counts and rates as results record them; None where nothing was drafted."""
        if self.drafts == 0:
            return None
        return {
            "drafts": self.drafts,
            "draft_tokens": self.draft_tokens,
            "accepted": self.accepted,
            "per_position": [round(rate, 4) for rate in self.per_position],
            "mean_length": round(self.mean_length, 4),
        }


def read_counters(metrics: str) -> SpecDecodeCounters:
    """Read the counters from Prometheus text; all zero for a server that does not speculate.

    Samples of several engines are added up.
    """
    totals: dict[tuple[str, int], int] = {}
    for line in metrics.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None or not sample["name"].startswith(_COUNTER):
            continue
        labels = dict(_LABEL.findall(sample["labels"] or ""))
        key = sample["name"].removeprefix(_COUNTER), int(labels.get("position", 0))
        totals[key] = totals.get(key, 0) + int(float(sample["value"]))
    places = sorted(place for name, place in totals if name == "accepted_tokens_per_pos_total")
    return SpecDecodeCounters(
        drafts=totals.get(("drafts_total", 0), 0),
        draft_tokens=totals.get(("draft_tokens_total", 0), 0),
        accepted=totals.get(("accepted_tokens_total", 0), 0),
        accepted_per_position=tuple(
            totals["accepted_tokens_per_pos_total", place] for place in places
        ),
    )


def cache_tokens(log: Path | None) -> int | None:
    """Tokens that the KV cache holds, if the server's log says so."""
    found = _CACHE.search(log.read_text(errors="replace")) if log else None
    return int(found[1].replace(",", "")) if found else None


def describe(server: Server, serving: Serving) -> dict[str, Any]:
    """The engine as results record it: name, version, environment, context, batch."""
    return {
        "name": "vLLM",
        "version": json.loads(server.read("/version"))["version"],
        "environment": None if serving.server_url else serving.environment,
        "max_model_len": serving.max_model_len,
        "max_num_seqs": serving.max_num_seqs,
        "kv_cache_tokens": cache_tokens(server.log),
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
