"""A checksum of block scales, which does not depend on how they are stored.

Where samples decide a block's scale, nothing in a release tells which it should have. So
quantize_nvfp4 notes a checksum of the scales that calibration found, before anything was fused or
packed, and verify_release holds the decoded scales of the release against it: one that was written
or read otherwise than it was chosen is found in any block.

The checksum is the sum of all scales, each times a factor for its row and one for its column, which
look random. Float32 moves it by less than a millionth of the scales' norm; a change of some scales
moves it by about a third of the norm of that change.
"""

import zlib

import torch

WINDOW = 256
"""Rows that are summed at a time, by whoever takes a checksum."""
_MASK = 0xFFFFFFFF


def checksum(rows: torch.Tensor, *, module: str, first: int = 0) -> float:
    """The share of some rows in the checksum of a module's block scales.

    Args:
        rows: Decoded scales, [n, K/16].
        module: Its name.
        first: Number of the first of these rows.
    """
    seed = zlib.crc32(module.encode())
    count, columns = rows.shape
    by_row = _factors(first, count, seed, rows.device)
    by_column = _factors(0, columns, seed ^ _MASK, rows.device)
    return (by_row @ rows.double() @ by_column).item()


def _factors(first: int, count: int, seed: int, device: torch.device) -> torch.Tensor:
    """Numbers from -1 to 1 by position: mixed as in the last step of MurmurHash3 (A. Appleby)."""
    mixed = (torch.arange(first, first + count, device=device) * 0x9E3779B1 + seed) & _MASK
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & _MASK
    return (mixed ^ (mixed >> 16)).double() / 2**31 - 1
