"""Reciprocals of float32 scales, and which scale it was that one was made of.

compressed-tensors stores 1/x where ModelOpt stores x. Rounded to float32, some neighbours have one
reciprocal, 34 % of all numbers between two powers of two, so nothing that is done to a reciprocal
alone can give them all back.
What holds of all of them (tests/unit/test_reciprocals.py goes through every one):

- The nearest float32 to 1/x is the best that can be stored: 1 over it is x again for 82.84 % of all
  x, no other float32 does better for the rest, and for these it is one last bit beside x.
- At most two numbers have one reciprocal, and where ModelOpt divided a bf16 maximum by 6 × 448, at
  most one of them is such a quotient: so the scales of a model that was calibrated in bf16 come
  back bit for bit.
"""

import struct

_RANGE = 6 * 448.0
"""ModelOpt's scale of a tensor is its largest magnitude over the largest E2M1 and E4M3 numbers."""


def reciprocal_of(scale: float) -> float:
    """The float32 that is nearest to 1 over a float32."""
    return _rounded(1 / scale)


def scale_of(reciprocal: float) -> float:
    """The float32 scale that a reciprocal was made of.

    Args:
        reciprocal: A positive float32.

    Returns:
        Of the scales with this reciprocal the one that is a bf16 number over 6 × 448; where none
        is, the nearest to 1 over it.
    """
    nearest = _rounded(1 / reciprocal)
    around = (_number(_bits(nearest) + last_bits) for last_bits in (0, -1, 1))
    scales = (scale for scale in around if reciprocal_of(scale) == reciprocal)
    return next(filter(_is_quotient, scales), nearest)


def _is_quotient(scale: float) -> bool:
    """Whether ModelOpt gives a maximum that bf16 can hold this scale."""
    # The upper half of a float32's bits is a bf16 number; the product is a last bit beside one.
    maximum = _number((_bits(scale * _RANGE) + 0x8000) & 0xFFFF0000)
    return _rounded(maximum / _RANGE) == scale


def _rounded(number: float) -> float:
    """The nearest float32; of a quotient of two float32, as if it had never been a float64."""
    return _number(_bits(number))


def _bits(number: float) -> int:
    return struct.unpack("<I", struct.pack("<f", number))[0]


def _number(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]
