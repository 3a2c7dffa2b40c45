"""Result files of all measuring stages as they look, with intervals by the real estimators."""

import random
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scion.architectures.families import QWEN3_5
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.common.files import write_json
from scion.engines.config import Launch, Serving
from scion.engines.served_model import ServedModel
from scion.engines.vllm.command import server_command
from scion.engines.vllm.counters import SpecDecodeCounters
from scion.evaluation.decoding import Answer, Prompt
from scion.evaluation.intervals import (
    bounded_ratio,
    median,
    positive_ratio,
    proportion,
    ratio_of_sums,
    speedup,
)
from scion.evaluation.serving.acceptance import CountedReply, acceptance_rows, paired_acceptance
from scion.evaluation.serving.depth import measured_depths, predict_depths, prediction_record

TASKS = Path(__file__).parent.parent / "workflow/scion/evaluation/agent/agent_tasks.yaml"
CPU = {"kind": "cpu", "name": "AMD EPYC", "count": 2}
GPU = {"kind": "gpu", "name": "NVIDIA H200", "count": 1}
_ENGINE = {"name": "vLLM", "version": "0.32.0", "environment": "serve-cpu"}
_ACCEPTED = {"chat": 0.95, "code": 0.8, "tools": 0.99, "long_form": 0.85}
_FASTER = {0: 1.0, 1: 1.6, 3: 2.2, 5: 2.3, 8: 2.4}
_DIGEST = "ce157f0f136dad49a1f1a7ce1918c4e2dadfc424fb9eb1ad7dc2917d7d4b3358"


def serving(
    *,
    drafted: tuple[int, ...] = (0, 1, 3),
    launches: tuple[str, ...] = ("pico",),
    parallel: tuple[int, ...] = (1, 2),
    repeats: int = 6,
    hardware: dict[str, Any] = CPU,
) -> dict[str, Any]:
    """`serving.json`; only the first launch has texts, hence acceptance."""
    chance = random.Random(7)
    runs: list[dict[str, Any]] = []
    for place, launch in enumerate(launches):
        rates = _rates(chance, drafted, parallel, repeats)
        for count in drafted:
            replies = _replies(chance, count) if count and not place else None
            runs.append(
                {
                    "launch": launch,
                    "max_model_len": 2048,
                    "max_num_seqs": 2,
                    "kv_cache_dtype": "auto",
                    "speculative_tokens": count,
                    "tensor_parallel": 1,
                    "command": command(launch, count),
                    "start_seconds": 21.4,
                    "kv_cache_tokens": 349_440,
                    "concurrency": 170.62,
                    "memory": {"weights_gib": None, "kv_cache_gib": 1.0, "graphs_gib": None},
                    "speed": _speed(rates, count),
                    "acceptance": _acceptance(replies, count) if replies else None,
                    "replies": replies,
                    "same_text_as_baseline": _same_text(count) if 0 in drafted else None,
                }
            )
    # As the stage, which predicts from the first launch.
    own = [run for run in runs if run["launch"] == launches[0]]
    prediction = predict_depths(measured_depths(own))
    return {
        "engine": _ENGINE,
        "hardware": hardware,
        "prompts": {
            "file": "prompts.jsonl",
            "sha256": _DIGEST,
            "sets": dict.fromkeys(_ACCEPTED, 4),
        },
        "runs": runs,
        "prediction": None if prediction is None else prediction_record(prediction, own),
    }


def command(launch: str, drafted: int) -> dict[str, Any]:
    """As a server of that launch on a CPU was started."""
    one = Launch(
        name=launch, title="", max_model_len=2048, max_num_seqs=2, speculative_tokens=drafted
    )
    release = ServedModel(QWEN3_5, "NVFP4", lost_tower=True)
    return server_command(one, release, Serving(), measuring=True).record()


def _rates(
    chance: random.Random, drafted: tuple[int, ...], parallel: tuple[int, ...], repeats: int
) -> dict[tuple[int, int, int], list[float]]:
    """Tokens a second of each repeat by drafts, parallel requests and length."""
    return {
        (count, together, tokens): [
            60 * together**0.9 * _FASTER[count] * chance.uniform(0.9, 1.1) for _ in range(repeats)
        ]
        for count in drafted
        for together in parallel
        for tokens in (50, 100, 200)
    }


