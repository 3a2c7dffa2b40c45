"""Scion's model of SGLang beside SGLang's own classes, on tens of thousands of generated cases.

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
from scion.loaders import scheme_sglang
from scion.loaders.families import Family, Layer, family_of
from scion.loaders.loading import decisions
from scion.loaders.planning import Decision
from scion.loaders.releases import Engine, parse_engine
from scion.loaders.scheme import NotModelled, Refused

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
PYTHON = PROJECT / "envs/sglang/.venv/bin/python"
TRUTH = PROJECT / "tests/sglang_truth.py"
ARCHITECTURES = (
    *("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
    *("Qwen3_5ForCausalLM", "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    "Qwen3NextForCausalLM",
)
RAISES, OTHER = "raises", "another method"
# Two names of one format.
BLOCKS = {"FP8_PB_WO": "FP8 in blocks", "FP8_BLOCK_SCALES": "FP8 in blocks"}
OWN_METHODS = ("modelopt_fp4", "modelopt_fp8", "modelopt_mixed")
NAMES = {"modelopt_fp8": "FP8", "compressed_tensors": "compressed-tensors"}


def mixed(case: Case, random_: random.Random) -> dict[str, Any]:
    """A mixed declaration with an NVFP4 layer; SGLang takes one without for another method."""
    found = engine_cases.mixed(case, random_)
    next(iter(found["quantized_layers"].values()))["quant_algo"] = "NVFP4"
    return found


# By kind: how a case is declared, and how many lists of it each architecture gets.
KINDS: dict[str, tuple[Callable[[Case, random.Random], dict[str, Any]], int]] = {
    "modelopt": (engine_cases.modelopt, 160),
    "mixed": (mixed, 60),
    "fp8": (engine_cases.fp8, 60),
    "compressed": (engine_cases.compressed, 60),
}


def outcome(decision: Decision) -> str | None:
    return RAISES if decision.problem else BLOCKS.get(decision.algorithm or "", decision.algorithm)


def asks(family: Family, kind: str, layer: Layer) -> bool:
    """Whether the model class asks the quantization about a layer at all."""
    if layer.kind == "plain" or layer.vision or layer.name == "mtp.fc":
        return False
    return not (family.plain_qkv and kind == "modelopt" and layer.name.endswith("qkv_proj"))


def questions(engine: Engine, kind: str) -> Iterator[tuple[dict[str, Any], list[str | None]]]:
    """Questions for SGLang, for the target and the draft model apart, and Scion's answers."""
    declare, lists = KINDS[kind]
    for architecture in ARCHITECTURES:
        random_ = random.Random(f"{kind} {architecture}")
        for case in cases(architecture, lists=lists, seed=3, modules=60):
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
                    if layer.draft == draft and asks(family, kind, layer)
                }
                question = {"kind": kind, "model": architecture, "draft": draft, "config": config}
                names = [[layer.name, layer.kind] for layer in asked]
                if asked:
                    yield question | {"layers": names}, [*asked.values()]


def declared_questions() -> Iterator[dict[str, Any]]:
    """Whole declarations, in config.json, the other file or both, some by SGLang's own methods."""
    random_ = random.Random(4)
    others = engine_cases.declarations(6000, seed=5)
    for declared in engine_cases.declarations(6000, seed=4):
        if random_.random() < 0.2:
            declared["quant_method"] = random_.choice(OWN_METHODS)
        question = {"kind": "declared", "model": ARCHITECTURES[0]}
        of_config = {"config": {"quantization_config": with_lists(declared)}}
        of_file = {"hf_quant_config": with_lists(next(others))}
        yield question | random_.choice((of_config, of_config | of_file, {"config": {}} | of_file))


def with_lists(declared: dict[str, Any]) -> dict[str, Any]:
    """Without the texts and objects that stand for a list.

    SGLang goes through a text letter by letter and through an object's keys; Scion calls both no
    list.
    """
    inner = declared.get("quantization")
    for place in (declared, inner if isinstance(inner, dict) else {}):
        for key in ("ignore", "exclude_modules"):
            if place.get(key) and isinstance(place[key], (str, dict)):
                place[key] = 7
    return declared


