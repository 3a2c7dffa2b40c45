from pathlib import Path

import pytest

import lint_cases.cache
import lint_cases.config_json
import lint_cases.deep
import lint_cases.engine_scales
import lint_cases.files
import lint_cases.foreign
import lint_cases.layouts
import lint_cases.mtp
import lint_cases.names
import lint_cases.numbers
import lint_cases.scheme
import lint_cases.sizes
import lint_cases.tokenizer
from lint_cases import Case
from lint_checkpoints import llama, qwen35, sound
from scion.checkpoint.folder_source import open_source
from scion.engines.registry.engines import DEFAULT_ENGINES, parse_engine
from scion.lint.all_rules import RULES
from scion.lint.rule import Finding, Result, Severity, run, select_rules
from scion.lint.subject import Subject

CASES = [
    case
    for theme in (
        lint_cases.files,
        lint_cases.config_json,
        lint_cases.names,
        lint_cases.layouts,
        lint_cases.mtp,
        lint_cases.scheme,
        lint_cases.cache,
        lint_cases.foreign,
        lint_cases.numbers,
        lint_cases.sizes,
        lint_cases.engine_scales,
        lint_cases.tokenizer,
        lint_cases.deep,
    )
    for case in theme.CASES
]
DEEP = {rule.code for rule in RULES if rule.deep}


def lint(
    folder: Path,
    *,
    codes: tuple[str, ...] = (),
    engines: tuple[str, ...] = (),
    tensor_parallel: tuple[int, ...] = (1,),
) -> list[Result]:
    """Every finding on a folder, of the rules of `codes` if any are given."""
    named = [engine for word in engines for engine in parse_engine(word)] or DEFAULT_ENGINES
    subject = Subject.open(open_source(str(folder)), engines=named, tensor_parallel=tensor_parallel)
    return run(subject, select_rules(RULES, select=codes, deep=True))


def findings(folder: Path, case: Case) -> list[Finding]:
    results = lint(
        folder, codes=(case.rule,), engines=case.engines, tensor_parallel=case.tensor_parallel
    )
    return [result.finding for result in results]


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == {rule.code for rule in RULES}


def test_codes_and_names_are_unique() -> None:
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule} {case.about}".strip())
def test_a_rule_finds_its_fault_and_is_silent_on_the_sound_twin(case: Case, tmp_path: Path) -> None:
    folder = sound(
        tmp_path / "model", spelling=case.spelling, config=case.config, shards=case.shards
    )
    assert findings(folder, case) == []
    case.break_it(folder)
    found = findings(folder, case)
    assert found
    if case.subject is not None:
        assert case.subject in {finding.subject for finding in found}


@pytest.mark.parametrize("spelling", ["bf16", "modelopt", "compressed-tensors", "fp8", "mixed"])
@pytest.mark.parametrize("family", [qwen35, llama])
def test_sound_checkpoints_have_no_error(family, spelling, tmp_path: Path) -> None:
    folder = sound(tmp_path / "model", spelling=spelling, config=family())
    # SGLang 0.5.23 does not find the parts of a plain decoder's fused layers in quantized_layers.
    mixed_decoder = spelling == "mixed" and family is llama
    found = lint(folder, engines=("vllm",) if mixed_decoder else ())
    errors = [result for result in found if result.rule.severity is Severity.ERROR]
    assert errors == []