def _speed(rates: dict[tuple[int, int, int], list[float]], drafted: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for (count, together, tokens), values in rates.items():
        before = rates.get((0, together, tokens))
        if count == drafted:
            ratio = speedup(values, before).record() if count and before else None
            records.append(
                {
                    "tokens": tokens,
                    "parallel": together,
                    "repeats": len(values),
                    "tokens_per_second": median(values).record(),
                    "ttft_ms": median([2400 / value for value in values]).record(),
                    "itl_ms": median([1000 / value for value in values]).record(),
                    "ratio_to_baseline": ratio,
                }
            )
    return records


def _replies(chance: random.Random, drafted: int) -> list[dict[str, Any]]:
    """What each prompt had accepted: four of each set, with thinking and without."""
    replies: list[dict[str, Any]] = []
    for name, rate in _ACCEPTED.items():
        for thinking in (False, True):
            for number in range(4):
                drafts, counts = chance.randint(8, 40), []
                left = drafts
                for _ in range(drafted):
                    left = sum(chance.random() < rate for _ in range(left))
                    counts.append(left)
                replies.append(
                    {
                        "prompt": f"{name}-{number}",
                        "set": name,
                        "thinking": thinking,
                        "drafts": drafts,
                        "accepted_by_position": counts,
                    }
                )
    return replies


def _acceptance(replies: list[dict[str, Any]], drafted: int) -> list[dict[str, Any]]:
    counted = [
        CountedReply(
            Prompt(reply["prompt"], reply["set"], reply["thinking"], [1]),
            Answer("", 1, [1]),
            SpecDecodeCounters(
                reply["drafts"],
                reply["drafts"] * drafted,
                sum(reply["accepted_by_position"]),
                tuple(reply["accepted_by_position"]),
            ),
        )
        for reply in replies
    ]
    return acceptance_rows(counted, drafted)


def _same_text(drafted: int) -> dict[str, Any] | None:
    return {"identical": 32, "total": 32, "differences": []} if drafted else None


def agent_tasks() -> dict[str, Any]:
    """`agent_tasks.json`, with one failed case."""
    titles = {
        "chat_with_reasoning": ("Plain chat with reasoning", 21),
        "single_tool_call": ("Single tool call", 22),
        "continue_after_tool_result": ("Continue after a tool result", 20),
        "final_synthesis": ("Final synthesis of results", 22),
        "parallel_tool_calls": ("Parallel tool calls", 22),
    }
    tasks = [
        {
            "name": name,
            "title": title,
            "passed": passed,
            "cases": 22,
            "rate": proportion(passed, 22).record(),
            "results": [
                {
                    "name": f"case_{place}",
                    "passed": place < passed,
                    "reason": "finish_reason=stop, answer" if place < passed else "no tool call",
                    "request": {},
                    "response": {},
                }
                for place in range(22)
            ],
        }
        for name, (title, passed) in titles.items()
    ]
    return {
        "engine": _ENGINE,
        "hardware": CPU,
        "speculative_tokens": 3,
        "tasks": tasks,
        "passed": 107,
        "total": 110,
        "rate": proportion(107, 110).record(),
    }


def quality(*, base: bool = True, loads: bool = True, documents: int = 64) -> dict[str, Any]:
    """`quality.json`; the base model and a loadable source are there or not."""
    models: list[dict[str, Any]] = [
        {
            "name": "source",
            "loads": loads,
            "engine_says": None if loads else "KeyError: 'model.language_model.layers.0'",
            "same_as": "fixed" if loads else None,
            "parts": None,
        },
        _model("fixed", 0.0, documents),
        _model("release", 0.004, documents),
    ]
    if base:
        models.append(_model("base", 0.19, documents))
    dataset = {"sha256": _DIGEST, "documents": documents, "tokens": 9000, "cut": 0}
    return {
        "engine": _ENGINE,
        "hardware": CPU,
        "reference": "fixed",
        "top_logprobs": 64,
        "datasets": {
            "chats": {"file": "heldout.jsonl", **dataset},
            "texts": {"file": "heldout_texts.jsonl", **dataset},
        },
        "models": models,
    }


def _model(name: str, worse: float, documents: int) -> dict[str, Any]:
    parts = {"assistant": 0.19, "chats": 0.35, "texts": 0.9}
    return {
        "name": name,
        "loads": True,
        "engine_says": None,
        "same_as": None,
        "parts": {part: _part(loss, worse, documents) for part, loss in parts.items()},
    }


def _part(loss: float, worse: float, documents: int) -> dict[str, Any]:
    chance = random.Random(11)
    counts = [chance.randint(60, 180) for _ in range(documents)]
    noise = [chance.uniform(0.7, 1.3) for _ in counts]
    pairs = list(zip(counts, noise, strict=True))
    losses = ratio_of_sums([(loss * part + worse) * count for count, part in pairs], counts)
    perplexity = {
        "value": 2.718281828**losses.value,
        "low": None if losses.low is None else 2.718281828**losses.low,
        "high": None if losses.high is None else 2.718281828**losses.high,
        "count": losses.count,
    }
    agree = [(1 - 3 * worse * part) * count for count, part in pairs]
    return {
        "tokens": losses.count,
        "loss": losses.record(),
        "perplexity": perplexity,
        "loss_change": ratio_of_sums([worse * p * c for c, p in pairs], counts).record(),
        "kl": positive_ratio([worse / 3 * p * c for c, p in pairs], counts).record(),
        "top1_agreement": bounded_ratio(agree, counts).record(),
        "kl_covered": 0.9993,
    }


def ifeval() -> dict[str, Any]:
    """`ifeval.json` of a few prompts."""
    counted = {
        "prompt_strict": (5, 24),
        "prompt_loose": (6, 24),
        "instruction_strict": (12, 38),
        "instruction_loose": (13, 38),
    }
    return {
        "engine": _ENGINE,
        "hardware": CPU,
        "harness": {"name": "lm_eval", "version": "0.4.12", "task_version": 4.0, "scores": {}},
        "dataset": {"file": "ifeval.jsonl", "sha256": _DIGEST, "prompts": 24},
        "limit": None,
        "thinking": False,
        "max_tokens": 64,
        "answers": {"empty": 0, "cut": 3},
        "scores": {name: proportion(*counts).record() for name, counts in counted.items()},
    }


def bfcl() -> dict[str, Any]:
    """`bfcl.json` of four cases a category."""
    counted = {"simple_python": 3, "multiple": 4, "parallel": 2, "irrelevance": 0}
    return {
        "engine": _ENGINE,
        "hardware": CPU,
        "harness": {"name": "bfcl-eval", "version": "2026.3.1"},
        "limit": 4,
        "thinking": False,
        "max_tokens": 64,
        "categories": [
            {
                "name": name,
                "cases": 4,
                "passed": passed,
                "accuracy": proportion(passed, 4).record(),
                "harness_accuracy": passed / 4,
                "cut": 1,
                "left_out": [{"id": f"{name}_9", "tokens": 2300}],
            }
            for name, passed in counted.items()
        ],
    }


def family(weights: str = "sha256:aa", *, releases: int = 3, heads: bool = False) -> dict[str, Any]:
    """`family.json`: a baseline, and releases that draft beside it.

    Args:
        weights: Digest of the second release's.
        releases: How many there are.
        heads: Whether the baseline drafts as well.
    """
    chance = random.Random(11)
    rates = _rates(chance, (0, 3), (1, 2), 6)
    replies = [_replies(chance, 3) for _ in range(releases)]
    # A baseline without drafts has none to stand beside.
    drafting = 0 if heads else 1
    scored = quality()
    shown = [model for model in scored["models"] if model["name"] in ("release", "fixed")]
    rows = [
        {
            "release": f"release-{place}",
            "repository": f"owner/Release-{place}",
            "weights": weights if place == 1 else f"sha256:{place}",
            "bytes": 4_000_000 + place,
            "algorithm": "NVFP4",
            "spelling": "modelopt" if place else "compressed-tensors",
            "launch": "pico",
            "speculative_tokens": 3 if place >= drafting else 0,
            "speed": _speed(rates, 3 if place else 0),
            "acceptance": _acceptance(own, 3)[-1] if place >= drafting else None,
            "acceptance_beside_baseline": paired_acceptance(own, replies[0])
            if heads and place
            else None,
            "agent_tasks": {"passed": 107, "total": 110, "rate": proportion(107, 110).record()},
            "quality": {"reference": scored["reference"], "models": shown},
        }
        for place, own in enumerate(replies)
    ]
    return {
        "family": {
            "name": "tiny",
            "title": "The tiny family",
            "baseline": "release-0",
            "rounds": 2,
        },
        "engine": _ENGINE,
        "hardware": CPU,
        "prompts": {
            "file": "prompts.jsonl",
            "sha256": _DIGEST,
            "sets": dict.fromkeys(_ACCEPTED, 4),
        },
        "releases": rows,
    }


def results() -> dict[str, Any]:
    """All of them, by stage."""
    return {
        "measure_serving": serving(),
        "run_agent_tasks": agent_tasks(),
        "evaluate_quality": quality(),
        "evaluate_ifeval": ifeval(),
        "evaluate_bfcl": bfcl(),
    }


# The record's name by stage.
FILES = {
    "measure_serving": "serving.json",
    "run_agent_tasks": "agent_tasks.json",
    "evaluate_quality": "quality.json",
    "evaluate_ifeval": "ifeval.json",
    "evaluate_bfcl": "bfcl.json",
    "evaluate_images": "images.json",
    "judge_release": "verdict.json",
}


def artifacts(
    content: dict[str, Any],
    *,
    release: Artifact,
    folder: Path,
    outputs: Mapping[str, Output] = MappingProxyType({}),
) -> dict[str, Artifact]:
    """The results as artifacts of their stages, in a folder unless `outputs` says otherwise."""
    results: dict[str, Artifact] = {}
    for stage, result in content.items():
        inputs: dict[str, Artifact | Path] = {"release": release}
        if stage == "run_agent_tasks":
            inputs["tasks"] = TASKS

        def build(draft: Draft, name: str = FILES[stage], result: Any = result) -> None:
            write_json(draft.folder / name, result)

        results[stage] = remake(
            outputs.get(stage) or Output.at(folder / stage),
            stage=stage,
            inputs=inputs,
            settings={},
            environment="sha256:tests",
            build=build,
        )
    return results
