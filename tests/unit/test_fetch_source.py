import json
import shutil
from pathlib import Path

from checkpoints import tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Conversion, Pico
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.common.digest import digest_file
from scion.stages.fetch_source import fetch_source


def fetch(folder: Path, output: Path) -> Artifact:
    return fetch_source(location=str(folder), output=Output.at(output), environment=ENVIRONMENT)


def test_files_are_linked_and_every_tensor_is_hashed(conversion: Conversion, pico: Pico) -> None:
    source = conversion.fetch_source
    for name, entry in source.files.items():
        if name != "tensors.json":
            assert digest_file(pico.agent / name) == entry["sha256"]
            assert (source.folder / name).samefile(pico.agent / name)
    index = json.loads((pico.agent / "model.safetensors.index.json").read_bytes())
    assert source.tensors().keys() == index["weight_map"].keys()
    assert source.facts["bytes"] == index["metadata"]["total_size"]


def test_what_a_release_cannot_use_stays_behind(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    for name in ("README.md", "pytorch_model.bin", "optimizer.pt", "LICENSE", "tokenizer.json"):
        (folder / name).touch()
    fetched = fetch(folder, tmp_path / "out").files.keys()
    assert {"LICENSE", "tokenizer.json", "config.json"} <= fetched
    assert {"README.md", "pytorch_model.bin", "optimizer.pt"}.isdisjoint(fetched)


def test_links_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "blobs", tiny_config())
    (tmp_path / "snapshot").mkdir()
    for path in folder.iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    fetched = fetch(tmp_path / "snapshot", tmp_path / "out")
    assert not any(path.is_symlink() for path in fetched.folder.iterdir())
    assert fetched.check() == []


def test_a_folder_that_has_changed_is_fetched_again(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config(), shards=1)
    first = fetch(folder, tmp_path / "out")
    shard = folder / "model-00001-of-00001.safetensors"
    changed = bytearray(shard.read_bytes())
    changed[-1] ^= 1
    shard.unlink()
    shard.write_bytes(changed)
    second = fetch(folder, tmp_path / "out")
    assert second.root != first.root
    assert digest_file(second.folder / shard.name) == digest_file(shard)


def test_the_same_folder_gives_the_same_root(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    first = fetch(folder, tmp_path / "a")
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    assert fetch(folder, tmp_path / "b").root == first.root
