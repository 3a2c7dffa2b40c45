"""NVFP4 packing on a CPU: ModelOpt's bytes, at a rate nearer to the memory's.

`NVFP4QTensor.quantize` of `nvidia-modelopt` 0.47 takes a dozen passes over float32 copies of the
matrix. Here each row passes once through the cache of a core, and beside the result a few rows of
memory are taken. `scion.formats.packing_kernels` has the arithmetic.

Rows are shared out to plain threads. Numba's own parallel loops would bring an OpenMP beside
torch's; it stops the process if a fork packs, and its other scheduler if two threads pack at once.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from scion.common.errors import ScionError
from scion.formats.modelopt import BLOCK
from scion.formats.packing_kernels import pack_rows

_INFINITY = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00, torch.float32: 0x7F800000}
"""Its bits, which are a larger integer than those of any number. The keys: what can be packed."""
_CHUNK = 1 << 20
"""Weights that a thread takes at a time."""


def pack(
    weight: torch.Tensor, global_scale: torch.Tensor, block_scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight to NVFP4, byte for byte as `NVFP4QTensor.quantize` does.

    Args:
        weight: bfloat16, float16 or float32 [N, K], K divisible by 16. All tensors are contiguous
            and on the CPU.
        global_scale: float32 [], above zero: the release's `weight_scale_2`.
        block_scale: float8_e4m3fn [N, K/16]: scales that were searched. If there are none, the
            largest weight of each block gives its scale.

    Returns:
        The codes, uint8 [N, K/2], even columns in the low nibbles, and the block scales,
        float8_e4m3fn [N, K/16]: `block_scale` itself if it was given. The number of threads, one
        a core, has no influence on them.

    Raises:
        ScionError: An argument is not as described, or holds NaN or infinity.
    """
    _check(weight, block_scale)
    _check_global_scale(global_scale)
    rows, columns = weight.shape
    given = block_scale is not None
    if block_scale is None:
        block_scale = _empty(rows, columns // BLOCK).view(torch.float8_e4m3fn)
    packed = _empty(rows, columns // 2)
    raw, mask = _bits(weight)
    scales, codes = block_scale.detach().view(torch.uint8).numpy(), packed.numpy()
    half, factor = weight.dtype == torch.float16, np.float32(global_scale.item())

    def work(first: int, last: int) -> int:
        part = slice(first, last)
        return pack_rows(raw[part], mask, half, factor, given, scales[part], codes[part])

    _share_out(weight, work)
    return packed, block_scale


def _empty(rows: int, columns: int) -> torch.Tensor:
    """Bytes that are not set. NumPy asks the kernel for huge pages, which torch does not."""
    return torch.from_numpy(np.empty((rows, columns), np.uint8))


def amax(weight: torch.Tensor) -> torch.Tensor:
    """The largest absolute value of a weight, float32 [].

    Args:
        weight: bfloat16, float16 or float32 of any shape, contiguous, on the CPU, not empty.

    Raises:
        ScionError: The argument is not as described, or holds NaN or infinity.
    """
    _check_weight(weight)
    if not weight.numel():
        raise _unusable("weight", expected="at least one number", found=_shape(weight))
    # As fast as memory, where max and min apart, and abs before max, are not.
    low, high = torch.aminmax(weight.detach())
    largest = torch.maximum(-low, high).float()
    if not largest.isfinite():
        raise _not_finite(weight, 0, weight.numel())
    return largest


def _bits(weight: torch.Tensor) -> tuple[np.ndarray[Any, Any], np.integer[Any]]:
    """The same memory as unsigned integers, and the mask of all bits but the sign."""
    unsigned = torch.uint32 if weight.dtype == torch.float32 else torch.uint16
    bits = weight.detach().view(unsigned).numpy()
    return bits, bits.dtype.type(np.iinfo(bits.dtype).max >> 1)


def _share_out(weight: torch.Tensor, work: Callable[[int, int], int]) -> None:
    """Call `work(first row, row after the last)` on all cores until all rows are done.

    Args:
        weight: [N, K].
        work: Returns the largest absolute value in its rows, as an integer.

    Raises:
        ScionError: That is infinity or NaN.
    """
    rows, columns = weight.shape
    step = max(1, _CHUNK // max(1, columns))
    firsts = range(0, rows, step)
    lasts = [min(first + step, rows) for first in firsts]
    threads = min(_cores(), len(firsts))
    if threads > 1:
        with ThreadPoolExecutor(threads, thread_name_prefix="packing") as pool:
            found = list(pool.map(work, firsts, lasts))
    else:
        found = map(work, firsts, lasts)
    for first, last, largest in zip(firsts, lasts, found, strict=True):
        if largest >= _INFINITY[weight.dtype]:
            raise _not_finite(weight, first * columns, last * columns)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _check(weight: torch.Tensor, block_scale: torch.Tensor | None) -> None:
    _check_weight(weight)
    if weight.dim() != 2 or weight.shape[1] % BLOCK:
        expected = f"shape [N, K], K divisible by {BLOCK}"
        raise _unusable("weight", expected=expected, found=_shape(weight))
    if block_scale is None:
        return
    _check_dtype("block_scale", block_scale, torch.float8_e4m3fn)
    _check_layout("block_scale", block_scale)
    rows, columns = weight.shape
    if block_scale.shape != (rows, columns // BLOCK):
        expected = f"shape [{rows}, {columns // BLOCK}]"
        raise _unusable("block_scale", expected=expected, found=_shape(block_scale))
    # E4M3 has NaN, and no infinity.
    broken = (block_scale.view(torch.uint8) & 0x7F == 0x7F).nonzero()
    if len(broken):
        where = f"block_scale{broken[0].tolist()}"
        raise _unusable(where, expected="a number", found="nan")


def _check_weight(weight: torch.Tensor) -> None:
    _check_dtype("weight", weight, *_INFINITY)
    _check_layout("weight", weight)


def _check_global_scale(scale: torch.Tensor) -> None:
    _check_dtype("global_scale", scale, torch.float32)
    _check_layout("global_scale", scale)
    if scale.dim():
        raise _unusable("global_scale", expected="shape []", found=_shape(scale))
    if not (scale > 0 and scale.isfinite()):
        raise _unusable("global_scale", expected="a number above zero", found=scale.item())


def _check_dtype(name: str, tensor: torch.Tensor, *dtypes: torch.dtype) -> None:
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise _unusable(name, expected=expected, found=tensor.dtype)


def _check_layout(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu":
        raise _unusable(name, expected="a tensor on the CPU", found=f"one on {tensor.device}")
    if not tensor.is_contiguous():
        found = f"strides {list(tensor.stride())}"
        raise _unusable(name, expected="a contiguous tensor", found=found)


def _shape(tensor: torch.Tensor) -> str:
    return f"shape {list(tensor.shape)}"


def _unusable(where: str, *, expected: object, found: object) -> ScionError:
    return ScionError(
        "a tensor can't be packed as NVFP4",
        where=where,
        expected=expected,
        found=found,
        hint="see scion.formats.packing for what it takes; other tensors stay as they are",
    )


def _not_finite(weight: torch.Tensor, first: int, last: int) -> ScionError:
    """The error for the first broken weight, known to be between two positions."""
    part = weight.detach().view(-1)[first:last]
    offset = int((~part.isfinite()).byte().argmax())
    position = np.unravel_index(first + offset, tuple(weight.shape))
    return ScionError(
        "a weight is not finite",
        where=f"weight{[int(index) for index in position]}",
        expected="finite numbers",
        found=part[offset].item(),
        hint="the source checkpoint is broken: ask its author, or choose another revision",
    )
