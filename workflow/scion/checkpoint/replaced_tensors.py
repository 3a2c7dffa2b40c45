"""Other bytes for tensors of a checkpoint: in their places, or others in place of some."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from scion.checkpoint.safetensors_file import Tensor, encode_header, packed, read_header
from scion.checkpoint.shards import Checkpoint
from scion.common.files import copy_file, copy_range


def copy_with(source: Path, folder: Path, tensors: Mapping[str, bytes]) -> None:
    """Complete a checkpoint by those shards of another that get other tensors.

    Args:
        source: The other.
        folder: Has its index and all other shards already.
        tensors: As for `replace_tensors`.
    """
    shard_of = Checkpoint.open(source).shard_of
    for shard in {shard_of[name] for name in tensors}:
        copy_file(source / shard, folder / shard)
        (folder / shard).chmod(0o644)
    replace_tensors(folder, tensors)


def replace_tensors(folder: Path, tensors: Mapping[str, bytes]) -> None:
    """Write tensors over those that a checkpoint has under their names.

    Args:
        folder: The checkpoint; the shards of these tensors are no one else's, for they are edited.
        tensors: The raw bytes by name.

    Raises:
        ValueError: One has another size there; nothing is written.
    """
    checkpoint = Checkpoint.open(folder)
    pieces = {name: checkpoint.piece(name) for name in tensors}
    for name, raw in tensors.items():
        if len(raw) != pieces[name].tensor.size:
            raise ValueError(f"{name} has {pieces[name].tensor.size} bytes, not {len(raw)}")
    for name, raw in tensors.items():
        with pieces[name].path.open("r+b") as file:
            file.seek(pieces[name].offset)
            file.write(raw)


def copy_replacing(
    source: Path, target: Path, tensors: Mapping[str, Sequence[tuple[Tensor, bytes]]]
) -> None:
    """Copy a safetensors file in which some tensors give way to others.

    They lie in the order of the source's data, but single numbers, the scales, first.

    Args:
        source: The file to copy.
        target: The file to make.
        tensors: By the name of a tensor of the source, what stands in its place: each with its raw
            bytes; `begin` is of no account, `end` less that the number of bytes.
    """
    header = read_header(source)
    old = sorted(header.tensors.values(), key=lambda tensor: tensor.begin)
    kept = {tensor.name: [(tensor, None)] for tensor in old if tensor.name not in tensors}
    parts = [part for tensor in old for part in (kept.get(tensor.name) or tensors[tensor.name])]
    parts.sort(key=lambda part: math.prod(part[0].shape) > 1)
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(encode_header(packed(tensor for tensor, _ in parts), header.metadata))
        for tensor, raw in parts:
            if raw is not None:
                writer.write(raw)
            else:
                offset = header.data_start + tensor.begin
                copy_range(reader, writer, offset=offset, size=tensor.size)
