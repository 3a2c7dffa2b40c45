"""What a new engine, a new release and a new architecture take, added from outside of the package.

`MADEUP` reads a key of its own, matches its list in its own way and builds one class.
"""

import json
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import loader_cases
from checkpoints import edit_json, tiny_config, write_checkpoint
from lint_checkpoints import llama, sound
from scion.architectures.families import FAMILIES, LLAMA
from scion.architectures.family import FUSED_ATTENTION, Fused, Head
from scion.cli.main import main
from scion.common.errors import ScionError
from scion.engines.config import Launch
from scion.engines.flag import Flag
from scion.engines.loading.class_build import ClassBuild, Layer
from scion.engines.loading.engine import Engine, Launcher, Matchers
from scion.engines.loading.exclusion import NOT_EXCLUDED, Verdict, by
from scion.engines.loading.scheme import (
    NotModelled,
    Refused,
    Scheme,
    SchemeProblem,
    mapping,
    names,
)
from scion.engines.registry.decisions import decisions, is_modelled, scheme_problems
from scion.engines.registry.engines import ENGINES, newest, parse_engine
from scion.engines.releases import Affected, EngineRelease
from scion.engines.served_model import ServedModel
from scion.engines.vllm.engine import VLLM

LAYER = "model.layers.0"
WHERE = "config.json: quantization_config"
ARCHITECTURES = (
    *("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForCausalLM", "Qwen3NextForCausalLM"),
    *("LlamaForCausalLM", "Qwen3MoeForCausalLM"),
)


def read(
    release: EngineRelease, config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[Scheme, list[SchemeProblem]]:
    declared = mapping(config.get("quantization_config"), where=WHERE, release=release)
    if declared.get("quant_method") != "modelopt":
        raise NotModelled(str(declared.get("quant_method")))
    if "quant_algo" not in declared:
        raise Refused(f"{WHERE}.quant_algo", f"{release} wants an algorithm")
    kept = names(declared.get("kept", []), where=f"{WHERE}.kept", release=release)
    return Scheme("modelopt", declared["quant_algo"], kept), []


class Endings:
    """An entry covers what ends with it, and a fused layer for one of its parts."""

    def __init__(self, entries: list[str], fused: Fused) -> None:
        self._entries, self._fused = entries, fused

    def verdict(self, layer: str) -> Verdict:
        above, _, last = layer.rpartition(".")
        parts = [f"{above}.{part}" for part in self._fused.get(last, ())]
        endings = (
            entry
            for entry in self._entries
            if any(name.endswith(entry) for name in (layer, *parts))
        )
        return next((by(entry, "ending") for entry in endings), NOT_EXCLUDED)


def matchers(release: EngineRelease, scheme: Scheme, fused: Fused) -> Matchers:
    return Matchers(Endings(list(scheme.exclude), fused))


def never_quantized(
    release: EngineRelease, build: ClassBuild, scheme: Scheme, layer: Layer
) -> str | None:
    return f"{release} has no quantized heads" if layer.kind == "head" else None


def flags(launch: Launch, model: ServedModel) -> list[Flag]:
    return [Flag(("--context", str(launch.max_model_len)), "context in tokens")]


MADEUP = Engine(
    name="madeup",
    title="Made-up",
    releases=("1.0", "1.1"),
    source="https://example.org/madeup/{version}",
    read=read,
    matchers=matchers,
    builds={
        "LlamaForCausalLM": ClassBuild(
            Affected.parse("madeup>=1.0"), fused=FUSED_ATTENTION, renames={"model.": "decoder."}
        )
    },
    never_quantized=never_quantized,
    launcher=Launcher("madeup run", flags),
)


@pytest.fixture(autouse=True)
def madeup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, MADEUP.name, MADEUP)


@pytest.fixture
def lint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `scion lint` in this process; its exit code, and what it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["scion", "lint", *map(str, arguments)])
        return main(), capsys.readouterr().out

    return run


Lint = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sound(tmp_path / "model", spelling="modelopt", config=llama())


