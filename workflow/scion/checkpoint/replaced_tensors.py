"""Other bytes for some tensors of a checkpoint, whose names, shapes and places stay."""

from collections.abc import Mapping
from pathlib import Path

from scion.checkpoint.shards import Checkpoint


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
