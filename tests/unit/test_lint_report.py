import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from checkpoints import edit_json
from lint_checkpoints import llama, sound
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.safetensors_file import Header, Tensor
from scion.checkpoint.source import Traffic
from scion.engines.registry.engines import DEFAULT_ENGINES, parse_engine
from scion.engines.releases import EngineRelease
from scion.lint.all_rules import RULES
from scion.lint.catalogue import REFERENCE, WRITE_REFERENCE, explained, listed, reference
from scion.lint.github import github
from scion.lint.json_report import as_json
from scion.lint.report import Report, text, unchecked
from scion.lint.rule import Finding, Rule, Severity, rule, run, select_rules
from scion.lint.sarif import sarif
from scion.lint.subject import Subject

PROJECT = Path(__file__).parents[2]
SCHEMA = json.loads((PROJECT / "tests/data/sarif/sarif-2.1.0.json").read_text())
ESCAPE = "\x1b[2Jmodel\n::error::x"


@rule(
    "N901",
    "odd-name",
    Severity.ERROR,
    "a tensor has an odd name",
    repair="rename it",
    command="rename FILE",
    stage="fix_keys",
    holds_for="vllm<0.24",
    seen=("https://example.org/1", "https://example.org/2"),
)
def odd_name(subject: Subject) -> Iterable[Finding]:
    """The engine stops at a name that it does not know."""
    engines = tuple(str(engine) for engine in subject.engines)
    yield Finding("a.safetensors", "a.weight", "b.weight", "a: 100 %, odd", engines, count=96)


@rule("F902", "odd-file", Severity.WARNING, "a file is odd", repair="remove it")
def odd_file(_subject: Subject) -> Iterable[Finding]:
    """Nothing reads it."""
    yield Finding(ESCAPE, None, "no such file", ESCAPE)


@rule("D903", "odd-number", Severity.NOTE, "a number is odd", repair="add one", deep=True)
def odd_number(_subject: Subject) -> Iterable[Finding]:
    """It can't be halved."""
    return ()


@rule("S904", "odd-scale", Severity.NOTE, "a scale is odd", repair="halve it")
def odd_scale(subject: Subject) -> Iterable[Finding]:
    """It reads every scale."""
    assert subject.scalars == {}
    return ()


KNOWN = (odd_file, odd_name, odd_number)


