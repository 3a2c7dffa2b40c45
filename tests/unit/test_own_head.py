"""Where a release's head comes from: what the configuration asks, and what a source has."""

from pathlib import Path
from typing import Any

import pytest

from checkpoints import edit_json, tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Pico
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.config import Mtp
from scion.checkpoint.head_check import check_head
from scion.checkpoint.own_head import OwnHead
from scion.checkpoint.preview import preview
from scion.checkpoint.shards import INDEX, Checkpoint
from scion.common.errors import ScionError
from scion.config import Config, check_sources, load_config, read_config
from scion.stages.extract_text import extract_text
from scion.stages.fetch_source import fetch_source

AGENT, BASE = "resources/pico/pico-agent", "resources/pico/pico-base"
BOTH = "the source has an MTP head of its own, and the release is to have another or none"
NO_HEAD = "the source has no whole MTP head to keep"
WITHOUT = {
    "launches": [{"name": "pico", "title": "t", "max_model_len": 64, "speculative_tokens": 0}],
    "measurement": {"speculative_tokens": [0]},
    "comparison": {"acceptance_prompts": None},
}


@pytest.fixture(autouse=True)
def project(pico: Pico, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of the configuration count from the project's folder."""
    monkeypatch.chdir(pico.folder.parents[1])


def config(origin: str, source: str | None = None, **values: Any) -> Config:
    """A configuration of the embedded pair, or of another source, with a head of that origin."""
    keys: dict[str, Any] = {"mtp": {"origin": origin}}
    keys |= {} if origin == "donor" else {"donor": None, "card": {"base": None}}
    keys |= WITHOUT if origin == "none" else {}
    keys |= {"source": source} if source else {}
    return Config.model_validate({**keys, **values})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"donor": None}, "donor: none is named, and mtp.origin is donor"),
        ({"mtp": {"origin": "source"}}, "resources/pico/pico-base is named, and mtp.origin is s"),
        ({"mtp": {"origin": "none"}}, "donor: resources/pico/pico-base is named, and mtp.origin"),
        (
            {"donor": None, "mtp": {"origin": "source", "replaces_own": True}},
            "mtp.replaces_own: mtp.origin is source, which keeps that head",
        ),
        ({"mtp": {"trusted_donor": "x"}}, "mtp.trusted_donor: x is not the donor"),
        ({"card": {"base": None}}, "card.base: null, and mtp.origin is donor"),
        ({"donor": None, "mtp": {"origin": "source"}}, "card.base: example/pico-base is named"),
        ({"donor": None, "mtp": {"origin": "none"}}, "launches.0.speculative_tokens: 3, and mtp"),
        ({"donor": None, "mtp": {"origin": "none"}}, "measurement.speculative_tokens: drafts are"),
        ({"donor": None, "mtp": {"origin": "none"}}, "comparison.acceptance_prompts: mtp.origin"),
        ({"mtp": {"origin": "base"}}, "mtp.origin"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ScionError) as caught:
        load_config(values, where="my.yaml")
    assert said in str(caught.value.found)


def test_a_head_of_each_origin_is_a_sound_configuration() -> None:
    assert check_sources(config("donor"), where="x", hub=False) == []
    assert check_sources(config("none"), where="x", hub=False) == []
    # A base that goes unnamed is no checkpoint of it.
    own = config("source", BASE)
    assert [key for key, _ in own.checkpoints()] == ["source", "quality.base"]
    assert check_sources(own, where="x", hub=False) == []


RELEASES = sorted((Path(__file__).parents[2] / "config/releases").glob("*.yaml"))


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: path.stem)
def test_a_release_of_the_project_is_sound_but_for_its_pins(path: Path) -> None:
    release = read_config(path)
    assert release.release == path.stem
    # Folders and files of this machine; a repository is pinned where the hub can be reached.
    assert check_sources(release, where=path, hub=False) == []


def refused_by_the_plan(config: Config) -> str:
    with pytest.raises(ScionError) as caught:
        check_sources(config, where="x", hub=False)
    return str(caught.value)


def test_the_plan_strips_no_source_of_its_own_head_in_silence() -> None:
    for origin in ("donor", "none"):
        error = refused_by_the_plan(config(origin, BASE))
        assert f"source: {BOTH}" in error
        assert "15 of the 15 tensors of its own" in error
        assert "mtp.origin: source" in error
        assert "mtp.replaces_own: true" in error
        mtp = {"origin": origin, "replaces_own": True}
        assert check_sources(config(origin, BASE, mtp=mtp), where="x", hub=False) == []


def test_the_plan_keeps_no_head_that_is_not_there() -> None:
    # It announces one in config.json, and holds none.
    error = refused_by_the_plan(config("source", AGENT))
    assert f"source: {NO_HEAD}" in error
    assert "0 of them, without mtp.fc.weight" in error


def fixed(folder: Path) -> Artifact:
    return fetch_source(
        location=str(folder), output=Output.at(folder.parent / "fixed"), environment=ENVIRONMENT
    )


def extract(source: Artifact, folder: Path, head: OwnHead) -> Artifact:
    return extract_text(
        fixed=source,
        output=Output.at(folder / head),
        text_only=True,
        head=head,
        environment=ENVIRONMENT,
    )


def test_a_head_is_kept_or_removed_as_it_is_asked(tmp_path: Path) -> None:
    source = fixed(write_checkpoint(tmp_path / "model", tiny_config()))
    kept, removed = (extract(source, tmp_path, head) for head in ("kept", "removed"))
    of_head = {name: row for name, row in source.tensors().items() if name.startswith("mtp.")}
    for name, row in of_head.items():
        assert kept.tensors()[name]["sha256"] == row["sha256"]
    assert kept.facts["mtp_tensors_kept"] == removed.facts["mtp_tensors_removed"] == len(of_head)
    assert kept.tensors().keys() - of_head == removed.tensors().keys()
    layers = "mtp_num_hidden_layers"
    assert Checkpoint.open(kept.folder).config["text_config"][layers] == 1
    assert Checkpoint.open(removed.folder).config["text_config"][layers] == 0


def test_the_stage_takes_no_head_in_silence_and_keeps_none_that_is_not_whole(
    tmp_path: Path,
) -> None:
    whole = fixed(write_checkpoint(tmp_path / "whole/model", tiny_config()))
    with pytest.raises(ScionError, match=BOTH):
        extract(whole, tmp_path, "absent")
    lost = fixed(write_checkpoint(tmp_path / "lost/model", tiny_config(), mtp=False))
    with pytest.raises(ScionError, match=NO_HEAD):
        extract(lost, tmp_path, "kept")
    undeclared = fixed(
        write_checkpoint(tmp_path / "none/model", tiny_config(mtp_num_hidden_layers=0))
    )
    with pytest.raises(ScionError, match=NO_HEAD) as caught:
        extract(undeclared, tmp_path, "kept")
    assert caught.value.found == "none in config.json (dense Qwen3.5/3.6)"
    assert not any((tmp_path / head).exists() for head in ("absent", "kept"))
    assert extract(lost, tmp_path, "absent").facts["mtp_tensors_removed"] == 0


def test_a_part_of_a_head_is_no_head(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())

    def leave_out(index: dict[str, Any]) -> None:
        del index["weight_map"]["mtp.fc.weight"]

    edit_json(folder / INDEX, leave_out)
    with pytest.raises(ScionError, match=NO_HEAD) as caught:
        check_head({"source": preview(str(folder))}, Mtp(origin="source"))
    assert caught.value.found == "14 of them, without mtp.fc.weight"
