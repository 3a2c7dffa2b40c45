from pathlib import Path

import pytest

from checkpoints import edit_json, tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Conversion, Pico
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.shards import INDEX, Checkpoint
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from scion.stages.fetch_donor import fetch_donor


def fetch(folder: Path, output: Path) -> Artifact:
    return fetch_donor(location=str(folder), output=Output.at(output), environment=ENVIRONMENT)


def test_only_config_and_head_are_taken(conversion: Conversion, pico: Pico) -> None:
    donor = conversion.fetch_donor
    assert donor.files.keys() == {"config.json", "model-mtp.safetensors", "tensors.json"}
    base = Checkpoint.open(pico.base)
    wanted = {name for name in base.shard_of if name.startswith("mtp.")}
    assert donor.tensors().keys() == wanted
    assert len(wanted) == donor.facts["mtp_tensors"] == 15
    for name, row in donor.tensors().items():
        piece = base.piece(name)
        size = piece.tensor.size
        assert row["sha256"] == digest_file(piece.path, offset=piece.offset, size=size)


def test_shards_without_head_need_not_be_there(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "donor", tiny_config(), shards=4)
    whole = fetch(folder, tmp_path / "whole").tensors()
    edit_json(
        folder / INDEX, lambda index: index["weight_map"].update(x="model-absent.safetensors")
    )
    assert fetch(folder, tmp_path / "part").tensors() == whole


def test_a_single_file_is_read_without_index(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "donor", tiny_config(), shards=1)
    (folder / INDEX).unlink()
    (folder / "model-00001-of-00001.safetensors").rename(folder / "model.safetensors")
    assert len(fetch(folder, tmp_path / "out").tensors()) == 15


def test_a_head_with_one_tensor_missing_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "donor", tiny_config())

    def leave_out(index: dict) -> None:
        del index["weight_map"]["mtp.fc.weight"]

    edit_json(folder / INDEX, leave_out)
    with pytest.raises(ScionError, match="no whole MTP head") as caught:
        fetch(folder, tmp_path / "out")
    assert (caught.value.expected[:2], caught.value.found[:2]) == ("15", "14")
