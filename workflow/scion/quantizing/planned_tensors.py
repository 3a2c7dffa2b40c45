"""The tensors of a release, as they follow from the source's headers alone; needs no torch."""

from collections.abc import Collection, Iterator

from scion.checkpoint import Checkpoint
from scion.errors import ScionError
from scion.nvfp4_config import BLOCK
from scion.safetensors_file import Tensor


def planned(checkpoint: Checkpoint, quantized: Collection[str]) -> Iterator[Tensor]:
    """The tensors of the release: the source's, or in place of one the four of its module.

    Args:
        checkpoint: The bf16 source.
        quantized: Stored names of the modules that become NVFP4; best a set.

    Raises:
        ScionError: A matrix has columns that blocks of 16 do not fill.
    """
    for name in checkpoint.shard_of:
        stored, module = checkpoint.tensor(name), name.removesuffix(".weight")
        if module not in quantized:
            yield stored
            continue
        rows, columns = stored.shape
        if columns % BLOCK:
            raise ScionError(
                "a matrix can't be cut into blocks of 16 columns",
                where=f"{checkpoint.folder}: {name}",
                expected=f"a multiple of {BLOCK} columns",
                found=f"{rows} × {columns}",
                hint="leave the module out: quantization.keep_bf16",
            )
        yield Tensor(name, "U8", (rows, columns // 2), 0, rows * columns // 2)
        scales = rows * columns // BLOCK
        yield Tensor(f"{module}.weight_scale", "F8_E4M3", (rows, columns // BLOCK), 0, scales)
        yield Tensor(f"{module}.weight_scale_2", "F32", (), 0, 4)
        yield Tensor(f"{module}.input_scale", "F32", (), 0, 4)
