"""Scion's model of SGLang beside SGLang's own classes, on tens of thousands of generated cases.

`-s` shows how many pairs were compared, and how they fell.
"""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import loader_cases
from loader_cases import Case
from loader_comparison import (
    RAISES,
    Kind,
    ask,
    compare,
    compare_builds,
    conclude,
    questions,
    run_in,
)
from scion.engines.loading.class_build import ClassBuild, Layer
from scion.engines.loading.planning import Decision
from scion.engines.loading.scheme import NotModelled, Refused
from scion.engines.registry.engines import parse_engine
from scion.engines.releases import EngineRelease
from scion.engines.sglang import scheme as scheme_sglang

pytestmark = pytest.mark.slow

ARCHITECTURES = (
    *("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
    *("Qwen3_5ForCausalLM", "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    "Qwen3NextForCausalLM",
)
OTHER = "another method"
# Two names of one format.
BLOCKS = {"FP8_PB_WO": "FP8 in blocks", "FP8_BLOCK_SCALES": "FP8 in blocks"}
OWN_METHODS = ("modelopt_fp4", "modelopt_fp8", "modelopt_mixed")
NAMES = {"modelopt_fp8": "FP8", "compressed_tensors": "compressed-tensors"}


def mixed(case: Case, random_: random.Random) -> dict[str, Any]:
    """A mixed declaration with an NVFP4 layer; SGLang takes one without for another method."""
    found = loader_cases.mixed(case, random_)
    next(iter(found["quantized_layers"].values()))["quant_algo"] = "NVFP4"
    return found


KINDS = (
    Kind("modelopt", loader_cases.modelopt, lists=160),
    Kind("mixed", mixed, lists=60),
    Kind("fp8", loader_cases.fp8, lists=60),
    Kind("compressed", loader_cases.compressed, lists=60),
)


def outcome(decision: Decision) -> str | None:
    return RAISES if decision.problem else BLOCKS.get(decision.algorithm or "", decision.algorithm)


def asks(build: ClassBuild, kind: str, layer: Layer) -> bool:
    """Whether the model class asks the quantization about a layer at all."""
    if layer.kind == "plain" or layer.vision or layer.name == "mtp.fc":
        return False
    return not (
        "qkv_proj" in build.kept_in_nvfp4 and kind == "modelopt" and layer.name.endswith("qkv_proj")
    )


def declared_questions() -> Iterator[dict[str, Any]]:
    """Whole declarations, in config.json, the other file or both, some by SGLang's own methods."""
    random_ = random.Random(4)
    others = loader_cases.declarations(6000, seed=5)
    for declared in loader_cases.declarations(6000, seed=4):
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


def read_whole(engine: EngineRelease, question: dict[str, Any]) -> Any:
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


def compare_whole(
    engine: EngineRelease, question: dict[str, Any], theirs: Any, counts: Counter[str | None]
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


def test_sglang(tmp_path: Path):
    [engine] = parse_engine("sglang==0.5.23")
    asked = [
        pair
        for kind in KINDS
        for pair in questions(
            engine,
            kind,
            ARCHITECTURES,
            seed=3,
            outcome=outcome,
            asks=lambda build, layer, name=kind.name: asks(build, name, layer),
        )
    ]
    whole = list(declared_questions())
    models = [{"kind": "model", "model": architecture} for architecture in ARCHITECTURES]
    wanted = [*(question for question, _ in asked), *whole, *models]
    answers = iter(ask(run_in("sglang"), "sglang_truth.py", wanted, tmp_path))
    names = [*(kind.name for kind in KINDS), "declared"]
    counts: dict[str, Counter[str | None]] = {name: Counter() for name in names}
    different = list(compare(asked, [next(answers) for _ in asked], counts))
    for question in whole:
        different += compare_whole(engine, question, next(answers), counts["declared"])
    compare_builds(engine, dict(zip(ARCHITECTURES, answers, strict=True)))
    conclude(counts, different, raises=0.02, plain=0.05)
