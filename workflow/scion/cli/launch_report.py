"""What `scion launch` prints."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from scion.engines.flag import Flag
from scion.engines.gpus import GIB, GPUS, memory_text
from scion.engines.registry.engines import engine_of
from scion.engines.releases import EngineRelease
from scion.engines.vllm.cpu_environment import CPU_ENVIRONMENT
from scion.engines.vllm.memory import MemoryFinding, Prediction
from scion.lint.rule import Rule


def environment_lines() -> list[str]:
    """Which Python a CPU's command needs, as a comment of the shell's: it is copied with it."""
    text = f"In {CPU_ENVIRONMENT}:"
    return textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")


def flag_lines(options: Iterable[Flag]) -> list[str]:
    """Each flag and what it is for."""
    lines: list[str] = []
    for flag in options:
        lines.append(flag.text)
        lines += textwrap.wrap(flag.reason, 96, initial_indent="    ", subsequent_indent="    ")
    return lines


def memory_lines(predicted: Prediction) -> list[str]:
    """The sum of the memory, the verdict, and what speaks against the launch."""
    blocks, held = predicted.layout, predicted.capacity
    parts = predicted.weights.parts.items()
    counted = "" if predicted.graphs_in_budget else ", outside that share"
    rows: list[tuple[str, int, str]] = [
        (
            f"each of {predicted.gpus} GPUs" if predicted.gpus > 1 else "the GPU",
            predicted.total,
            "",
        ),
        ("vLLM's share", predicted.budget, ""),
        *((f"  {name}", size, "as stored") for name, size in sorted(parts)),
        ("weights", predicted.weights.loaded, "estimated from what is stored"),
        ("activations, CUDA", predicted.activations, "estimated"),
        ("CUDA graphs", predicted.graphs, f"estimated{counted}"),
        ("cache", predicted.cache, "what is left"),
        ("  a request's states", blocks.sequence_bytes, f"{blocks.states} in each layer"),
    ]
    return [
        f"memory, predicted for {predicted.engine}:",
        *(f"  {name:22}{memory_text(size):>13}  {note}".rstrip() for name, size, note in rows),
        f"  cache: {held.tokens:,} tokens as vLLM counts, {held.concurrency:.2f} requests that "
        "fill the context",
        f"  {blocks.token_bytes:,} bytes a token, in blocks of {blocks.block_tokens} tokens",
        "",
        f"verdict: {predicted.verdict}",
        *(line for finding in predicted.findings for line in _finding_lines(finding)),
    ]


def _finding_lines(finding: MemoryFinding) -> list[str]:
    text = f"{finding.severity}: {finding.text}"
    lines = textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="    ")
    lines.append(f"    do:   {finding.next_step}")
    if finding.source:
        lines.append(f"    seen: {finding.source}")
    return lines


def lint_lines(errors: Iterable[Rule]) -> list[str]:
    """What speaks against the checkpoint itself, whatever its launch is."""
    told = ", ".join(f"{rule.code} {rule.name}" for rule in errors)
    return [f"scion lint finds errors in it: {told}"] if told else []


def reported_lines(beside: Mapping[str, Any]) -> list[str]:
    """The prediction beside what a server printed, if a server's log was named."""
    rows = [
        f"  {name:22}{pair['predicted']:>14,}{pair['reported']:>14,}{pair['ratio']:>9.3f}"
        for name, pair in beside.get("beside_server", {}).items()
    ]
    heading = f"  {'beside the server':22}{'predicted':>14}{'reported':>14}{'ratio':>9}"
    return ["", heading, *rows] if rows else []


def unpredicted_lines(release: EngineRelease, *, cpu: bool) -> list[str]:
    """What is said where memory is not predicted: of an engine, or of vLLM on a CPU."""
    if cpu:
        return ["memory: not predicted for a CPU"]
    engine = engine_of(release)
    untried = engine.launcher.untried if engine.launcher else ""
    caveat = [f"{release}: {untried}"] if untried else []
    return [*caveat, f"memory: not predicted for {engine.title}"]


def gpu_lines() -> list[str]:
    """The table of `--list-gpus`."""
    lines = [f"{'name':14}{'GiB for CUDA':>13}{'MiB listed':>12}  GPU"]
    for gpu in GPUS:
        assumed = " " if gpu.cuda_gib is not None else "~"
        listed = f"{gpu.listed_mib:,}" if gpu.listed_mib else "-"
        memory = f"{assumed}{gpu.total_bytes / GIB:.2f}"
        lines.append(f"{gpu.name:14}{memory:>13}{listed:>12}  {gpu.title}")
        if gpu.note:
            lines += textwrap.wrap(gpu.note, 96, initial_indent="    ", subsequent_indent="    ")
    return [*lines, "~ assumed: 1.5 % below what nvidia-smi lists"]
