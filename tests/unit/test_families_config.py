"""Files of several releases: what they share, what each adds, and what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from scion.cli import main as cli
from scion.common.errors import ScionError
from scion.config import Config, load_configs, read_config, read_configs

FAMILY = {"name": "tiny", "title": "Tiny", "baseline": "a"}


def family(*releases: Any, **shared: Any) -> dict[str, Any]:
    return {"family": FAMILY, "releases": list(releases), **shared}


def test_each_release_has_what_is_shared_and_its_own() -> None:
    shared = {"recipe": "nvfp4_default", "device": "cpu"}
    first, second = load_configs(
        family(
            {"release": "a"},
            {"release": "b", "quantization": {"recipe": "four_over_six"}},
            quantization=shared,
        ),
        where="x.yaml",
    )
    assert [first.release, second.release] == ["a", "b"]
    assert [first.quantization.recipe, second.quantization.recipe] == [
        "nvfp4_default",
        "four_over_six",
    ]
    # Merged key by key.
    assert second.quantization.device == "cpu"
    assert first.family == second.family
    assert first.family is not None
    assert first.family.rounds == 2


def test_a_release_may_be_the_file_of_one(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("release: a\nbfcl: {max_tokens: 7}\n")
    listed = family(str(tmp_path / "one.yaml"), {"release": "b"}, bfcl={"max_tokens": 9})
    first, second = load_configs(listed, where="x.yaml")
    assert (first.bfcl.max_tokens, second.bfcl.max_tokens) == (7, 9)
    assert read_config(tmp_path / "one.yaml").family is None


def test_a_file_of_one_release_has_no_family() -> None:
    assert load_configs({"release": "a"}, where="x.yaml") == [Config(release="a")]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (family({"release": "a"}, {"release": "a"}), "two releases of a family have one name"),
        (family(), "a list of config files"),
        (family({"release": "a"}, 3), "releases.1"),
        (family({"release": "b"}), "family.baseline"),
        (family({"release": "a"}, {"release": "tiny"}), "another name than a release's"),
        ({"releases": [{"release": "a"}]}, "`family`, with name, title and baseline"),
        ({"release": "a", "family": FAMILY}, "the list of its releases"),
        (
            family({"release": "a"}, {"release": "b", "agent_tasks": {"cases": 3}}),
            "the same agent_tasks.cases for all",
        ),
        (family({"release": "a"}, {"release": "b", "recip": 1}), "releases.1"),
        (
            family({"release": "a"}, {"release": "b", "serving": {"cpu_threads": 2}}),
            "the same serving for all",
        ),
        (
            family({"release": "a"}, {"release": "b", "measurement": {"repeats": 9}}),
            "the same measurement.repeats for all",
        ),
        (
            family({"release": "a"}, {"release": "b", "store": ["elsewhere"]}),
            "the same store for all",
        ),
    ],
)
def test_what_can_not_be_made_in_one_run_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ScionError) as refused:
        load_configs(values, where="x.yaml")
    assert told in str(refused.value)
    assert "x.yaml" in str(refused.value)


def test_a_file_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("release: a\n")
    twice = [str(tmp_path / "one.yaml"), f"{tmp_path}/./one.yaml"]
    with pytest.raises(ScionError, match="names a release twice"):
        load_configs(family(*twice), where="x.yaml")


def test_a_command_for_one_release_names_those_of_a_family(tmp_path: Path) -> None:
    path = tmp_path / "family.yaml"
    path.write_text(json.dumps(family({"release": "a"}, {"release": "b"})))
    assert [each.release for each in read_configs(path)] == ["a", "b"]
    with pytest.raises(ScionError, match="several releases") as refused:
        read_config(path)
    assert "a, b" in str(refused.value)


def test_config_check_looks_at_every_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "family.yaml"
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(sys, "argv", ["scion", "config", "--check", str(path)])
    path.write_text(json.dumps(family({"release": "a"}, {"release": "b"})))
    assert cli.main() == 0
    assert capsys.readouterr().out == f"{path}: sound, 2 releases a, b\n"
    lost = family({"release": "a"}, {"release": "b", "quality": {"chats": "lost.jsonl"}})
    path.write_text(json.dumps(lost))
    assert cli.main() == 1
    assert "lost.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path",
    sorted(Path(__file__).parents[2].glob("config/families/*.yaml")),
    ids=lambda path: path.stem,
)
def test_the_project_s_families_are_sound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    configs = read_configs(path)
    assert len(configs) >= 2
    assert configs[0].family is not None
    assert configs[0].family.name == path.stem
