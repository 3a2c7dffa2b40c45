"""What reciprocals of float32 scales keep: every number between two powers of two is tried."""

import numpy as np
import pytest

from scion.formats.reciprocals import reciprocal_of, scale_of

ONE = np.float32(1)


@pytest.fixture(scope="module")
def scales() -> np.ndarray:
    """All float32 from 1 up to 2; a power of two more or less changes no rounding."""
    return np.arange(0x3F800000, 0x40000000, dtype=np.uint32).view(np.float32)


def beside(numbers: np.ndarray, last_bits: int) -> np.ndarray:
    return (numbers.view(np.int32) + np.int32(last_bits)).view(np.float32)


def test_the_nearest_reciprocal_is_the_best_to_store(scales: np.ndarray) -> None:
    stored = ONE / scales
    read = ONE / stored
    assert round((read == scales).mean(), 4) == 0.8284
    assert set(np.unique(read.view(np.int32) - scales.view(np.int32))) == {-1, 0, 1}
    for last_bits in (-2, -1, 1, 2):
        other = ONE / beside(stored, last_bits)
        assert not ((other == scales) & (read != scales)).any()


def test_no_more_than_two_scales_have_one_reciprocal(scales: np.ndarray) -> None:
    _, counts = np.unique(ONE / scales, return_counts=True)
    assert counts.max() == 2
    # So many can't be told from a neighbour by their reciprocal alone.
    assert round(2 * (counts == 2).sum() / len(scales), 4) == 0.3431


def test_a_reciprocal_gives_one_of_its_scales_back(scales: np.ndarray) -> None:
    for scale in map(float, scales[:: len(scales) // 2003]):
        found = scale_of(reciprocal_of(scale))
        assert reciprocal_of(found) == reciprocal_of(scale)
        assert abs(found - scale) <= np.spacing(np.float32(scale))


def test_scales_of_bf16_maxima_come_back_bit_for_bit() -> None:
    mantissas = (np.arange(0x3F80, 0x4000, dtype=np.uint32) << 16).view(np.float32)
    for exponent in range(-30, 20):
        for maximum in np.ldexp(mantissas, exponent):
            # As ModelOpt divides.
            scale = float(maximum / np.float32(6 * 448))
            assert scale_of(reciprocal_of(scale)) == scale


def test_a_number_that_is_no_ones_reciprocal_has_a_nearest_scale() -> None:
    # 1/x skips every other number from one half of a power of two on.
    lonely = next(
        float(x)
        for x in np.arange(0x3F7FFF00, 0x3F800000, dtype=np.uint32).view(np.float32)
        if not any(
            reciprocal_of(float(beside(np.array([ONE / x]), step)[0])) == x for step in (-1, 0, 1)
        )
    )
    assert scale_of(lonely) == float(ONE / np.float32(lonely))