def judge(
    folder: Path,
    *rules: Rule,
    engines: tuple[EngineRelease, ...] = DEFAULT_ENGINES,
    tensor_parallel: tuple[int, ...] = (1,),
) -> Report:
    subject = Subject.open(
        open_source(str(folder)), engines=engines, tensor_parallel=tensor_parallel
    )
    return Report(subject, rules, run(subject, rules), list(unchecked(subject, rules, KNOWN)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound checkpoint below the working folder."""
    monkeypatch.chdir(tmp_path)
    return sound(Path("a model"))


def test_the_reference_is_the_generated_one() -> None:
    committed = PROJECT / REFERENCE
    assert committed.read_text() == reference(RULES), f"run `{WRITE_REFERENCE}`"


def test_the_guide_shows_explanations_as_they_are() -> None:
    shown = explained(select_rules(RULES, select=["N201", "M304", "Q401"]))
    assert shown.strip() in (PROJECT / "docs/guides/lint.md").read_text()


def test_every_rule_is_in_the_reference_and_explained() -> None:
    document, explanation, names = reference(RULES), explained(RULES), listed(RULES)
    for entry in RULES:
        assert f"### {entry.code} {entry.name}\n" in document
        for part in (
            entry.explanation,
            entry.repair,
            entry.title,
            *entry.seen,
            entry.command or "",
        ):
            assert part in document
            assert part in explanation
        assert re.search(rf"^{entry.code} .*{entry.name}", names, re.MULTILINE)


def test_a_repair_by_the_workflow_is_run_with_a_config_file_of_ones_own() -> None:
    commands = [entry.command for entry in RULES if "snakemake " in (entry.command or "")]
    assert commands
    for command in commands:
        assert " --configfile YOURS.yaml " in (command or "")


def test_an_explanation_says_all_that_is_known() -> None:
    assert explained([odd_name, odd_number]) == (
        "N901 odd-name (error)\n"
        "a tensor has an odd name\n"
        "\n"
        "The engine stops at a name that it does not know.\n"
        "\n"
        "holds for:  vllm<0.24\n"
        "repair:     rename it\n"
        "command:    rename FILE\n"
        "stage:      fix_keys, of Scion's workflow\n"
        "seen:       https://example.org/1\n"
        "            https://example.org/2\n"
        "\n"
        "D903 odd-number (note) (--deep)\n"
        "a number is odd\n"
        "\n"
        "It can't be halved.\n"
        "\n"
        "holds for:  whatever reads the checkpoint\n"
        "repair:     add one\n"
    )


def test_text_says_what_was_found_and_what_it_comes_to(folder: Path) -> None:
    engines = (*parse_engine("vllm>=0.19,<0.21"), *parse_engine("sglang==0.5.23"))
    report = judge(folder, odd_name, engines=engines, tensor_parallel=(2, 4))
    tensors = len(report.subject.tensors)
    assert text([report], colour=False) == (
        "error N901 odd-name: a tensor has an odd name\n"
        "  where:    a.safetensors: a.weight and 95 more\n"
        "  expected: b.weight\n"
        "  found:    a: 100 %, odd\n"
        "  engines:  in vLLM 0.19.1, 0.20.0, SGLang 0.5.23\n"
        "  repair:   rename it\n"
        "            rename FILE\n"
        "\n"
        "more about these: scion lint --explain N901\n"
        "not checked: the tensors' data: D903 run with --deep, on a local folder\n"
        "not checked: F902: left out by --select or --ignore\n"
        f"1 error: {tensors} tensors in 2 files of a model; "
        "judged for vLLM 0.19.1, 0.20.0, SGLang 0.5.23 on 2, 4 GPUs\n"
    )


def test_the_last_line_counts_places_and_the_rules_that_they_are_of(folder: Path) -> None:
    report = judge(folder, odd_name, odd_file)
    report = replace(report, results=[report.results[0], *report.results])
    last = text([report], colour=False).splitlines()[-1]
    assert last.startswith("2 errors of 1 rule, 1 warning: ")


def test_text_calls_clean_what_is_clean(folder: Path) -> None:
    last = text([judge(folder, odd_number)], colour=False).splitlines()[-1]
    assert last.startswith("clean: ")


def test_text_says_that_an_unknown_architecture_was_not_judged(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: {**config, "model_type": "mammoth"})
    assert "not checked: what config.json implies" in text([judge(folder)], colour=False)
    assert "model_type 'mammoth' is unknown" in text([judge(folder)], colour=False)


def test_colours_change_nothing_but_the_severities(folder: Path) -> None:
    report = judge(folder, *KNOWN)
    coloured = text([report], colour=True)
    assert coloured.startswith("\x1b[1;31merror\x1b[0m N901")
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == text([report], colour=False)


def test_what_a_checkpoint_says_steers_neither_a_terminal_nor_a_log(folder: Path) -> None:
    report = judge(folder, odd_file)
    for told in (text([report], colour=False), github([report])):
        assert "\x1b" not in told
        assert not re.search(r"^::error::x", told, re.MULTILINE)
        assert r"\x1b[2Jmodel\n::error::x" in told


def test_github_gets_commands_with_its_own_escapes(folder: Path) -> None:
    commands = [line for line in github([judge(folder, *KNOWN)]).splitlines() if line[:2] == "::"]
    error, warning = commands
    assert error.startswith("::error file=a model/a.safetensors,line=1,title=N901 odd-name::")
    assert "Found: a: 100 %25, odd." in error
    assert warning.startswith("::warning file=a model/")
    assert "%3A%3Aerror%3A%3Ax,line=1,title=F902 odd-file::A file is odd: " in warning


@dataclass(frozen=True)
class Hub:
    """A source like one on the hub: no folder, and files too large to be read."""

    local: Any
    name: str = "hf://owner/name@0123"
    folder: None = None

    @property
    def traffic(self) -> Traffic:
        return Traffic(34, 2_400_000)

    @property
    def files(self) -> Mapping[str, int]:
        return self.local.files

    def read(self, name: str) -> bytes | None:
        return None if name == "tokenizer.json" else self.local.read(name)

    def headers(self, shards: Sequence[str]) -> dict[str, Header]:
        return self.local.headers(shards)

    def small(self, _wanted: Mapping[str, Sequence[Tensor]]) -> dict[str, bytes]:
        return {}


def on_hub(report: Report) -> Report:
    subject = replace(report.subject, source=Hub(report.subject.source))
    listed = list(unchecked(subject, report.rules, KNOWN))
    return replace(report, subject=subject, unchecked=listed)


def test_what_the_hub_would_have_to_send_is_named(folder: Path) -> None:
    report = on_hub(judge(folder, *KNOWN))
    (line,) = report.unchecked
    assert re.fullmatch(r"tokenizer.json: [0-9.]+ MB are more than is read of it", line)
    assert "hf://owner/name@0123; judged for " in text([report], colour=False)
    assert text([report], colour=False).endswith("; 2.4 MB moved in 34 requests\n")
    assert github([report]).startswith("::error title=N901 odd-name::")


def test_scales_that_the_hub_left_unread_are_counted_if_a_rule_wanted_them(folder: Path) -> None:
    quantized = sound(Path("quantized"), spelling="modelopt", config=llama())
    subject = replace(judge(quantized).subject, source=Hub(open_source(str(quantized))))
    assert not any("scale" in line for line in unchecked(subject, (), ()))
    run(subject, [odd_scale])
    scales = sum(name.endswith(("weight_scale_2", "input_scale")) for name in subject.tensors)
    assert f"the values of {scales} scales: they lie scattered over files on the hub" in list(
        unchecked(subject, (odd_scale,), ())
    )


def test_json_has_the_documented_keys(folder: Path) -> None:
    value = json.loads(json.dumps(as_json([judge(folder, odd_name), judge(folder, odd_number)])))
    assert value["version"] == 1
    first, second = value["checkpoints"]
    assert second["findings"] == []
    assert first.pop("tensors") == second["tensors"] > 0
    assert first == {
        "name": "a model",
        "judged": True,
        "files": 2,
        "engines": [str(engine) for engine in DEFAULT_ENGINES],
        "tensor_parallel": [1],
        "traffic": None,
        "rules": ["N901"],
        "unchecked": list(judge(folder, odd_name).unchecked),
        "counts": {"error": 1, "warning": 0, "note": 0},
        "findings": [
            {
                "code": "N901",
                "name": "odd-name",
                "severity": "error",
                "title": "a tensor has an odd name",
                "file": "a.safetensors",
                "subject": "a.weight",
                "expected": "b.weight",
                "found": "a: 100 %, odd",
                "count": 96,
                "engines": [str(engine) for engine in DEFAULT_ENGINES],
                "repair": "rename it",
                "command": "rename FILE",
                "stage": "fix_keys",
            }
        ],
    }


def check_sarif(value: dict[str, Any]) -> dict[str, Any]:
    """The one run of a log that holds to the schema."""
    value = json.loads(json.dumps(value))
    validator = jsonschema.Draft202012Validator(
        SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    validator.validate(value)
    (only,) = value["runs"]
    return only


def test_sarif_holds_to_its_schema(folder: Path) -> None:
    check_sarif(sarif([judge(folder, *KNOWN), on_hub(judge(folder, *KNOWN))]))
    check_sarif(sarif([judge(folder, *RULES)]))


def test_sarif_names_places_as_code_scanning_wants_them(folder: Path, tmp_path: Path) -> None:
    (result,) = check_sarif(sarif([judge(folder, odd_name)]))["results"]
    (location,) = result["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "a%20model/a.safetensors", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 1},
    }
    assert location["logicalLocations"] == [{"fullyQualifiedName": "a.weight"}]
    assert (result["ruleId"], result["level"]) == ("N901", "error")
    elsewhere = sound(tmp_path.parent / f"{tmp_path.name} elsewhere", config=llama())
    for report, uri in (
        (judge(elsewhere, odd_name), (elsewhere / "a.safetensors").as_uri()),
        (on_hub(judge(folder, odd_name)), "hf://owner/name@0123/a.safetensors"),
    ):
        (result,) = check_sarif(sarif([report]))["results"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": uri}


def test_sarif_fingerprints_stay_when_the_rest_changes(folder: Path) -> None:
    def prints(report: Report) -> list[dict[str, str]]:
        return [result["partialFingerprints"] for result in check_sarif(sarif([report]))["results"]]

    error, warning = prints(judge(folder, odd_file, odd_name))
    assert error != warning
    edit_json(folder / "config.json", lambda config: {**config, "transformers_version": "9"})
    later = judge(folder, odd_name, engines=tuple(parse_engine("vllm==0.19.1")))
    assert prints(later) == [error]


def test_sarif_refers_each_result_to_its_rule(folder: Path) -> None:
    only = check_sarif(sarif([judge(folder, odd_file), judge(folder, *KNOWN)]))
    rules = only["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["F902", "N901", "D903"]
    for result in only["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
