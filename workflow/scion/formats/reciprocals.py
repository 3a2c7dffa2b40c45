"""Reciprocals of float32 scales, and which scale it was that one was made of.

compressed-tensors stores 1/x where ModelOpt stores x. Rounded to float32, some neighbours have one
reciprocal: of the numbers between two powers of two, the upper 59 % (from the root of two on) share
theirs in 29 of 100 cases, so nothing that is done to a reciprocal alone can give them all back.
What holds of all of them (tests/unit/test_reciprocals.py goes through every one):

- The nearest float32 to 1/x is the best that can be stored: 1 over it is x again for 82.84 % of all
  x, no other float32 does better for the rest, and for these it is one last bit beside x.
- At most two numbers have one reciprocal, and where ModelOpt divided a bf16 maximum by 6 × 448, at
  most one of them is such a quotient: so the scales of a model that was calibrated in bf16 come
  back bit for bit.
"""

import math

import numpy as np

# ModelOpt's scale of a tensor is its largest magnitude over the largest E2M1 and E4M3 numbers.
_RANGE = np.float32(6 * 448)


def reciprocal_of(scale: float) -> float:
    """The float32 that is nearest to 1 over a float32."""
    return float(np.float32(1) / np.float32(scale))


def scale_of(reciprocal: float) -> float:
    """The float32 scale that a reciprocal was made of.

    Args:
        reciprocal: A positive float32.

    Returns:
        Of the scales with this reciprocal the one that is a bf16 number over 6 × 448; where none
        is, the nearest to 1 over it.
    """
    nearest = np.float32(1) / np.float32(reciprocal)
    neighbours = (np.nextafter(nearest, np.float32(side)) for side in (0, math.inf))
    candidates = [s for s in (nearest, *neighbours) if reciprocal_of(float(s)) == reciprocal]
    return float(next(filter(_is_quotient, candidates), nearest))


def _is_quotient(scale: np.float32) -> bool:
    """Whether ModelOpt gives a maximum that bf16 can hold this scale."""
    bits = int((scale * _RANGE).view(np.uint32))
    # To the nearest number of 16 bits less: scale times range is a last bit beside the maximum.
    maximum = np.uint32((bits + 0x8000) & 0xFFFF0000).view(np.float32)
    return bool(maximum / _RANGE == scale)
