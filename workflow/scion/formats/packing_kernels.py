"""The loops of `scion.formats.packing`, compiled by Numba.

The arithmetic is that of `nvidia-modelopt` 0.47 (`quantization/qtensor/nvfp4_tensor.py`), float32
throughout and rounded to nearest after each operation:

- A block's scale is `max|block| / (6 * global_scale)`, 1 if that is 0, kept within 2**-9 and 448,
  and rounded to E4M3, ties to even.
- A weight is divided by `block_scale * global_scale`: by the product, not by one after the other.
- The quotient becomes the nearest E2M1 number; between two of them the one whose code is even;
  beyond 6 it becomes 6. Its sign counts if it is below zero, which -0.0 is not.

Each loop does one thing to one row, which stays in a core's cache meanwhile. They are so simple on
purpose: the compiler makes vector instructions of them. Fused, or with `range(16)` inside, which it
unrolls too early, most become scalar and up to six times slower.

What is compiled is for the processor at hand, and is kept beside this file or in the user's cache
folder, under a hash of this file. Everything that the loops use is in it for that reason.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch

_Array = np.ndarray[Any, Any]

# Numba takes Python's numbers for 64-bit ones, and would go on in float64.
_f32, _u8, _u32 = np.float32, np.uint8, np.uint32
_LARGEST_CODE, _ONE, _SMALLEST_SCALE, _LARGEST_SCALE = _f32(6), _f32(1), _f32(2**-9), _f32(448)
_B0, _B1, _B2, _B3, _B4, _B5, _B6 = (_f32(x) for x in (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5))
_E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()


# Other threads run meanwhile, and division by zero is that of IEEE 754.
_njit = functools.partial(numba.njit, nogil=True, error_model="numpy", fastmath=False)
_loop = _njit()


def kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let Numba compile a function when it is first called, and keep the result on disk."""
    try:
        return _njit(cache=True)(function)
    except RuntimeError:
        # No folder to keep it in: an installation and a home that are both read-only.
        return _njit()(function)


@kept
def pack_rows(
    raw: _Array,
    mask: np.integer[Any],
    half: bool,
    global_scale: np.float32,
    given: bool,
    scales: _Array,
    packed: _Array,
) -> np.integer[Any]:
    """Quantize some rows.

    Args:
        raw: uint16 or uint32 [N, K], the bits of bfloat16 and float16, or of float32.
        mask: Of the type of `raw`: all bits but the sign.
        half: The numbers are float16.
        global_scale: What block scales are relative to.
        given: The scales are there already.
        scales: uint8 [N, K/16], bits of E4M3 numbers; written if not `given`.
        packed: uint8 [N, K/2], written.

    Returns:
        The largest absolute value, as an integer. If it stands for no finite number, what was
        written means nothing.
    """
    columns, blocks = raw.shape[1], scales.shape[1]
    bits, codes = np.empty(columns, np.uint32), np.empty(columns, np.uint8)
    maxima, scale_bits = np.empty(blocks, raw.dtype), np.empty(blocks, np.uint32)
    numbers, scale = bits.view(np.float32), scale_bits.view(np.float32)
    found = mask ^ mask
    for row in range(raw.shape[0]):
        _maxima(raw[row].reshape(blocks, -1), mask, maxima)
        found = max(found, _largest(maxima, mask))
        if not given:
            _widen(maxima, half, scale_bits, scale)
            _scale(scale, _LARGEST_CODE * global_scale)
            _to_e4m3(scale, scale_bits, scales[row])
        _widen(raw[row], half, bits, numbers)
        _divide(numbers.reshape(blocks, -1), scales[row], global_scale)
        _to_e2m1(numbers, codes)
        _pair(codes, packed[row])
    return found


@_loop
def _largest(raw: _Array, mask: np.integer[Any]) -> np.integer[Any]:
    """The largest absolute value, as an integer, of the bits of numbers in one dimension."""
    found = mask ^ mask
    for i in range(raw.size):
        found = max(raw[i] & mask, found)
    return found


@_loop
def _maxima(blocks: _Array, mask: np.integer[Any], maxima: _Array) -> None:
    for block in range(maxima.size):
        # Not in one expression with a second index: see above.
        values = blocks[block]
        found = mask ^ mask
        for i in range(values.size):
            found = max(values[i] & mask, found)
        maxima[block] = found


@_loop
def _widen(raw: _Array, half: bool, bits: _Array, numbers: _Array) -> None:
    """Float32 numbers from the bits of others; `numbers` and `bits` are the same memory."""
    if half:
        for i in range(raw.size):
            bits[i] = (_u32(raw[i] & 0x8000) << _u32(16)) | (_u32(raw[i] & 0x7FFF) << _u32(13))
        for i in range(raw.size):
            # The two exponents count from 15 and 127. Exact, subnormal numbers included.
            numbers[i] *= _f32(2.0**112)
    else:
        shift = _u32(32 - 8 * raw.itemsize)
        for i in range(raw.size):
            bits[i] = _u32(raw[i]) << shift


@_loop
def _scale(maxima: _Array, divisor: np.float32) -> None:
    """In place, what the largest code of a block has to be multiplied by; not rounded yet."""
    for i in range(maxima.size):
        scale = maxima[i] / divisor
        scale = _ONE if scale == 0 else scale
        maxima[i] = min(max(scale, _SMALLEST_SCALE), _LARGEST_SCALE)


@_loop
def _to_e4m3(scale: _Array, bits: _Array, codes: _Array) -> None:
    """E4M3 numbers from float32 ones within its range; `scale` and `bits` are the same memory."""
    for i in range(codes.size):
        # Three of 23 bits of the mantissa stay; half of the last of them is added, or a little
        # less if it is even. The exponents count from 7 and 127.
        odd = (bits[i] >> _u32(20)) & _u32(1)
        normal = ((bits[i] + _u32(0x7FFFF) + odd) >> _u32(20)) - _u32((127 - 7) << 3)
        subnormal = _u32(np.int32(np.rint(scale[i] * _f32(2**9))))
        codes[i] = _u8(subnormal if scale[i] < _f32(2**-6) else normal)


@_loop
def _divide(blocks: _Array, scales: _Array, global_scale: np.float32) -> None:
    for block in range(scales.size):
        values, divisor = blocks[block], _E4M3[scales[block]] * global_scale
        for i in range(values.size):
            values[i] /= divisor


@_loop
def _to_e2m1(numbers: _Array, codes: _Array) -> None:
    for i in range(codes.size):
        size = abs(numbers[i])
        # A bound itself belongs to the even code. So put, NaN (0 / 0 where the product of scales
        # is 0) becomes 7, as torch.searchsorted has it.
        code = (not size <= _B0) + (not size < _B1) + (not size <= _B2) + (not size < _B3)
        code += (not size <= _B4) + (not size < _B5) + (not size <= _B6)
        codes[i] = code + 8 * (numbers[i] < 0)


@_loop
def _pair(codes: _Array, packed: _Array) -> None:
    for i in range(packed.size):
        packed[i] = codes[2 * i] | (codes[2 * i + 1] << _u8(4))
