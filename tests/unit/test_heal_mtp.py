"""heal_mtp: a release with another head, its proof, and `scion check` of altered ones."""

import json
from pathlib import Path
from typing import Any

import pytest

import measured
from checkpoints import edit_tensor
from conversion import ENVIRONMENT, Conversion, Pico, copied
from healing import QUICK, replies_artifact, short_texts, spoil
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.artifacts.release_layout import RELEASE, TENSORS, table_file
from scion.artifacts.store.store import Store
from scion.checkpoint.replaced_tensors import replace_tensors
from scion.checkpoint.shards import CONFIG, INDEX
from scion.common.errors import ScionError
from scion.lint.config import Lint
from scion.stages.graft_mtp import graft_mtp
from scion.stages.heal_mtp import heal_mtp
from scion.stages.verify_release import verify_release
from sealed import by_stage, sealed
from shared import made_once
from tampering import HEAD, SHARD, Change, both, in_json, in_manifest, told, told_of_altered

Made = dict[str, Artifact]
NORM = "model.language_model.layers.0.input_layernorm.weight"
FC = "mtp.fc.weight"


@pytest.fixture(scope="module")
def made(conversion: Conversion, pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """All stages of a release whose head was trained."""

    def make(folder: Path) -> None:
        grafted = conversion.graft_mtp
        replies = replies_artifact(grafted, short_texts(pico), folder / "sample_replies")
        with pytest.MonkeyPatch.context() as patch:
            spoil(patch)
            healed = healed_of(grafted, replies, folder / "heal_mtp")
        verify(conversion, healed, folder / "verify_release")

    folder = made_once(tmp_path_factory, "healed", make)
    store = Store.open([str(folder / ".store")])
    healing = {path.stem: store.open_pointer(path) for path in folder.glob("*.json")}
    return {**by_stage(conversion), **healing}


def flip(raw: bytearray) -> None:
    raw[0] ^= 1


def healed_of(release: Artifact, replies: Artifact, folder: Path) -> Artifact:
    return heal_mtp(
        release=release,
        replies=replies,
        training=QUICK,
        output=Output.at(folder),
        environment=ENVIRONMENT,
    )


def verify(conversion: Conversion, release: Artifact, folder: Path) -> Artifact:
    return verify_release(
        release=release,
        fixed=conversion.fix_keys,
        donor=conversion.fetch_donor,
        output=Output.at(folder),
        settings=Lint(),
        environment=ENVIRONMENT,
    )


@pytest.fixture(scope="module")
def release(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as a sealed release."""

    def make(folder: Path) -> None:
        sealed(made, folder, measured.results())

    return made_once(tmp_path_factory, "healed-sealed", make) / RELEASE


def test_the_head_alone_is_another(made: Made) -> None:
    before, after = made["graft_mtp"], made["heal_mtp"]
    assert after.check() == []
    assert {name for name in after.files if after.files[name] != before.files[name]} == {
        HEAD,
        TENSORS,
    }
    for name in (SHARD, CONFIG, INDEX):
        assert (after.folder / name).stat().st_ino == (before.folder / name).stat().st_ino
    for name, row in after.tensors().items():
        old = before.tensors()[name]
        assert {**row, "sha256": "", "origin": ""} == {**old, "sha256": "", "origin": ""}
        if name.startswith("mtp."):
            # A trained tensor names what training began with.
            assert row["origin"] == {"from": "trained", "sha256": old["sha256"]}
            assert row["sha256"] != old["sha256"]
        else:
            assert row == old
    healing = after.facts["healing"]
    assert healing["healed"]
    assert healing["after"]["tokens"] > healing["before"]["tokens"]
    origins = {"greedy": 0, "sampled": 0, "given": 10}
    assert healing["texts"] == {**origins, "learned": 8, "held_out": 2}
    assert {**after.facts, "healing": 0} == {**before.facts, "healing": 0}


def test_verification_tells_trained_from_unchanged(made: Made, conversion: Conversion) -> None:
    facts, before = made["verify_release"].facts, conversion.verify_release.facts
    assert (facts["trained_tensors"], before["trained_tensors"]) == (15, 0)
    assert facts["unchanged_tensors"] == before["unchanged_tensors"] - 15


def test_verification_finds_a_body_that_is_another(
    made: Made, conversion: Conversion, tmp_path: Path
) -> None:
    altered = copied(made["heal_mtp"], tmp_path / "copy")
    edit_tensor(altered.folder, NORM, flip)
    with pytest.raises(ScionError, match="not its original") as caught:
        verify(conversion, altered, tmp_path / "verify_release")
    assert NORM in caught.value.where


def test_a_tensor_of_the_body_is_never_called_trained(
    made: Made, conversion: Conversion, tmp_path: Path
) -> None:
    altered = copied(made["heal_mtp"], tmp_path / "copy")
    table = json.loads((altered.folder / TENSORS).read_text())
    table[NORM]["origin"]["from"] = "trained"
    (altered.folder / TENSORS).write_text(json.dumps(table))
    with pytest.raises(ScionError, match="said to be trained, and can't be"):
        verify(conversion, altered, tmp_path / "verify_release")


def test_a_head_that_training_made_worse_stays(
    made: Made, conversion: Conversion, pico: Pico, tmp_path: Path
) -> None:
    grafted = conversion.graft_mtp
    replies = replies_artifact(grafted, short_texts(pico), tmp_path / "sample_replies")
    worse = QUICK.model_copy(update={"learning_rate": 0.5, "steps": 2})
    kept = heal_mtp(
        release=grafted,
        replies=replies,
        training=worse,
        output=Output.at(tmp_path / "heal_mtp"),
        environment=ENVIRONMENT,
    )
    assert kept.files == grafted.files
    assert kept.tensors() == grafted.tensors()
    assert not kept.facts["healing"]["healed"]


def test_a_release_without_a_head_is_refused(
    conversion: Conversion, pico: Pico, tmp_path: Path
) -> None:
    bare = graft_mtp(
        quantized=conversion.quantize_nvfp4,
        fixed=conversion.fix_keys,
        donor=None,
        output=Output.at(tmp_path / "graft_mtp"),
        environment=ENVIRONMENT,
    )
    replies = replies_artifact(bare, [], tmp_path / "sample_replies")
    with pytest.raises(ScionError, match="no MTP head to heal"):
        healed_of(bare, replies, tmp_path / "heal_mtp")


def test_bytes_replace_those_of_their_own_size_alone(made: Made, tmp_path: Path) -> None:
    folder = copied(made["graft_mtp"], tmp_path / "copy").folder
    before = (folder / HEAD).read_bytes()
    with pytest.raises(ValueError, match=r"mtp\.norm\.weight has 384 bytes, not 2"):
        replace_tensors(folder, {FC: bytes(147_456), "mtp.norm.weight": b"xx"})
    assert (folder / HEAD).read_bytes() == before


# What `scion check` says of a release


def test_a_healed_release_is_sound(release: Path) -> None:
    assert told(release) == []
    assert table_file("graft_mtp") in json.loads((release / "manifest.json").read_text())["files"]
    # The tokens that the head has learned from are part of the proof.
    assert (release / "provenance/results/replies.jsonl").is_file()
    card = " ".join((release / "README.md").read_text().split())
    assert "It was trained on this release's own body, with 8 texts (0 greedy and 0 sampled" in card
    assert "the 15 tensors of the MTP head trained; `scion check`" in card


def in_table(change: Any) -> Change:
    return in_json(TENSORS, change)


ALTERED: dict[str, tuple[Change, str]] = {
    "a norm of the body, said to be trained": (
        both(
            lambda folder: edit_tensor(folder, NORM, flip),
            in_table(lambda rows: rows[NORM]["origin"].update({"from": "trained"})),
        ),
        NORM,
    ),
    "a head that is said to be the donor's": (
        in_table(lambda rows: rows[FC]["origin"].update({"from": "donor"})),
        FC,
    ),
    "healing that left nothing behind": (
        in_manifest("heal_mtp", lambda made: made["made_from"].pop("replies")),
        "replies",
    ),
    "no table of what training began with": (
        in_manifest("graft_mtp", lambda made: made["files"].pop(TENSORS)),
        table_file("graft_mtp"),
    ),
    "training that is said to have changed nothing": (
        in_manifest("heal_mtp", lambda made: made["facts"]["healing"].update(healed=False)),
        "fact healing",
    ),
    "a verification that saw less": (
        in_manifest("verify_release", lambda made: made["facts"].update(trained_tensors=0)),
        "fact trained_tensors",
    ),
    "another config.json than training was given": (
        in_json(CONFIG, lambda config: config.update(more=1)),
        CONFIG,
    ),
    "another donor by its facts": (
        in_manifest("heal_mtp", lambda made: made["facts"].update(donor="elsewhere")),
        "fact donor",
    ),
    "measured before it was healed": (
        in_manifest(
            "run_agent_tasks", lambda made: made["made_from"]["release"].update(stage="graft_mtp")
        ),
        "run_agent_tasks",
    ),
}


@pytest.mark.parametrize("name", ALTERED)
def test_altered_releases_are_found_although_all_digests_are_written_anew(
    release: Path, tmp_path: Path, name: str
) -> None:
    change, words = ALTERED[name]
    lines = told_of_altered(release, tmp_path / "release", change)
    assert any(words in line for line in lines), lines
