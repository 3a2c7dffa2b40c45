"""A checksum of what weights are, which does not depend on how they are stored.

Where samples decide a block's scale, nothing in a release tells which it should have. So
quantize_nvfp4 notes a checksum of the weights that its calibration simulated, before anything was
packed, and verify_release holds what the release's bytes decode to against it: a scale that was
packed, fused, written or read otherwise than it was chosen is found in any block.

The checksum is the sum of all numbers with a sign of its own for each row and each column. Rounding
moves it by millionths of the weight's norm; a change of some numbers moves it by about the norm of
that change.
"""

import zlib

import torch

WINDOW = 256
"""Rows that are summed at a time, by whoever takes a checksum: float64 copies are large."""
_MASK = 0xFFFFFFFF


def checksum(rows: torch.Tensor, *, module: str, first: int = 0) -> float:
    """The share of some rows in the checksum of a module's weight.

    Args:
        rows: [n, K].
        module: Its name.
        first: Number of the first of these rows.
    """
    seed = zlib.crc32(module.encode())
    count, columns = rows.shape
    by_row = _signs(first, count, seed, rows.device)
    by_column = _signs(0, columns, seed ^ _MASK, rows.device)
    return (by_row @ rows.double() @ by_column).item()


def _signs(first: int, count: int, seed: int, device: torch.device) -> torch.Tensor:
    """1 or -1 by position: mixed as in the last step of MurmurHash3 (A. Appleby)."""
    mixed = (torch.arange(first, first + count, device=device) * 0x9E3779B1 + seed) & _MASK
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & _MASK
    return 1.0 - 2.0 * ((mixed ^ (mixed >> 16)) & 1).double()
