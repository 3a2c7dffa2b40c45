"""Whether a launch fits a GPU, told before anything is started.

vLLM takes a share of the GPU (`--gpu-memory-utilization`), subtracts weights and the peak of a
measuring run, from 0.21 on the CUDA graphs as well, and makes its cache of what is left. What it
allocates later must find room outside that share. `predict` does the same sum from the headers of
the shards and config.json: no tensor is read, nothing is imported from vLLM.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scion.checkpoint.safetensors_file import Tensor
from scion.engines.config import Launch
from scion.engines.gpus import GIB, memory_text
from scion.engines.releases import EngineRelease, affects
from scion.engines.vllm.cache_layout import (
    Capacity,
    Layout,
    ModelSizes,
    caches_prefixes,
    capacity,
    layout,
)
from scion.engines.vllm.memory_estimates import (
    LATE_BYTES,
    NCCL_BYTES,
    NON_TORCH_BYTES,
    LoadedWeights,
    activations,
    batch,
    graphs,
    weights,
)
from scion.engines.vllm.memory_observations import OBSERVATIONS

# What the estimates were off by where they could be compared, and some more.
_UNCERTAIN_BYTES = round(1.5 * GIB)

LaunchVerdict = Literal["fits", "fits with warnings", "does not fit"]


@dataclass(frozen=True)
class MemoryFinding:
    """Something that speaks against a launch.

    Attributes:
        severity: `problem` if the server would not start or not stay up.
        text: What, with numbers.
        next_step: What to do about it.
        source: Where it was seen; empty for what was computed.
    """

    severity: Literal["problem", "warning"]
    text: str
    next_step: str
    source: str = ""


_VISION = (
    MemoryFinding(
        "warning",
        "the checkpoint's vision tower is loaded, and what it needs beside its weights is not "
        "estimated",
        "--language-model-only, if only text is served",
    ),
)


@dataclass(frozen=True)
class Prediction:
    """What a launch would do with a GPU's memory; all sizes in bytes.

    Attributes:
        engine: The release of vLLM.
        gpus: GPUs that share the layers; sizes are those of each.
        total: The GPU's memory.
        budget: The share that vLLM takes.
        weights: What is loaded.
        activations: Peak of the measuring run, the CUDA context included; an estimate.
        graphs: CUDA graphs; an estimate.
        graphs_in_budget: Whether this release subtracts them before it makes the cache.
        cache: What is left for the cache, at least 0.
        layout: The cache's blocks.
        capacity: What the server would print.
        requests: Requests decoded at once.
        findings: What speaks against the launch, problems first.
    """

    engine: EngineRelease
    gpus: int
    total: int
    budget: int
    weights: LoadedWeights
    activations: int
    graphs: int
    graphs_in_budget: bool
    cache: int
    layout: Layout
    capacity: Capacity
    requests: int
    findings: tuple[MemoryFinding, ...]

    @property
    def verdict(self) -> LaunchVerdict:
        """What the findings come to."""
        if not self.findings:
            return "fits"
        worst = self.findings[0].severity
        return "does not fit" if worst == "problem" else "fits with warnings"

    def record(self) -> dict[str, Any]:
        """As JSON; the keys that a measured run has too are called as there."""
        return {
            "engine": str(self.engine),
            "verdict": self.verdict,
            "gpus": self.gpus,
            "gpu_gib": _gib(self.total),
            "budget_gib": _gib(self.budget),
            "kv_cache_tokens": self.capacity.tokens,
            "concurrency": round(self.capacity.concurrency, 2),
            "memory": {
                "weights_gib": _gib(self.weights.loaded),
                "kv_cache_gib": _gib(self.cache),
                "graphs_gib": _gib(self.graphs),
                "activations_gib": _gib(self.activations),
            },
            "findings": [vars(finding) for finding in self.findings],
        }


def predict(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    launch: Launch,
    *,
    total: int,
    engine: EngineRelease,
    where: object,
    text_only: bool = True,
    note: str = "",
    prefix_caching: bool | None = None,
) -> Prediction:
    """Predict the memory of a launch.

    Args:
        tensors: The checkpoint's tensors by name, from the shards' headers.
        config: Parsed config.json.
        launch: The launch; what it leaves open is chosen as vLLM 0.32 does.
        total: The GPU's memory as CUDA reports it, in bytes.
        engine: The release of vLLM.
        where: The file to name in errors.
        text_only: Whether the server leaves the vision tower out.
        note: What the GPU's owner must know, told as a warning.
        prefix_caching: Whether the server keeps prefixes; None for what the release does itself.

    Raises:
        ScionError: Another architecture than dense Qwen3.5/3.6, or an unusable config.json.
    """
    gpus = launch.tensor_parallel
    whole = ModelSizes.of(config, where=where)
    sizes = whole.share(gpus)
    kept = caches_prefixes(engine) if prefix_caching is None else prefix_caching
    blocks = layout(sizes, launch, prefix_caching=kept)
    loaded = weights(tensors, drafts=launch.speculative_tokens > 0, text_only=text_only, gpus=gpus)
    requests, tokens = batch(launch, total)
    budget = round(total * utilization(launch, engine))
    peak = NON_TORCH_BYTES + activations(sizes, requests=requests, tokens=tokens)
    peak += NCCL_BYTES if gpus > 1 else 0
    captured = graphs(launch, requests=requests, tokens=tokens)
    counted = not affects("vllm<0.21", engine)
    left = budget - loaded.loaded - peak - (captured if counted else 0)
    held = capacity(blocks, left, context=launch.max_model_len, engine=engine)
    findings = [
        *_refusals(whole, launch),
        *_cache_findings(blocks, held, launch, left=left, requests=requests),
        *(
            [MemoryFinding("warning", note, "lower --gpu-memory-utilization as needed")]
            if note
            else ()
        ),
        *(_VISION if "vision tower" in loaded.parts else ()),
        *_outside_findings(total - budget, LATE_BYTES + (0 if counted else captured)),
        *(
            MemoryFinding("warning", failure.text, failure.next_step, failure.source)
            for failure in OBSERVATIONS
            if failure.holds(launch, requests=requests, hidden=sizes.hidden, total=total)
        ),
    ]
    return Prediction(
        engine=engine,
        gpus=gpus,
        total=total,
        budget=budget,
        weights=loaded,
        activations=peak,
        graphs=captured,
        graphs_in_budget=counted,
        cache=max(0, left),
        layout=blocks,
        capacity=held,
        requests=requests,
        findings=tuple(sorted(findings, key=lambda finding: finding.severity)),
    )


def utilization(launch: Launch, engine: EngineRelease) -> float:
    """The share of the GPU that a launch lets vLLM take; 0.92 by default, 0.9 in older releases."""
    return launch.gpu_memory_utilization or (0.9 if affects("vllm<0.21", engine) else 0.92)


def compare_with_server(
    predicted: Mapping[str, Any], reported: Mapping[str, Any]
) -> dict[str, Any]:
    """A prediction beside what a server said.

    Args:
        predicted: `Prediction.record()`.
        reported: A run of `serving.json`: `kv_cache_tokens`, `concurrency`, `memory`.

    Returns:
        By name `predicted`, `reported` and `ratio` (predicted / reported), of what was reported.
    """
    pairs = {
        name: (predicted[name], reported.get(name)) for name in ("kv_cache_tokens", "concurrency")
    }
    measured = reported.get("memory") or {}
    pairs |= {name: (value, measured.get(name)) for name, value in predicted["memory"].items()}
    return {
        name: {"predicted": ours, "reported": theirs, "ratio": round(ours / theirs, 4)}
        for name, (ours, theirs) in pairs.items()
        if theirs
    }


def _refusals(sizes: ModelSizes, launch: Launch) -> list[MemoryFinding]:
    """Why vLLM would refuse the launch of this model on any GPU."""
    findings: list[MemoryFinding] = []
    if sizes.context is not None and launch.max_model_len > sizes.context:
        findings.append(
            MemoryFinding(
                "problem",
                f"the model was made for {sizes.context:,} tokens and the launch asks for "
                f"{launch.max_model_len:,}: vLLM stops at start",
                f"--max-model-len {sizes.context}",
            )
        )
    if not sizes.divisible(launch.tensor_parallel):
        heads = ", ".join(map(str, dict.fromkeys((*sizes.heads, sizes.kv_heads))))
        findings.append(
            MemoryFinding(
                "problem",
                f"{launch.tensor_parallel} GPUs can't share the model's heads ({heads}): vLLM "
                "stops at start",
                "a number of GPUs that divides them",
            )
        )
    return findings


def _cache_findings(
    blocks: Layout, held: Capacity, launch: Launch, *, left: int, requests: int
) -> list[MemoryFinding]:
    request = blocks.request_blocks(launch.max_model_len) * blocks.block_bytes
    context = (
        f"one request of {launch.max_model_len:,} tokens takes {memory_text(request)} of cache"
    )
    if left < request:
        return [
            MemoryFinding(
                "problem",
                f"{context}, and {memory_text(left)} would be left for it: vLLM stops at start",
                _smaller(blocks, held, launch),
            )
        ]
    findings: list[MemoryFinding] = []
    if held.blocks < requests:
        # With drafts some attention kernels capture no whole decode steps, and nothing is checked.
        drafts = launch.speculative_tokens > 0
        findings.append(
            MemoryFinding(
                "warning" if drafts else "problem",
                f"{requests} requests at once need a cache block each for their states, and there "
                f"would be about {held.blocks}: vLLM stops before it captures graphs"
                + (
                    " of whole decode steps, unless the attention kernel has none" if drafts else ""
                ),
                f"--max-num-seqs {held.blocks} at most, and some fewer to be sure",
                "https://github.com/vllm-project/vllm/pull/38270",
            )
        )
    if left - request < _UNCERTAIN_BYTES:
        findings.append(
            MemoryFinding(
                "warning",
                f"{context}, and about {memory_text(left)} would be left: less than the estimate "
                "is uncertain by",
                _smaller(blocks, held, launch),
            )
        )
    if launch.max_num_seqs is not None and held.concurrency < launch.max_num_seqs:
        findings.append(
            MemoryFinding(
                "warning",
                f"the cache holds {held.concurrency:.2f} requests that fill the context, and "
                f"{launch.max_num_seqs} may run: the last ones would be stopped and begun again",
                f"--max-num-seqs {max(1, int(held.concurrency))}, or a shorter context",
            )
        )
    return findings


def _outside_findings(outside: int, needed: int) -> list[MemoryFinding]:
    if outside >= needed:
        return []
    return [
        MemoryFinding(
            "warning",
            f"{memory_text(outside)} lie outside vLLM's share, and about {memory_text(needed)} are "
            "allocated after the cache: the server may run out of memory at its first steps",
            "a smaller --gpu-memory-utilization",
        )
    ]


def _smaller(blocks: Layout, held: Capacity, launch: Launch) -> str:
    """What would make a request fit."""
    free = held.blocks - blocks.state_groups * blocks.states
    context = free // max(1, blocks.attention_groups) * blocks.block_tokens
    steps: list[str] = []
    if 0 < context < launch.max_model_len:
        steps.append(f"--max-model-len {context}")
    if launch.kv_cache_dtype != "fp8":
        steps.append("--kv-cache-dtype fp8")
    return ", or ".join([*steps, "a GPU with more memory"])


def _gib(size: int) -> float:
    return round(size / GIB, 2)
