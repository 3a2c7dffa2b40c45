"""Where a release's head comes from: what the configuration asks, and what a source has."""

from pathlib import Path
from typing import Any

import pytest

from checkpoints import edit_json, tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Pico
from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.config import Mtp
from scion.checkpoint.own_head import OwnHead
from scion.checkpoint.parts_check import check_parts
from scion.checkpoint.preview import preview
from scion.checkpoint.shards import INDEX, Checkpoint
from scion.checkpoint.source_parts import LANGUAGE_MODEL, NO_PARTS, Kept, SourceParts, require_parts
from scion.common.errors import ScionError
from scion.config import Config, check_sources, load_config, read_config
from scion.stages.extract_text import extract_text
from scion.stages.fetch_source import fetch_source
from scion.stages.graft_mtp import graft_mtp

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


def graft(source: Artifact, folder: Path, head: OwnHead) -> Artifact:
    """What the stage makes, here of a language model that is not quantized."""
    text = extract_text(fixed=source, output=Output.at(folder / "text"), environment=ENVIRONMENT)
    text.manifest["facts"] |= {"recipe": {}, "scale_checksums": {}}
    return graft_mtp(
        quantized=text,
        fixed=source,
        donor=None,
        kept=Kept(tower=False, head=head),
        output=Output.at(folder / head),
        environment=ENVIRONMENT,
    )


def test_what_stays_of_a_source_is_what_is_asked_for(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    checkpoint = Checkpoint.open(folder)
    parts = SourceParts.of(checkpoint.shard_of, inventory(checkpoint.config, where=folder))
    assert all(name.startswith("mtp.") for name in parts.head)
    assert (len(parts.head), len(parts.tower) > 0) == (15, True)
    both = Kept(tower=True, head="kept")
    assert parts.kept(both) == {"mtp": parts.head, "vision": parts.tower}
    assert parts.kept(Kept(tower=False, head="kept")) == {"mtp": parts.head}
    assert parts.kept(Kept(tower=True, head="removed")) == {"vision": parts.tower}
    assert parts.kept(LANGUAGE_MODEL) == parts.kept(NO_PARTS) == {}
    layers = "mtp_num_hidden_layers"
    assert both.config(checkpoint.config) == checkpoint.config
    alone = LANGUAGE_MODEL.config(checkpoint.config)
    assert alone["text_config"][layers] == 0
    assert "vision_config" not in alone


def test_the_stage_takes_no_head_in_silence_and_keeps_none_that_is_not_whole(
    tmp_path: Path,
) -> None:
    whole = fixed(write_checkpoint(tmp_path / "whole/model", tiny_config()))
    with pytest.raises(ScionError, match=BOTH):
        graft(whole, tmp_path, "absent")
    lost = fixed(write_checkpoint(tmp_path / "lost/model", tiny_config(), mtp=False))
    with pytest.raises(ScionError, match=NO_HEAD):
        graft(lost, tmp_path, "kept")
    undeclared = fixed(
        write_checkpoint(tmp_path / "none/model", tiny_config(mtp_num_hidden_layers=0))
    )
    with pytest.raises(ScionError, match=NO_HEAD) as caught:
        graft(undeclared, tmp_path, "kept")
    assert caught.value.found == "none in config.json (dense Qwen3.5/3.6)"
    assert not any((tmp_path / head).exists() for head in ("absent", "kept"))
    assert graft(lost, tmp_path, "absent").facts["mtp_origin"] == "none"


def test_a_tower_that_is_not_there_is_not_kept(tmp_path: Path) -> None:
    config = tiny_config()
    folder = write_checkpoint(tmp_path / "model", config)
    names = [name for name in Checkpoint.open(folder).shard_of if ".visual." not in name]
    expected = inventory(config, where=folder)
    with pytest.raises(ScionError, match="no vision tower to keep") as caught:
        require_parts(Kept(tower=True, head="kept"), names, expected, where=folder)
    assert caught.value.found == "none of them, and a vision_config"
    # Under whatever prefix, as it is before its keys are repaired.
    broken = [f"model.{name}" for name in Checkpoint.open(folder).shard_of]
    require_parts(Kept(tower=True, head="kept"), broken, expected, where=folder)


def test_a_part_of_a_head_is_no_head(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())

    def leave_out(index: dict[str, Any]) -> None:
        del index["weight_map"]["mtp.fc.weight"]

    edit_json(folder / INDEX, leave_out)
    with pytest.raises(ScionError, match=NO_HEAD) as caught:
        check_parts({"source": preview(str(folder))}, Mtp(origin="source"), tower=False)
    assert caught.value.found == "14 of them, without mtp.fc.weight"
