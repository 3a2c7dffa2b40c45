"""What tensor data shows, gathered chunk by chunk with numpy.

Each class takes a tensor's bytes in order, cut anywhere between two units: numbers for `Numbers`,
blocks for `Blocks`. What numpy does on a chunk releases the interpreter's lock, and whatever is
rare (a NaN, a zero scale) is looked for with one reduction first and counted only if it is there.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Raw = NDArray[np.uint8]
Units = NDArray[Any]
"""Unsigned integers, or booleans."""

BLOCK_BYTES = 8
"""The codes of one NVFP4 block: 16 of 4 bits, one 64-bit word."""

_MAGNITUDES = 0x7777_7777_7777_7777
_LOW_BITS = 0x1111_1111_1111_1111
# E4M3: magnitudes of 448, 416 and NaN; there is no infinity.
_TOP, _BELOW_TOP, _NAN = 0x7E, 0x7D, 0x7F


@dataclass(frozen=True)
class Float:
    """A floating-point format, its numbers taken as unsigned integers.

    Attributes:
        bits: That integer.
        limit: The smallest number that is not finite.
    """

    bits: type[np.unsignedinteger[Any]]
    limit: int

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (8 * np.dtype(self.bits).itemsize - 1)


FLOATS = {
    "F64": Float(np.uint64, 0x7FF0_0000_0000_0000),
    "F32": Float(np.uint32, 0x7F80_0000),
    "F16": Float(np.uint16, 0x7C00),
    "BF16": Float(np.uint16, 0x7F80),
    "F8_E5M2": Float(np.uint8, 0x7C),
    "F8_E4M3": Float(np.uint8, _NAN),
}
"""By safetensors' name; the FNUZ types are of another make, and no engine here reads them."""

VALUES: Mapping[str, Callable[[Raw], NDArray[np.float32]]] = {
    "F32": lambda raw: raw.view(np.float32),
    "F16": lambda raw: raw.view(np.float16).astype(np.float32),
    # The upper half of a float32.
    "BF16": lambda raw: (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32),
}
"""The numbers in a tensor's bytes, by its dtype."""


@dataclass
class ZeroRows:
    """Counts the rows of zeros of a matrix that comes in pieces, cut anywhere.

    Attributes:
        length: Units in a row.
        count: Rows found to be zero.
        first: The first of them.
    """

    length: int
    count: int = 0
    first: int | None = None
    _taken: int = 0
    _begun: Any = 0

    @property
    def total(self) -> int:
        """Rows seen to their end."""
        return self._taken // self.length

    def take(self, units: Units, mask: int) -> None:
        """Look at the next units; one is zero that has no bit of `mask`."""
        row, begun = divmod(self._taken, self.length)
        bounds = np.arange(-begun, len(units), self.length)
        bounds[0] = 0
        rows = np.bitwise_or.reduceat(units, bounds)
        rows[0] |= self._begun
        self._taken += len(units)
        self._begun = rows.dtype.type(0)
        if self._taken % self.length:
            self._begun, rows = rows[-1], rows[:-1]
        zero = np.flatnonzero((rows & rows.dtype.type(mask)) == 0)
        if zero.size and self.first is None:
            self.first = row + int(zero[0])
        self.count += zero.size


@dataclass
class Numbers:
    """What is in a tensor of floating-point numbers.

    Attributes:
        form: Their format.
        rows: Counts its zero rows; None where those mean nothing.
        not_finite: Numbers that are NaN or infinite.
        first: Position of the first of them.
    """

    form: Float
    rows: ZeroRows | None = None
    not_finite: int = 0
    first: int | None = None
    _taken: int = 0

    def take(self, raw: Raw) -> None:
        """Look at the next numbers."""
        numbers = raw.view(self.form.bits)
        if not self._all_finite(numbers):
            bad = np.flatnonzero((numbers & (self.form.sign - 1)) >= self.form.limit)
            self.not_finite += bad.size
            if self.first is None:
                self.first = self._taken + int(bad[0])
        if self.rows is not None:
            self.rows.take(numbers, self.form.sign - 1)
        self._taken += numbers.size

    def _all_finite(self, numbers: Units) -> bool:
        """Two maxima and nothing written: the fastest way there is in numpy.

        Taken as signed integers, the largest positive number is the maximum; taken as unsigned
        ones, the largest negative number is.
        """
        signed = numbers.view(f"i{numbers.itemsize}")
        limit = self.form.limit
        return bool(signed.max() < limit and numbers.max() < self.form.sign | limit)


@dataclass
class Blocks:
    """What is in the codes and block scales of an NVFP4 weight.

    Attributes:
        rows: Counts its zero rows; a block is zero if its codes or its scale are. None where zero
            rows mean nothing.
        total: Blocks seen.
        full: Codes of the largest magnitude, 6.
        at_top: Blocks whose scale is E4M3's largest number, 448.
        below_top: Blocks whose scale is the next smaller one, 416.
        lost: Blocks whose scale is zero and whose codes are not.
        negative: Blocks whose scale is below zero.
        nan: Blocks whose scale is NaN.
    """

    rows: ZeroRows | None = None
    total: int = 0
    full: int = 0
    at_top: int = 0
    below_top: int = 0
    lost: int = 0
    negative: int = 0
    nan: int = 0

    def take(self, codes: Raw, scales: Raw) -> None:
        """Look at the next blocks: the packed codes of each, and its scale."""
        words = codes.view(np.uint64)
        self.total += words.size
        scratch = _scratch.take(words.size)
        self.full += _count_full(words, scratch)
        self.at_top += int(np.count_nonzero(scales == _TOP))
        self.below_top += int(np.count_nonzero(scales == _BELOW_TOP))
        np.bitwise_and(words, _MAGNITUDES, out=scratch[0])
        live = scratch[0] != 0
        if scales.min() == 0 or scales.max() >= _NAN:
            size = scales & 0x7F
            self.lost += int(np.count_nonzero(live & (size == 0)))
            self.nan += int(np.count_nonzero(size == _NAN))
            self.negative += int(np.count_nonzero((scales > 0x80) & (size != _NAN)))
            live &= size != 0
        if self.rows is not None:
            self.rows.take(live, 1)


def _count_full(words: Units, scratch: Units) -> int:
    """Codes in 64-bit words whose three bits of magnitude are all set."""
    # Bit 0 of each code: whether its lower two bits are set; bit 1: whether its upper two are.
    pairs, triples = scratch
    np.right_shift(words, 1, out=pairs)
    np.bitwise_and(pairs, words, out=pairs)
    np.right_shift(pairs, 1, out=triples)
    np.bitwise_and(triples, pairs, out=triples)
    np.bitwise_and(triples, _LOW_BITS, out=triples)
    return int(np.bitwise_count(triples).sum(dtype=np.int64))


class _Scratch(threading.local):
    """Two arrays a thread that last: fresh ones cost more in page faults than what is computed."""

    def __init__(self) -> None:
        self._words: Units = np.empty((2, 0), np.uint64)

    def take(self, size: int) -> Units:
        """Two arrays of `size` words, of any content."""
        if self._words.shape[1] < size:
            self._words = np.empty((2, size), np.uint64)
        return self._words[:, :size]


_scratch = _Scratch()
