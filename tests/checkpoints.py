"""Checkpoints made by hand, sound or broken, and what is left of folders afterwards."""

import hashlib
import json
import math
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scion.architectures.inventory import inventory
from scion.checkpoint.safetensors_file import DTYPE_BITS
from scion.checkpoint.shards import INDEX, Checkpoint

# A family member of a few kilobytes: one delta-net and one attention layer, tower, MTP head.
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "vocab_size": 48,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "mtp_num_hidden_layers": 1,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "depth": 1,
    "in_channels": 3,
    "patch_size": 2,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 4,
    "out_hidden_size": 32,
}


def tiny_config(**text: Any) -> dict[str, Any]:
    """config.json of the tiny family member, with changes to its text_config."""
    return {"model_type": "qwen3_5", "text_config": {**TEXT, **text}, "vision_config": VISION}


def header_bytes(header: Any) -> bytes:
    """A safetensors header with its length; `header` is bytes, or anything that JSON can say."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], *, dtype: str = "BF16", sparse: bool = False
) -> None:
    """Write tensors of one dtype; see `write_tensors`."""
    write_tensors(path, {name: (dtype, shape) for name, shape in shapes.items()}, sparse=sparse)


def write_tensors(
    path: Path, kinds: Mapping[str, tuple[str, tuple[int, ...]]], *, sparse: bool = False
) -> None:
    """Write tensors end to end; random bytes that follow from the name, or a hole in the file."""
    entries, position = dict[str, Any](), 0
    for name, (dtype, shape) in kinds.items():
        end = position + math.prod(shape) * DTYPE_BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    with path.open("wb") as file:
        file.write(header_bytes(entries))
        if sparse:
            file.truncate(file.tell() + position)
            return
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            file.write(random.Random(name).randbytes(end - begin))


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    *,
    shards: int = 2,
    mtp: bool = True,
    rename: Callable[[str], str] = lambda name: name,
    sparse: bool = False,
) -> Path:
    """Write the checkpoint that a config.json implies, its tensors dealt out to numbered shards."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    expected = inventory(config, where=folder)
    shapes = {**expected.language, **expected.vision, **(expected.mtp if mtp else {})}
    names = list(shapes)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        shard = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {rename(name): shapes[name] for name in names[number::shards]}
        write_safetensors(folder / shard, part, sparse=sparse)
        weight_map |= dict.fromkeys(part, shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file; `change` alters the value in place, or returns another."""
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps(change(value) or value))


def edit_tensor(folder: Path, name: str, change: Callable[[bytearray], object]) -> None:
    """Alter a tensor's bytes where they lie, in a folder that shares no file with another."""
    checkpoint = Checkpoint.open(folder)
    piece = checkpoint.piece(name)
    with piece.path.open("r+b") as file:
        file.seek(piece.offset)
        data = bytearray(file.read(piece.tensor.size))
        change(data)
        file.seek(piece.offset)
        file.write(data)


def snapshot(folder: Path) -> dict[str, str]:
    """SHA-256 by path of every file below a folder; empty where there is none."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def half_made(folder: Path) -> list[str]:
    """Hidden files and what is in the store's `work`: what a stage that stopped has left."""
    hidden = (
        path
        for path in folder.rglob(".*")
        # Half a line of what is known of a file is nothing that anyone reads; Snakemake dates
        # folders that rules declare.
        if path.name not in (".store", ".pointers", ".snakemake_timestamp")
        and path.parent.name != "known"
    )
    work = folder.glob(".store/work/*")
    return sorted(str(path.relative_to(folder)) for path in (*hidden, *work))
