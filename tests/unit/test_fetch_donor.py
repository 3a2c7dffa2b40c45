from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoints import edit_json, tiny_config, write_checkpoint, write_tensors
from conversion import ENVIRONMENT, Conversion, Pico
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.folder_source import FolderSource
from scion.checkpoint.shards import INDEX, Checkpoint
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from scion.stages.fetch_donor import fetch_donor
from scion.stages.fetch_source import fetch_source


def fetch(folder: Path, output: Path) -> Artifact:
    return fetch_donor(location=str(folder), output=Output.at(output), environment=ENVIRONMENT)


def test_only_config_and_head_are_taken(conversion: Conversion, pico: Pico) -> None:
    donor = conversion.fetch_donor
    assert donor.files.keys() == {
        *("config.json", "model-mtp.safetensors", "tensors.json"),
        "kinship.json",
    }
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


def edit_shards(
    folder: Path, change: Callable[[dict[str, tuple[str, tuple[int, ...]]]], None]
) -> None:
    """Write the shards anew, of other names, dtypes or shapes; the index follows."""
    weight_map = {}
    for shard, header in Checkpoint.open(folder).headers.items():
        kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in header.tensors.items()}
        change(kinds)
        write_tensors(folder / shard, kinds)
        weight_map |= dict.fromkeys(kinds, shard)
    edit_json(folder / INDEX, lambda index: index.update(weight_map=weight_map))


def quantize(kinds: dict[str, tuple[str, tuple[int, ...]]], dtype: str, scale: str) -> None:
    for name, (_, shape) in list(kinds.items()):
        if name.startswith("mtp.layers.") and len(shape) == 2:
            kinds[name] = (dtype, shape)
            kinds[f"{name}{scale}"] = ("F8_E4M3" if dtype == "U8" else "BF16", (1, 1))


@pytest.mark.parametrize(
    ("dtype", "scale", "said"),
    [("F8_E4M3", "_scale_inv", "is FP8"), ("U8", "_scale", "is packed to 4 bits")],
)
def test_a_quantized_head_is_named_as_what_it_is(
    tmp_path: Path, dtype: str, scale: str, said: str
) -> None:
    folder = write_checkpoint(tmp_path / "donor", tiny_config())
    edit_shards(folder, lambda kinds: quantize(kinds, dtype, scale))
    with pytest.raises(ScionError, match=f"the donor's MTP head {said}") as caught:
        fetch(folder, tmp_path / "out")
    assert "bf16 original" in caught.value.hint


@pytest.mark.parametrize("prefix", ["model.", "model.language_model."])
def test_a_head_under_another_prefix_is_named(tmp_path: Path, prefix: str) -> None:
    folder = write_checkpoint(
        tmp_path / "donor",
        tiny_config(),
        rename=lambda name: f"{prefix}{name}" if name.startswith("mtp.") else name,
    )
    with pytest.raises(ScionError, match="stands under other names") as caught:
        fetch(folder, tmp_path / "out")
    assert f"15 such as {prefix}mtp." in caught.value.found


def test_a_head_in_another_dtype_or_shape_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "donor", tiny_config())

    def widen(kinds: dict[str, tuple[str, tuple[int, ...]]]) -> None:
        if "mtp.fc.weight" in kinds:
            kinds["mtp.fc.weight"] = ("F32", kinds["mtp.fc.weight"][1])

    edit_shards(folder, widen)
    with pytest.raises(ScionError, match="not what its config") as caught:
        fetch(folder, tmp_path / "out")
    assert (caught.value.expected[:4], caught.value.found[:3]) == ("BF16", "F32")


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "donor", tiny_config())

    def drop(kinds: dict[str, tuple[str, tuple[int, ...]]]) -> None:
        kinds.pop("mtp.norm.weight", None)

    edit_shards(folder, drop)
    with pytest.raises(ScionError, match="no whole MTP head") as caught:
        fetch(folder, tmp_path / "out")
    assert caught.value.found == "14 tensors without mtp.norm.weight"


def test_no_byte_of_a_head_is_read_that_the_store_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "donor", tiny_config())
    output = Output.at(tmp_path / "base")
    fetch_source(location=str(folder), output=output, environment=ENVIRONMENT, stage="fetch_base")
    checkpoint = Checkpoint.open(folder)
    read = list[tuple[str, int]]()
    stream = FolderSource.stream

    def noted(self: FolderSource, name: str, begin: int, size: int) -> Iterator[bytes]:
        read.append((name, begin))
        return stream(self, name, begin, size)

    monkeypatch.setattr(FolderSource, "stream", noted)
    head = fetch_donor(location=str(folder), output=output, environment=ENVIRONMENT).tensors()
    # Once, to write it, and not to hash it before.
    pieces = [checkpoint.piece(name) for name in head]
    begins = [(piece.path.name, piece.offset) for piece in pieces]
    assert sorted(place for place in read if place in begins) == sorted(begins)
    assert len(begins) == 15
