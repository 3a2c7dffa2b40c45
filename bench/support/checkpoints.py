"""Generate a checkpoint of the Qwen3.5 family of any size, broken as some exports break it.

Surgery costs what its bytes cost, so a benchmark needs the real layout, the real number of files
and many distinct bytes, but no trained weights. The shapes are those of a four-billion-parameter
model of the family with a smaller vocabulary and as many layers as fit. As in the checkpoints
that Scion repairs, every key carries `language_model.` three times and the MTP head is missing; a
donor beside it has one. The vision tower is dealt out over the shards, so that stripping it is as
much work as it can be.

    python bench/support/checkpoints.py FOLDER --gigabytes 4

writes FOLDER/source and FOLDER/donor. The content depends on the size alone.
"""

import argparse
import hashlib
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scion.architectures.inventory import Shape, inventory
from scion.checkpoint.safetensors_file import Tensor, encode_header
from scion.checkpoint.shards import SINGLE, index_headers, shard_name
from scion.common.files import write_json

PREFIX = "language_model." * 3
SHARDS = 15
_BLOCK = 4 << 20
# The high byte of a bf16 number: its sign is kept, its exponent is set so that no weight is NaN.
_SMALL = bytes(high & 0x80 | 0x3C for high in range(256))


def generate(folder: Path, *, gigabytes: float) -> None:
    """Write `folder/source` and `folder/donor`.

    Args:
        folder: Made if it is not there.
        gigabytes: About the size of the source, in units of 10^9 bytes; 1 or more.
    """
    config = config_of(gigabytes)
    expected = inventory(config, where="the generated config.json")
    source, donor = folder / "source", folder / "donor"
    source.mkdir(parents=True)
    donor.mkdir()
    write_json(source / "config.json", config)
    write_json(donor / "config.json", config)
    write_json(source / "preprocessor_config.json", {"patch_size": 16})
    sound = _dealt(expected.vision, expected.language)
    groups = list(_grouped({PREFIX + name: shape for name, shape in sound.items()}))
    names = [shard_name(number, len(groups)) for number in range(1, len(groups) + 1)]
    for name, group in zip(names, groups, strict=True):
        print(f"generating {name} of {gigabytes:g} GB", file=sys.stderr)
        _write(source / name, group)
    index_headers(source, names)
    _write(donor / SINGLE, expected.mtp)


def config_of(gigabytes: float) -> dict[str, Any]:
    """A config.json with as many groups of four layers as come nearest to that size."""

    def config(layers: int) -> dict[str, Any]:
        return {
            "architectures": ["Qwen3_5ForConditionalGeneration"],
            "dtype": "bfloat16",
            "model_type": "qwen3_5",
            "tie_word_embeddings": False,
            "text_config": {**_TEXT, "num_hidden_layers": layers},
            "vision_config": _VISION,
        }

    def distance(layers: int) -> float:
        expected = inventory(config(layers), where="the generated config.json")
        shapes = {**expected.language, **expected.vision}
        return abs(sum(map(_size, shapes.values())) - gigabytes * 1e9)

    return config(min(range(4, 401, 4), key=distance))


_TEXT = {
    "model_type": "qwen3_5_text",
    "dtype": "bfloat16",
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_size": 2560,
    "intermediate_size": 9216,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "mtp_num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 16384,
}
_VISION = {
    "model_type": "qwen3_5_vision",
    "depth": 12,
    "hidden_size": 384,
    "in_channels": 3,
    "intermediate_size": 1536,
    "num_heads": 6,
    "num_position_embeddings": 2304,
    "out_hidden_size": 2560,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def _size(shape: Shape) -> int:
    size = 2
    for length in shape:
        size *= length
    return size


def _dealt(*groups: Mapping[str, Shape]) -> dict[str, Shape]:
    """The tensors of all groups, each group in its order and spread evenly over the whole."""
    placed = [
        ((number + 0.5) / len(group), name, shape)
        for group in groups
        for number, (name, shape) in enumerate(group.items())
    ]
    return {name: shape for _, name, shape in sorted(placed)}


def _grouped(shapes: Mapping[str, Shape]) -> Iterator[dict[str, Shape]]:
    """The tensors in order, in `SHARDS` groups of about equal bytes."""
    total = sum(map(_size, shapes.values()))
    group: dict[str, Shape] = {}
    position, number = 0, 1
    for name, shape in shapes.items():
        if group and position + _size(shape) / 2 > total * number / SHARDS:
            yield group
            group, number = {}, number + 1
        group[name] = shape
        position += _size(shape)
    yield group


def _write(path: Path, shapes: Mapping[str, Shape]) -> None:
    position, tensors = 0, list[Tensor]()
    for name, shape in shapes.items():
        tensors.append(Tensor(name, "BF16", shape, position, position + _size(shape)))
        position = tensors[-1].end
    block = memoryview(_bf16(random.Random(path.name).randbytes(_BLOCK)))
    with path.open("wb") as file:
        file.write(encode_header(tensors, {"format": "pt"}))
        for tensor in tensors:
            left = tensor.size
            # A stamp of its own makes a tensor differ from all others of its shape.
            stamp = _bf16(hashlib.sha256(tensor.name.encode()).digest())
            left -= file.write(stamp[:left])
            while left:
                left -= file.write(block[: min(left, _BLOCK)])


def _bf16(raw: bytes) -> bytes:
    numbers = bytearray(raw)
    numbers[1::2] = numbers[1::2].translate(_SMALL)
    return bytes(numbers)


def main() -> int:
    """Parse arguments and generate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to write source/ and donor/")
    parser.add_argument("--gigabytes", type=float, default=4, help="size of the source (4)")
    args = parser.parse_args()
    generate(args.folder, gigabytes=args.gigabytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
