"""Scion's engine models beside vLLM's own classes, on tens of thousands of generated cases.

`-s` shows how many pairs were compared, and how they fell.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import loader_cases
from loader_comparison import RAISES, Kind, ask, compare, compare_builds, conclude, questions
from scion.engines.loading.class_build import ClassBuild, Layer
from scion.engines.loading.planning import Decision
from scion.engines.loading.scheme import Refused
from scion.engines.registry.engines import parse_engine
from scion.engines.releases import EngineRelease
from scion.engines.vllm.scheme import read
from serving_python import run_file

pytestmark = [pytest.mark.slow, pytest.mark.serve]

ARCHITECTURES = (
    *("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
    *("Qwen3_5ForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
    "Qwen3NextForCausalLM",
)
KINDS = (
    Kind("modelopt", loader_cases.modelopt, lists=160),
    Kind("mixed", loader_cases.mixed, lists=60),
    Kind("fp8", loader_cases.fp8, lists=40),
    Kind("compressed", loader_cases.compressed, lists=60),
)


def outcome(decision: Decision) -> str | None:
    return RAISES if decision.problem else decision.algorithm


def left_to_the_list(engine: EngineRelease, build: ClassBuild, kind: str, layer: Layer) -> bool:
    """Whether the matcher alone decides; a model class decides on these before it is asked."""
    if layer.kind == "head":
        asks = build.quantized_head
        return kind != "fp8" and (asks is None or asks.holds_for(engine))
    return not (layer.name == "mtp.fc" and kind == "modelopt")


def read_whole(engine: EngineRelease, declared: dict[str, Any]) -> str | None:
    """What a whole declaration comes to: an algorithm, a method, None or a refusal."""
    try:
        scheme, _ = read(engine, {"quantization_config": declared}, None)
    except Refused:
        return RAISES
    if scheme.method == "none":
        return None
    return scheme.algorithm if scheme.method == "modelopt" else scheme.method


def test_vllm(tmp_path: Path):
    [engine] = parse_engine("vllm==0.32.0")
    asked = [
        pair
        for kind in KINDS
        for pair in questions(
            engine,
            kind,
            ARCHITECTURES,
            seed=1,
            outcome=outcome,
            asks=lambda build, layer, name=kind.name: left_to_the_list(engine, build, name, layer),
        )
    ]
    whole = list(loader_cases.declarations(5000, seed=2))
    wanted = [
        *(question for question, _ in asked),
        *({"kind": "declared", "declared": declared} for declared in whole),
        *({"kind": "model", "model": architecture} for architecture in ARCHITECTURES),
    ]
    answers = iter(ask(run_file, "vllm_truth.py", wanted, tmp_path))
    names = [*(kind.name for kind in KINDS), "declared"]
    counts: dict[str, Counter[str | None]] = {name: Counter() for name in names}
    different = list(compare(asked, [next(answers) for _ in asked], counts))
    for declared in whole:
        ours, theirs = read_whole(engine, declared), next(answers)
        counts["declared"][theirs] += 1
        if ours != theirs:
            different.append(f"{ours}, vLLM {theirs}: {declared}")
    facts: dict[str, Any] = dict(zip(ARCHITECTURES, answers, strict=True))
    compare_builds(engine, facts, keys=("fused", "renames"))
    conclude(counts, different, raises=0.03, plain=0.1)
