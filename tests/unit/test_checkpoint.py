import json
from pathlib import Path

import pytest

from checkpoints import edit_json, tiny_config, write_checkpoint, write_safetensors
from scion.checkpoint.safetensors_file import read_header
from scion.checkpoint.shards import INDEX, Checkpoint, plan_shards
from scion.common.errors import ScionError
from scion.quantization.planned_shards import PlannedShards

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
EMBEDDING = "model.language_model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", tiny_config())


def refusal(folder: Path) -> ScionError:
    with pytest.raises(ScionError) as caught:
        Checkpoint.open(folder)
    return caught.value


def test_shards_and_index_are_one_mapping(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.tensor(EMBEDDING).shape == (48, 32)
    assert checkpoint.shard_of[EMBEDDING] == FIRST
    piece = checkpoint.piece(EMBEDDING)
    data = piece.path.read_bytes()[piece.offset : piece.offset + piece.tensor.size]
    assert len(data) == 48 * 32 * 2


def test_a_single_file_needs_no_index(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_safetensors(tmp_path / "model.safetensors", {"a": (1,)})
    assert Checkpoint.open(tmp_path).shapes() == {"a": (1,)}


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / SECOND).unlink()
    error = refusal(folder)
    assert (error.problem, error.expected) == ("the checkpoint lacks a shard", SECOND)
    assert error.found == FIRST


@pytest.mark.parametrize("shard", [FIRST, SECOND])
def test_an_index_entry_without_tensor_is_refused(folder: Path, shard: str) -> None:
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"ghost.weight": shard}))
    error = refusal(folder)
    assert "index names a tensor" in error.problem
    assert error.where.endswith(f"{INDEX}: ghost.weight")
    assert error.expected == f"in {shard}"


def test_a_tensor_that_the_index_puts_into_another_shard_is_refused(folder: Path) -> None:
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({EMBEDDING: SECOND}))
    assert refusal(folder).found == FIRST


def test_a_tensor_that_the_index_leaves_out_is_refused(folder: Path) -> None:
    def leave_out(index: dict) -> None:
        del index["weight_map"][EMBEDDING]

    edit_json(folder / INDEX, leave_out)
    assert "leaves out" in refusal(folder).problem


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    write_safetensors(folder / "model-extra.safetensors", {EMBEDDING: (48, 32)})
    edit_json(folder / INDEX, lambda index: index["weight_map"].update(x="model-extra.safetensors"))
    assert refusal(folder).problem == "a tensor stands in two shards"


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": "../up.safetensors"}}', "{"],
)
def test_an_index_that_says_nothing_usable_is_refused(folder: Path, content: str) -> None:
    (folder / INDEX).write_text(content)
    assert str(folder / INDEX) in refusal(folder).where


@pytest.mark.parametrize("content", [None, "{", "[]", "3"])
def test_a_config_that_is_no_object_is_refused(folder: Path, content: str | None) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    assert refusal(folder).where == str(folder / "config.json")


@pytest.mark.parametrize(
    ("max_bytes", "sizes"),
    [(100, [[10, 20, 30, 40]]), (60, [[10, 20, 30], [40]]), (35, [[10, 20], [30], [40]])],
)
def test_shards_are_closed_before_they_grow_past_the_limit(
    tmp_path: Path, max_bytes: int, sizes: list[list[int]]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    shapes = {f"t{size}": (size // 2,) for size in (10, 20, 30, 40)}
    write_safetensors(source / "model.safetensors", shapes)
    original = Checkpoint.open(source)
    target, work = tmp_path / "target", tmp_path / "work"
    target.mkdir()
    (target / "config.json").write_text("{}")
    plan = plan_shards((original.tensor(name) for name in shapes), max_bytes=max_bytes)
    shards = PlannedShards(work, plan, request="test")
    shards.copy("all", [original.piece(name) for name in shapes], lambda *_: None).result()
    shards.close()
    shards.link_into(target)
    names = list(plan)
    assert names == [
        f"model-{number:05}-of-{len(sizes):05}.safetensors" for number in range(1, len(sizes) + 1)
    ]
    headers = [read_header(target / name) for name in names]
    assert [[t.size for t in header.tensors.values()] for header in headers] == sizes
    assert json.loads((target / INDEX).read_bytes())["metadata"]["total_size"] == 100
    written = Checkpoint.open(target)
    for name in shapes:
        assert data_of(written, name) == data_of(original, name)


def data_of(checkpoint: Checkpoint, name: str) -> bytes:
    piece = checkpoint.piece(name)
    return piece.path.read_bytes()[piece.offset : piece.offset + piece.tensor.size]
