"""Other bytes for some tensors of a checkpoint, whose names, shapes and places stay."""

from collections.abc import Mapping
from pathlib import Path

from scion.checkpoint.shards import Checkpoint
from scion.common.files import copy_file


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
