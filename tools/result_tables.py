"""What pages say of results, from the records in docs/measurements.

That is README's table, and of docs/measurements/results.md what `make run` measures of the embedded
release.
"""

import json
from pathlib import Path
from typing import Any

from scion.common.text import change, hardware, number, ratio, share, size, small, table
from scion.report.card.scores import leading_part
from scion.report.card.serving import (
    acceptance_table,
    longest_decode,
    overall_acceptance,
    speed_table,
)

RECORDS = Path(__file__).resolve().parents[1] / "docs/measurements"
BEGIN, END = (
    "<!-- results: from docs/measurements, by make reference -->",
    "<!-- end of results -->",
)
Row = list[str]


def replaced(page: str, made: str) -> str:
    """The text of a page with what is between its marks made anew."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def readme_table() -> str:
    """What was measured, how much it was, and on what device."""
    rows = [*_embedded(), *_shape_27b(), _recipes(), *_linting()]
    return table(["what", "measured", "on"], rows)


def _embedded() -> list[Row]:
    """The embedded release, as `make run` measures it."""
    serving, tasks = _record("pico-cpu/serving.json"), _record("pico-cpu/agent_tasks.json")
    _, chats = leading_part(_record("pico-cpu/quality.json"), "release")
    run = next(run for run in serving["runs"] if run["speculative_tokens"] == 3)
    accepted, decode = overall_acceptance(run), longest_decode(run)
    assert accepted is not None
    device = _device(serving)
    rows = [
        ("tokens a step with 3 MTP drafts", f"{number(accepted['mean_length'], 2)} of 4"),
        (
            f"speed with 3 drafts beside none, {decode['tokens']} tokens",
            ratio(decode["ratio_to_baseline"]),
        ),
        ("agent cases passed", f"{tasks['passed']} of {tasks['total']}: {share(tasks['rate'])}"),
        (f"KL divergence to bf16, {chats['tokens']:,} held-out tokens", small(chats["kl"])),
        ("most likely token as in bf16", share(chats["top1_agreement"])),
    ]
    return [[f"embedded release: {what}", measured, device] for what, measured in rows]


def embedded_release() -> str:
    """Speed and acceptance of the embedded release, as its card has them, and its scores."""
    serving, tasks = _record("pico-cpu/serving.json"), _record("pico-cpu/agent_tasks.json")
    text, scores = leading_part(_record("pico-cpu/quality.json"), "release")
    return "\n\n".join(
        (
            f"{_device(serving)}: no statement about a GPU. Tokens a second by vLLM's own "
            "benchmark, medians of n; the ratio is to no MTP in the same run:",
            speed_table(serving["runs"]),
            "Acceptance of drafts, over all prompts:",
            acceptance_table(serving["runs"], several=False),
            f"Beside its bf16 source on {scores['tokens']:,} held-out tokens of {text} the release "
            f"has a loss of {change(scores['loss_change'])}, a KL divergence of "
            f"{small(scores['kl'])} and the same most likely token in "
            f"{share(scores['top1_agreement'])}. Of {tasks['total']} agent cases it passes "
            f"{tasks['passed']}.",
        )
    )


def _device(serving: dict[str, Any]) -> str:
    vllm = f"{serving['engine']['name']} {serving['engine']['version']}"
    return f"{hardware(serving['hardware'])}, {vllm}, NVFP4 emulated"


def _shape_27b() -> list[Row]:
    """Random weights in the shape of a 27B model, quantized and served on one H100."""
    quantizing, serving = _record("streaming-h100.json"), _record("qwen3.6-27b-shape-h100.json")
    ways = quantizing["results"]["64"]
    speed = next(
        row
        for row in serving["serving"]["runs"][0]["speed"]
        if (row["tokens"], row["parallel"]) == (350, 1)
    )
    cache = serving["memory"]["beside_server"]["kv_cache_tokens"]
    vllm = f"one H100, {serving['serving']['engine']['name']} {serving['versions']['vllm']}"
    return [
        [f"27B shape: quantizing, {name}", _took(ways[way]), f"one H100, {tool}"]
        for name, way, tool in (
            ("`local_hessian`", "local_hessian", "Scion"),
            ("`nvfp4_default`", "stream", "Scion"),
            ("the same bits", "modelopt", f"ModelOpt {quantizing['modelopt']}, resident"),
        )
    ] + [
        [
            "27B shape: decoding at 256K context, no draft accepted",
            f"{number(speed['tokens_per_second'])} tokens a second",
            f"{vllm}, weight-only kernels",
        ],
        [
            "27B shape: KV cache, as `scion launch` predicts and the server reports it",
            f"{cache['predicted']:,} and {cache['reported']:,} tokens",
            vllm,
        ],
    ]


def _took(way: dict[str, Any]) -> str:
    return f"{way['seconds']:.1f} s, {size(1e6 * way['peak_gpu_mb'])} of GPU memory"


def _recipes() -> Row:
    """What the default recipe gains over maxima on a model of real text."""
    record = _record("recipes-smollm2.json")
    variants = {variant["name"]: variant["parts"]["all"] for variant in record["variants"]}
    gained = variants["local_hessian"]["beside_default"]["kl_change"]
    return [
        "SmolLM2-135M: KL divergence to bf16, `local_hessian` beside "
        f"`nvfp4_default`'s {variants['nvfp4_default']['kl']['value']:.3f}",
        change(gained, 3),
        _machine(record),
    ]


def _linting() -> list[Row]:
    """`scion lint` on a checkpoint in the shape of a 27B model."""
    record = _record("lint.json")
    source = record["checkpoints"]["source"]
    hub = source["hub"]["scion lint"]
    return [
        [
            f"`scion lint` of a {source['bytes'] / 1e9:.0f} GB folder, cold",
            f"{source['seconds']:.1f} s, {source['peak_rss_mb']:.0f} MB of memory",
            _machine(record),
        ],
        ["the same on a hub", f"{size(hub['bytes'])} moved", _machine(record)],
    ]


def _machine(record: dict[str, Any]) -> str:
    return f"{record['machine']['cores']} cores of {record['machine']['processor']}"


def _record(name: str) -> dict[str, Any]:
    return json.loads((RECORDS / name).read_text())
