"""Scion's engine models beside vLLM's own classes, on tens of thousands of generated cases.

`-s` shows how many pairs were compared, and how they fell.
"""

import json
import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import engine_cases
from engine_cases import Case, cases
from scion.loaders.families import Family, Layer, family_of
from scion.loaders.loading import decisions
from scion.loaders.planning import Decision
from scion.loaders.releases import Engine, parse_engine
from scion.loaders.scheme import Refused
from scion.loaders.scheme_vllm import read

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
PYTHON = PROJECT / "envs/serve-cpu/.venv/bin/python"
TRUTH = PROJECT / "tests/engine_truth.py"
ARCHITECTURES = (
    *("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
    *("Qwen3_5ForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
    "Qwen3NextForCausalLM",
)
# By kind: how a case is declared, and how many lists of it each architecture gets.
KINDS: dict[str, tuple[Callable[[Case, random.Random], dict[str, Any]], int]] = {
    "modelopt": (engine_cases.modelopt, 160),
    "mixed": (engine_cases.mixed, 60),
    "fp8": (engine_cases.fp8, 40),
    "compressed": (engine_cases.compressed, 60),
}
RAISES = "raises"


def outcome(decision: Decision) -> str | None:
    return RAISES if decision.problem else decision.algorithm


def left_to_the_list(engine: Engine, family: Family, kind: str, layer: Layer) -> bool:
    """Whether the matcher alone decides; a model class decides on these before it is asked."""
    if layer.kind == "head":
        asks = family.quantized_head
        return kind != "fp8" and (asks is None or asks.holds_for(engine))
    return not (layer.name == "mtp.fc" and kind == "modelopt")


def questions(engine: Engine, kind: str) -> Iterator[tuple[dict[str, Any], list[str | None]]]:
    """Questions for vLLM, for the target and the draft model apart, and Scion's answers to them."""
    declare, lists = KINDS[kind]
    for architecture in ARCHITECTURES:
        random_ = random.Random(f"{kind} {architecture}")
        for case in cases(architecture, lists=lists, seed=1, modules=60):
            declared = declare(case, random_)
            config = {"architectures": [architecture], "quantization_config": declared}
            family = family_of(engine, config)
            assert isinstance(family, Family)
            made = decisions(engine, config, None, case.modules)
            layers = {family.layer(name): outcome(made[name]) for name in case.modules}
            for draft in (False, True):
                asked = {
                    layer: answer
                    for layer, answer in layers.items()
                    if layer.draft == draft and left_to_the_list(engine, family, kind, layer)
                }
                question = {"kind": kind, "model": architecture, "draft": draft}
                names = [[layer.name, layer.kind] for layer in asked]
                if asked:
                    yield question | {"declared": declared, "layers": names}, [*asked.values()]


def ask_vllm(asked: list[dict[str, Any]], folder: Path) -> list[Any]:
    questions_file, answers_file = folder / "questions.jsonl", folder / "answers.jsonl"
    questions_file.write_text("".join(json.dumps(one) + "\n" for one in asked))
    command = [str(PYTHON), str(TRUTH), str(questions_file), str(answers_file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in answers_file.read_text().splitlines()]


def read_whole(engine: Engine, declared: dict[str, Any]) -> str | None:
    """What a whole declaration comes to: an algorithm, a method, None or a refusal."""
    try:
        scheme, _ = read(engine, {"quantization_config": declared}, None)
    except Refused:
        return RAISES
    if scheme.method == "none":
        return None
    return scheme.algorithm if scheme.method == "modelopt" else scheme.method


def compare(
    asked: list[tuple[dict[str, Any], list[str | None]]],
    answers: list[Any],
    counts: dict[str, Counter[str | None]],
) -> Iterator[str]:
    """Count vLLM's answers, and tell where Scion's are different."""
    for (question, ours), answer in zip(asked, answers, strict=True):
        theirs = [RAISES] * len(ours) if answer == RAISES else answer
        counts[question["kind"]].update(theirs)
        for (layer, _), one, other in zip(question["layers"], ours, theirs, strict=True):
            if one != other:
                yield f"{layer}: {one}, vLLM {other}, {question}"[:1500]


def assert_all_happens(counts: dict[str, Counter[str | None]]) -> None:
    """No answer may be so common that a model could guess it."""
    assert sum(counts["modelopt"].values()) >= 20_000
    for kind, found in counts.items():
        total = sum(found.values())
        assert found[RAISES] >= 0.03 * total, (kind, found)
        assert found[None] >= 0.1 * total, (kind, found)
        assert total - found[RAISES] - found[None] >= 0.2 * total, (kind, found)


def test_vllm(tmp_path: Path):
    [engine] = parse_engine("vllm==0.32.0")
    asked = [pair for kind in KINDS for pair in questions(engine, kind)]
    whole = list(engine_cases.declarations(5000, seed=2))
    wanted = [
        *(question for question, _ in asked),
        *({"kind": "declared", "declared": declared} for declared in whole),
        *({"kind": "model", "model": architecture} for architecture in ARCHITECTURES),
    ]
    answers = iter(ask_vllm(wanted, tmp_path))
    counts: dict[str, Counter[str | None]] = {kind: Counter() for kind in (*KINDS, "declared")}
    different = list(compare(asked, [next(answers) for _ in asked], counts))
    for declared in whole:
        ours, theirs = read_whole(engine, declared), next(answers)
        counts["declared"][theirs] += 1
        if ours != theirs:
            different.append(f"{ours}, vLLM {theirs}: {declared}")
    for architecture, theirs in zip(ARCHITECTURES, answers, strict=True):
        family = family_of(engine, {"architectures": [architecture]})
        assert family is not None
        ours = {"fused": family.fused, "renames": family.renames}
        if family.draft_fused:
            ours["draft_fused"] = family.fused_in_draft(engine)
        for key, value in ours.items():
            assert json.loads(json.dumps(value)) == theirs[key], (architecture, key)
    print(*(f"\n{kind}: {sum(found.values())} {dict(found)}" for kind, found in counts.items()))
    assert not different, f"{len(different)} differ:\n" + "\n".join(different[:5])
    assert_all_happens(counts)
