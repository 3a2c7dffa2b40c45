"""A safetensors file in which tensors have other names and shapes, and single numbers other values.

The header becomes longer or shorter, and the data behind it moves as a whole. It moves by whole
blocks of the file system, which can then share them between both files: a header is padded until
its end lies as far behind a block's as the old one's did. So bytes are copied only where the file
system can't share them, by the kernel, and a file that is given its old names back is the old file.
"""

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from scion.checkpoint.safetensors_file import Tensor, encode_header, read_header
from scion.common.files import copy_range

# Of ext4, XFS and btrfs, unless somebody has asked for another.
_BLOCK = 4096


def copy_relabelled(
    source: Path, target: Path, labels: Mapping[str, Tensor], numbers: Mapping[str, float]
) -> None:
    """Copy a file under another header.

    Args:
        source: The file to copy.
        target: The file to make.
        labels: By old name, a tensor with its new name and shape, of the same size; tensors that
            are not named stay as they are.
        numbers: By old name, what a float32 tensor of one element holds in the copy.
    """
    header = read_header(source)
    tensors = {
        old: replace(tensor, name=labels[old].name, shape=labels[old].shape)
        if old in labels
        else tensor
        for old, tensor in header.tensors.items()
    }
    shortest = len(encode_header(tensors.values(), header.metadata))
    start = shortest + (header.data_start - shortest) % _BLOCK
    raw = encode_header(tensors.values(), header.metadata, length=start)
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(raw)
        position, end = header.data_start, source.stat().st_size
        # Blocks are shared whole, so what stands before the first is copied apart.
        for stop in (min(-(-position // _BLOCK) * _BLOCK, end), end):
            copy_range(reader, writer, offset=position, size=stop - position)
            position = stop
        for old, number in numbers.items():
            writer.seek(start + tensors[old].begin)
            writer.write(struct.pack("<f", number))
