import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import edit_json, tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Conversion, Pico
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.artifacts.store.sources import appearance
from scion.checkpoint.local_files import local_files
from scion.checkpoint.shards import INDEX
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from scion.stages.fetch_donor import fetch_donor
from scion.stages.fetch_source import fetch_source


def fetch(folder: Path, output: Path) -> Artifact:
    return fetch_source(location=str(folder), output=Output.at(output), environment=ENVIRONMENT)


def donor_of(folder: Path, output: Path) -> Artifact:
    return fetch_donor(location=str(folder), output=Output.at(output), environment=ENVIRONMENT)


def test_files_are_linked_and_every_tensor_is_hashed(conversion: Conversion, pico: Pico) -> None:
    source = conversion.fetch_source
    for name, entry in source.files.items():
        if name != "tensors.json":
            assert digest_file(pico.agent / name) == entry["sha256"]
            assert (source.folder / name).samefile(pico.agent / name)
    index = json.loads((pico.agent / "model.safetensors.index.json").read_bytes())
    assert source.tensors().keys() == index["weight_map"].keys()
    assert source.facts["bytes"] == index["metadata"]["total_size"]


def test_only_what_is_on_the_list_of_a_release_is_taken(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    taken = {"LICENSE", "NOTICE.txt", "tokenizer.json", "chat_template.jinja", "merges.txt"}
    left = {"README.md", "pytorch_model.bin", "optimizer.pt", "LICENSE.py", "LICENSE-key"}
    left |= {"tokenizer_evil.py", "tokenizer.pkl", "chat_template.py", "tokenizer.sh", "model.py"}
    left |= {"modeling_own.py", "tokenizer_config.json.pem", "my_processor_config.json"}
    for name in taken | left:
        (folder / name).write_text("{}")
    fetched = fetch(folder, tmp_path / "out").files.keys()
    assert taken | {"config.json"} <= fetched
    assert left.isdisjoint(fetched)


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json", "config.json", "README.md", INDEX])
@pytest.mark.parametrize("whole", [True, False], ids=["absolute", "relative"])
def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path, name: str, whole: bool) -> None:
    folder, secret = write_checkpoint(tmp_path / "model", tiny_config()), tmp_path / "id_ed25519"
    secret.write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret if whole else "../id_ed25519")
    for take in (fetch, donor_of):
        with pytest.raises(ScionError, match="a link leaves the checkpoint's folder") as caught:
            take(folder, tmp_path / "out")
        assert caught.value.where == str(folder / name)
    assert not any(path.samefile(secret) for path in (tmp_path / ".store").rglob("*"))


def test_an_index_names_nothing_but_safetensors(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config(), shards=1)
    (folder / "model-00001-of-00001.safetensors").rename(folder / "weights.py")
    text = (folder / INDEX).read_text().replace("model-00001-of-00001.safetensors", "weights.py")
    (folder / INDEX).write_text(text)
    with pytest.raises(ScionError, match="no usable weight_map"):
        fetch(folder, tmp_path / "out")


def test_links_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    cache = tmp_path / "models--owner--name"
    blobs, snapshot = write_checkpoint(cache / "blobs", tiny_config()), cache / "snapshots/0123"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(blobs.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    fetched = fetch(snapshot, tmp_path / "out")
    assert not any(path.is_symlink() for path in fetched.folder.iterdir())
    assert fetched.check() == []
    assert fetched.files.keys() >= {path.name for path in snapshot.iterdir()}


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    (folder / "terms.txt").write_text("terms")
    (folder / "LICENSE").symlink_to("terms.txt")
    assert "LICENSE" in fetch(folder, tmp_path / "out").files


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


def grow(shard: Path) -> None:
    with shard.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    "edit", [grow, lambda shard: shard.unlink(), lambda shard: os.utime(shard, (1, 1))]
)
def test_an_edit_since_the_plan_is_told_as_one(
    tmp_path: Path, edit: Callable[[Path], object]
) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config(), shards=1)
    output, looks = Output.at(tmp_path / "out"), appearance("fetch_source", local_files(folder))
    edit(folder / "model-00001-of-00001.safetensors")
    with pytest.raises(ScionError, match="files changed since the run was planned") as caught:
        fetch_source(
            location=str(folder), output=output, environment=ENVIRONMENT, planned=(looks, looks)
        )
    assert str(folder) in caught.value.where
    assert "run again" in caught.value.hint


def test_names_of_strangers_steer_no_terminal(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    evil = "model-\x1b[2J\n::error::forged.safetensors"
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"x": evil}))
    with pytest.raises(ScionError, match="lacks a shard") as caught:
        fetch(folder, tmp_path / "out")
    told = str(caught.value)
    assert "\x1b" not in told
    assert not any(line.lstrip().startswith("::") for line in told.splitlines())


def test_the_same_folder_gives_the_same_root(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    first = fetch(folder, tmp_path / "a")
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    assert fetch(folder, tmp_path / "b").root == first.root