def declare(folder: Path, **keys: Any) -> None:
    """Add keys to the declaration; None takes one away."""

    def change(config: dict[str, Any]) -> None:
        declared = config["quantization_config"] | keys
        config["quantization_config"] = {
            key: value for key, value in declared.items() if value is not None
        }

    edit_json(folder / "config.json", change)


def findings(report: str) -> list[dict[str, Any]]:
    [checkpoint] = json.loads(report)["checkpoints"]
    return checkpoint["findings"]


def test_a_range_names_its_releases_and_the_bare_name_the_newest() -> None:
    assert list(map(str, parse_engine("madeup>=1"))) == ["madeup 1.0", "madeup 1.1"]
    assert list(map(str, parse_engine("madeup"))) == ["madeup 1.1"]
    with pytest.raises(ScionError, match="no known release") as error:
        parse_engine("madeup==2")
    assert "1.0, 1.1" in error.value.expected


def test_every_module_is_decided_as_the_object_says() -> None:
    [engine] = parse_engine("madeup")
    declared = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kept": ["k_proj"]}
    # Another engine's key means nothing.
    declared["ignore"] = [f"{LAYER}.mlp.down_proj"]
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": declared}
    modules = [f"{LAYER}.self_attn.q_proj", f"{LAYER}.mlp.down_proj", "lm_head", "model.norm"]
    attention, mlp, head, norm = decisions(engine, config, None, modules).values()
    assert (attention.layer, attention.algorithm) == ("decoder.layers.0.self_attn.qkv_proj", None)
    assert "ending" in attention.reason
    assert (mlp.layer, mlp.algorithm) == ("decoder.layers.0.mlp.down_proj", "NVFP4")
    assert (head.algorithm, head.reason) == (None, "madeup 1.1 has no quantized heads")
    assert norm.algorithm is None
    # What its object does not know is not judged.
    assert not is_modelled(engine, {"architectures": ["Qwen3ForCausalLM"]})
    other = config | {"quantization_config": {"quant_method": "else"}}
    assert decisions(engine, other, None, modules) == {}
    assert scheme_problems(engine, other, None) == []


def test_lint_judges_for_it_and_its_findings_name_it(lint: Lint, folder: Path) -> None:
    both = ("--engine", "madeup>=1", "--engine", "vllm")
    status, text = lint(folder, *both)
    assert status == 0
    assert "judged for Made-up 1.0, 1.1, vLLM 0.33.0" in text

    declare(folder, kept=["q_proj"])
    status, text = lint(folder, *both)
    assert status == 1
    assert "engines:  in Made-up 1.0, 1.1\n" in text
    status, report = lint(folder, *both, "--format", "json")
    assert {finding["code"] for finding in findings(report)} == {"Q403"}
    for finding in findings(report):
        assert finding["engines"] == ["madeup 1.0", "madeup 1.1"]
        assert finding["subject"].endswith(("q_proj", "k_proj", "v_proj"))
        assert "'q_proj' (ending)" in finding["expected"]


def test_what_it_refuses_is_a_finding_with_its_words(lint: Lint, folder: Path) -> None:
    declare(folder, quant_algo=None)
    status, report = lint(folder, "--engine", "madeup", "--select", "Q407", "--format", "json")
    [finding] = findings(report)
    assert status == 1
    assert (finding["found"], finding["engines"]) == ("wants an algorithm", ["madeup 1.1"])
    [problem] = scheme_problems(
        newest("madeup"), json.loads((folder / "config.json").read_bytes()), None
    )
    assert problem.source == "https://example.org/madeup/1.1"


def test_a_launch_is_written_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config(max_position_embeddings=1024))
    monkeypatch.setattr(sys, "argv", ["scion", "launch", str(folder), "--engine", "madeup"])
    assert main() == 0
    said, errors = capsys.readouterr().out.split("scion lint finds errors in it: ")
    assert said == (
        f"madeup run {folder} \\\n    --context 1024\n\n"
        "--context 1024\n    context in tokens\n\n"
        "memory: not predicted for Made-up\n"
    )
    # The folder holds nothing but tensors and their config.json.
    assert "T601 tokenizer-missing" in errors


