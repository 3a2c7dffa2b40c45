"""The tensors of a release, as they follow from the source's headers alone; needs no torch."""

import math
from collections.abc import Iterator, Mapping

from scion.checkpoint.safetensors_file import Tensor
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.formats.modelopt import BLOCK, FP8
from scion.formats.spellings import DEFAULT_SPELLING

_BYTES = {"U8": 1, "F8_E4M3": 1, "F32": 4}


def planned(checkpoint: Checkpoint, quantized: Mapping[str, str]) -> Iterator[Tensor]:
    """The tensors of the release: the source's, or in place of one those of its module.

    Args:
        checkpoint: The bf16 source.
        quantized: The algorithm by module; all others stay as they are.

    Raises:
        ScionError: A matrix for NVFP4 has columns that blocks of 16 do not fill.
    """
    for name in checkpoint.shard_of:
        stored, module = checkpoint.tensor(name), name.removesuffix(".weight")
        if module not in quantized:
            yield stored
            continue
        rows, columns = stored.shape
        if quantized[module] != FP8 and columns % BLOCK:
            raise ScionError(
                "a matrix can't be cut into blocks of 16 columns",
                where=f"{checkpoint.folder}: {name}",
                expected=f"a multiple of {BLOCK} columns",
                found=f"{rows} × {columns}",
                hint="leave the module out: quantization.keep_bf16, or quantization.use_fp8",
            )
        layout = DEFAULT_SPELLING.layout(quantized[module], stored.shape)
        for suffix, (dtype, shape) in layout.items():
            size = math.prod(shape) * _BYTES[dtype]
            yield Tensor(f"{module}.{suffix}", dtype, shape, 0, size)