def ask_sglang(asked: list[dict[str, Any]], folder: Path) -> list[Any]:
    assert PYTHON.exists(), "`make test` installs envs/sglang; python tools/setup.py --tests does"
    questions_file, answers_file = folder / "questions.jsonl", folder / "answers.jsonl"
    questions_file.write_text("".join(json.dumps(one) + "\n" for one in asked))
    command = [str(PYTHON), str(TRUTH), str(questions_file), str(answers_file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in answers_file.read_text().splitlines()]


def read_whole(engine: Engine, question: dict[str, Any]) -> Any:
    """What a whole declaration comes to: an algorithm or a method, and the exclusion list."""
    try:
        scheme, _ = scheme_sglang.read(engine, question["config"], question.get("hf_quant_config"))
    except Refused:
        return RAISES
    except NotModelled:
        return OTHER
    if scheme.method == "none":
        return None
    name = scheme.algorithm if scheme.method == "modelopt" else scheme.method
    return [name, *scheme.exclude]


def compare(
    asked: list[tuple[dict[str, Any], list[str | None]]],
    answers: list[Any],
    counts: dict[str, Counter[str | None]],
) -> Iterator[str]:
    """Count SGLang's answers, and tell where Scion's are different."""
    for (question, ours), answer in zip(asked, answers, strict=True):
        theirs = [RAISES] * len(ours) if answer == RAISES else answer
        counts[question["kind"]].update(theirs)
        for (layer, _), one, other in zip(question["layers"], ours, theirs, strict=True):
            if one != other:
                yield f"{layer}: {one}, SGLang {other}, {question}"[:1500]


def compare_whole(
    engine: Engine, question: dict[str, Any], theirs: Any, counts: Counter[str | None]
) -> Iterator[str]:
    """The same for a declaration, unless it is of a method that Scion does not model."""
    ours = read_whole(engine, question)
    if isinstance(theirs, list):
        theirs = [NAMES.get(theirs[0], theirs[0]), *theirs[1:]]
    counts[theirs[0] if isinstance(theirs, list) else theirs] += 1
    # Mixed precision without an NVFP4 layer is another format to SGLang, which Scion calls refused.
    w4a8 = theirs == ["w4afp8"] and ours == RAISES
    if ours not in (theirs, OTHER) and not w4a8:
        yield f"{ours}, SGLang {theirs}: {question}"[:1500]


def assert_all_happens(counts: dict[str, Counter[str | None]]) -> None:
    """No answer may be so common that a model could guess it."""
    assert sum(counts["modelopt"].values()) >= 20_000
    for kind, found in counts.items():
        total = sum(found.values())
        assert found[RAISES] >= 0.02 * total, (kind, found)
        assert found[None] >= 0.05 * total, (kind, found)
        assert total - found[RAISES] - found[None] >= 0.2 * total, (kind, found)


def test_sglang(tmp_path: Path):
    [engine] = parse_engine("sglang==0.5.23")
    asked = [pair for kind in KINDS for pair in questions(engine, kind)]
    whole = list(declared_questions())
    models = [{"kind": "model", "model": architecture} for architecture in ARCHITECTURES]
    answers = iter(ask_sglang([*(question for question, _ in asked), *whole, *models], tmp_path))
    counts: dict[str, Counter[str | None]] = {kind: Counter() for kind in (*KINDS, "declared")}
    different = list(compare(asked, [next(answers) for _ in asked], counts))
    for question in whole:
        different += compare_whole(engine, question, next(answers), counts["declared"])
    for architecture, theirs in zip(ARCHITECTURES, answers, strict=True):
        family = family_of(engine, {"architectures": [architecture]})
        assert family is not None
        ours = {"fused": family.fused}
        if family.draft_fused:
            ours["draft_fused"] = family.fused_in_draft(engine)
        assert json.loads(json.dumps(ours)) == theirs, architecture
    print(*(f"\n{kind}: {sum(found.values())} {dict(found)}" for kind, found in counts.items()))
    assert not different, f"{len(different)} differ:\n" + "\n".join(different[:5])
    assert_all_happens(counts)