def test_a_release_is_one_more_string(
    monkeypatch: pytest.MonkeyPatch, lint: Lint, folder: Path
) -> None:
    monkeypatch.setitem(ENGINES, "madeup", replace(MADEUP, releases=(*MADEUP.releases, "1.2")))
    declare(folder, kept=["q_proj"])
    reports = [
        lint(folder, "--engine", f"madeup=={version}", "--format", "json")[1]
        for version in ("1.1", "1.2")
    ]
    assert findings(reports[0])
    assert reports[0].replace("madeup 1.1", "madeup 1.2") == reports[1]


def test_a_release_of_vllm_is_one_more_string(
    monkeypatch: pytest.MonkeyPatch, lint: Lint, folder: Path
) -> None:
    before, version = newest("vllm"), "99.0"
    monkeypatch.setitem(ENGINES, "vllm", replace(VLLM, releases=(*VLLM.releases, version)))
    [release] = parse_engine(f"vllm=={version}")
    assert newest("vllm") == release != before

    declare(folder, ignore=["lm_head", f"{LAYER}.self_attn.q_proj", "*down_proj*"])
    reports = [
        lint(folder, "--engine", f"vllm=={engine.version}", "--format", "json")
        for engine in (before, release)
    ]
    assert reports[0][0] == reports[1][0] == 1
    assert {finding["code"] for finding in findings(reports[1][1])} >= {"Q402", "Q403"}
    assert reports[0][1].replace(str(before), str(release)) == reports[1][1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["modelopt", "mixed", "fp8", "compressed"])
def test_a_new_vllm_decides_as_the_one_before(
    monkeypatch: pytest.MonkeyPatch, kind: str, architecture: str
) -> None:
    before = newest("vllm")
    monkeypatch.setitem(ENGINES, "vllm", replace(VLLM, releases=(*VLLM.releases, "99.0")))
    [release] = parse_engine("vllm==99")
    random_ = random.Random(kind)
    algorithms = set[str | None]()
    for case in loader_cases.cases(architecture, lists=20, seed=7, modules=40):
        declared = getattr(loader_cases, kind)(case, random_)
        config = {"architectures": [architecture], "quantization_config": declared}
        old = decisions(before, config, None, case.modules)
        new = decisions(release, config, None, case.modules)
        assert repr(old).replace(str(before), str(release)) == repr(new)
        algorithms |= {decision.algorithm for decision in new.values()}
    assert len(algorithms) > 1


def test_a_class_that_no_engine_names_is_built_as_its_row_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = replace(
        LLAMA,
        model_type="invented",
        architecture="InventedForCausalLM",
        head=Head("draft.", "draft_layers"),
        plain_engines=("vllm>=0.27", "tensorrt-llm"),
    )
    declared: dict[str, Any] = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": []}
    config = {"architectures": ["InventedForCausalLM"], "quantization_config": declared}
    for engine in ("vllm", "sglang", "tensorrt-llm"):
        assert not is_modelled(newest(engine), config)
    monkeypatch.setitem(FAMILIES, row.model_type, row)
    known = [engine for text in ("vllm>0", "sglang") for engine in parse_engine(text)]
    assert [str(engine) for engine in known if is_modelled(engine, config)] == [
        f"vllm {version}" for version in VLLM.releases[VLLM.releases.index("0.27.0") :]
    ]
    assert is_modelled(newest("tensorrt-llm"), config)
    module = "draft.layers.0.self_attn.k_proj"
    [decision] = decisions(newest("vllm"), config, None, [module]).values()
    assert (decision.layer, decision.algorithm) == ("draft.layers.0.self_attn.qkv_proj", "NVFP4")
    declared["ignore"] = [module]
    [decision] = decisions(newest("vllm"), config, None, [module]).values()
    assert "only k_proj is excluded" in str(decision.problem)
