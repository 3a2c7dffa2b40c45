"""Generate an NVFP4 checkpoint of the Qwen3.5 family of any size, random bytes throughout.

MLP and attention are NVFP4 with its scales; the delta nets, embeddings, vision tower and MTP head
are bf16. No number is broken, so a scan looks at all of them and finds nothing.

    python bench/support/nvfp4_checkpoint.py FOLDER --gigabytes 4
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import config_of
from scion.architectures.inventory import inventory
from scion.checkpoint.safetensors_file import DTYPE_BITS, Tensor, encode_header, packed
from scion.checkpoint.shards import index_headers, shard_name
from scion.common.files import write_json
from scion.formats.modelopt import BLOCK

SHARDS = 8
_PATTERN_BYTES = 8 << 20
# How each dtype's random bytes are made harmless: cleared bits, set bits. The high byte of bf16
# gets an exponent that is neither infinite nor zero, and block scales one far from both ends.
_BITS = {
    "BF16": (np.uint16, 0x80FF, 0x3C00),
    "F8_E4M3": (np.uint8, 0x1F, 0x30),
    "F32": (np.uint32, 0x007FFFFF, 0x3A000000),
    "U8": (np.uint8, 0xFF, 0x00),
}


def generate(folder: Path, *, gigabytes: float) -> None:
    """Write a checkpoint of about that size, in units of 10^9 bytes."""
    sizes = {scale: _bytes(_tensors(config_of(scale))) for scale in range(1, int(4 * gigabytes))}
    nearest = min(sizes, key=lambda scale: abs(sizes[scale] - gigabytes * 1e9))
    config = config_of(nearest)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    tensors = _tensors(config)
    paths: list[Path] = []
    for number in range(SHARDS):
        paths.append(folder / shard_name(number + 1, SHARDS))
        print(f"generating {paths[-1].name}", file=sys.stderr)
        begin, end = (len(tensors) * part // SHARDS for part in (number, number + 1))
        _write(paths[-1], tensors[begin:end], seed=number)
    index_headers(folder, [path.name for path in paths])


def _tensors(config: dict[str, Any]) -> list[Tensor]:
    expected = inventory(config, where="the generated config.json")
    quantized = {name for name in expected.quantized if ".linear_attn." not in name}
    tensors: list[Tensor] = []

    def add(name: str, dtype: str, shape: tuple[int, ...]) -> None:
        size = math.prod(shape) * DTYPE_BITS[dtype] // 8
        tensors.append(Tensor(name, dtype, shape, 0, size))

    for name, shape in {**expected.language, **expected.vision, **expected.mtp}.items():
        module = name.removesuffix(".weight")
        if module not in quantized:
            add(name, "BF16", shape)
            continue
        add(name, "U8", (shape[0], shape[1] // 2))
        add(f"{module}.weight_scale", "F8_E4M3", (shape[0], shape[1] // BLOCK))
        for suffix in ("weight_scale_2", "input_scale"):
            add(f"{module}.{suffix}", "F32", ())
    return tensors


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.size for tensor in tensors)


def _write(path: Path, tensors: Sequence[Tensor], *, seed: int) -> None:
    raw = np.random.default_rng(seed).bytes(_PATTERN_BYTES)
    patterns = {
        dtype: (np.frombuffer(raw, bits) & clear | fix).astype(bits).tobytes()
        for dtype, (bits, clear, fix) in _BITS.items()
    }
    with path.open("wb") as file:
        file.write(encode_header(packed(tensors), {"format": "pt"}))
        for tensor in tensors:
            pattern = memoryview(patterns[tensor.dtype])
            for begin in range(0, tensor.size, _PATTERN_BYTES):
                file.write(pattern[: tensor.size - begin])
        file.flush()
        # Only pages that are on disk can be dropped from memory.
        os.fsync(file.fileno())


def main() -> int:
    """Parse arguments and generate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to write it; made if it is not there")
    parser.add_argument("--gigabytes", type=float, default=4, help="its size (4)")
    args = parser.parse_args()
    generate(args.folder, gigabytes=args.gigabytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
