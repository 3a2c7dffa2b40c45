import re
from pathlib import Path

import pytest
from packaging.version import Version

from scion.common.errors import ScionError
from scion.engines.facts import MTP_FC_QUANTIZED, SGLANG_MTP_DROPPED
from scion.engines.registry.engines import DEFAULT_ENGINES, ENGINES, parse_engine, parse_engines
from scion.engines.releases import Affected, EngineRelease, affects
from scion.lint.config import Lint

PROJECT = Path(__file__).parents[2]


def test_the_pipeline_judges_for_the_releases_that_serve_in_it() -> None:
    judged = {str(engine) for engine in parse_engines(Lint().engines)}
    for name in ("serve-cpu", "serve-cuda"):
        pins = (PROJECT / f"envs/{name}/pyproject.toml").read_text()
        (release,) = re.findall(r'"vllm(?:-cpu)?==([\d.]+)"', pins)
        assert f"vllm {release}" in judged


def versions(text: str) -> list[str]:
    return [str(engine.version) for engine in parse_engine(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vllm", ["0.33.0"]),
        ("sglang", ["0.5.23"]),
        ("vllm==0.19.1", ["0.19.1"]),
        ("vLLM == 0.19.1", ["0.19.1"]),
        ("vllm>=0.19,<0.21", ["0.19.1", "0.20.0"]),
        ("vllm ~= 0.32.0", ["0.32.0"]),
        ("vllm!=0.33.0,>=0.32", ["0.32.0"]),
        ("TensorRT_LLM", ["1.0.0"]),
    ],
)
def test_named(text: str, expected: list[str]):
    assert versions(text) == expected


def test_all_known():
    assert versions("vllm>0") == list(ENGINES["vllm"].releases)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "this engine is not known"),
        ("ollama", "this engine is not known"),
        ("vllm0.33.0", "this engine is not known"),
        ("vllm==", "this is not a range of versions"),
        ("vllm 0.33", "this is not a range of versions"),
        ("vllm>=0.33,", ""),
        ("vllm==0.18.0", "no known release lies in this range"),
        ("vllm>1", "no known release lies in this range"),
    ],
)
def test_refused(text: str, problem: str):
    if not problem:
        assert versions(text) == ["0.33.0"]
        return
    with pytest.raises(ScionError, match=problem) as error:
        parse_engine(text)
    known = ENGINES if problem == "this engine is not known" else ENGINES["vllm"].releases
    assert all(one in error.value.expected for one in known)


def test_defaults():
    assert [str(engine) for engine in DEFAULT_ENGINES] == ["vllm 0.33.0", "sglang 0.5.23"]


def test_affects():
    [old] = parse_engine("vllm==0.19.1")
    assert affects("vllm<0.20", old)
    assert affects("vllm", old)
    assert not affects("vllm>=0.20", old)
    assert not affects("sglang", old)
    assert affects("vllm<0.20", EngineRelease("vllm", Version("0.20.0rc1"))) is False
    assert str(Affected.parse("vllm <0.29, >=0.20")) == "vllm <0.29,>=0.20"
    assert str(Affected.parse("sglang")) == "sglang"


def test_facts_name_the_engines_that_they_hold_for():
    engines = [parse_engine(text)[0] for text in ("vllm==0.19.1", "vllm", "sglang")]
    assert MTP_FC_QUANTIZED.among(engines) == ("vllm 0.19.1",)
    assert SGLANG_MTP_DROPPED.among(engines) == ("sglang 0.5.23",)
