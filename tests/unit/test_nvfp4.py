from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelopt.torch.quantization.qtensor import NVFP4QTensor

from scion.formats.nvfp4 import E2M1_VALUES, dequantize, relative_error, unpack, worst_rounding

Packed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
ROUNDED_RIGHTLY = 1.001


def packed_by_modelopt(weight: torch.Tensor) -> Packed:
    made, scale, scale_2 = quantize(weight)
    return made._quantized_data, scale, scale_2


def quantize(weight: torch.Tensor) -> Any:
    """ModelOpt's tensor, block scales and global scale; it changes what it is given."""
    return NVFP4QTensor.quantize(weight.clone(), 16)


def weights(kind: str) -> torch.Tensor:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    if kind == "zero blocks":
        weight[3] = 0
        weight[:, 16:32] = 0
    elif kind == "tiny blocks":
        weight[::2, :16] *= 1e-5
        weight[5] *= 1e-7
    elif kind == "outlier":
        weight[0, 0] = 1000
    elif kind == "ties":
        weight = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6] * 4).repeat(2, 1)
    return weight.bfloat16()


KINDS = ["plain", "zero blocks", "tiny blocks", "outlier", "ties"]


def test_every_code_decodes() -> None:
    packed = torch.arange(256, dtype=torch.uint8).reshape(1, 256)
    values = (*E2M1_VALUES, *(-value for value in E2M1_VALUES))
    expected = [values[code] for byte in range(256) for code in (byte & 15, byte >> 4)]
    assert unpack(packed).tolist() == [expected]


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_modelopts(kind: str) -> None:
    made, scale, scale_2 = quantize(weights(kind))
    theirs = made.dequantize(
        dtype=torch.float32, scale=scale, double_scale=scale_2, block_sizes={-1: 16}
    )
    assert torch.equal(dequantize(made._quantized_data, scale, scale_2), theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_what_modelopt_packs_is_within_one_rounding(kind: str) -> None:
    weight = weights(kind)
    assert max(worst_rounding(weight, *packed_by_modelopt(weight))) <= ROUNDED_RIGHTLY


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-30, 30), spread=st.integers(0, 12))
def test_what_modelopt_packs_is_within_one_rounding_at_any_size(
    seed: int, exponent: int, spread: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = 2.0 ** torch.randint(-spread, 1, (4, 1), generator=generator)
    weight = (torch.randn(4, 32, generator=generator) * sizes * 2.0**exponent).bfloat16()
    assert max(worst_rounding(weight, *packed_by_modelopt(weight))) <= ROUNDED_RIGHTLY


@settings(max_examples=50, deadline=None)
@given(position=st.integers(0, 32 * 32 - 1), nibble=st.sampled_from([0x02, 0x20, 0x04, 0x40]))
def test_a_flipped_nibble_is_seen(position: int, nibble: int) -> None:
    weight = weights("plain")
    packed, scale, scale_2 = packed_by_modelopt(weight)
    packed.view(-1)[position] ^= nibble
    assert worst_rounding(weight, packed, scale, scale_2)[1] > ROUNDED_RIGHTLY


@pytest.mark.parametrize("steps", [-2, 2, 9])
def test_a_block_scale_two_steps_off_is_seen(steps: int) -> None:
    weight = weights("plain")
    packed, scale, scale_2 = packed_by_modelopt(weight)
    scale.view(torch.uint8)[7, 1] += steps
    assert worst_rounding(weight, packed, scale, scale_2)[0] > ROUNDED_RIGHTLY


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_another_global_scale_is_seen(factor: float) -> None:
    weight = weights("plain")
    packed, scale, scale_2 = packed_by_modelopt(weight)
    assert max(worst_rounding(weight, packed, scale, scale_2 * factor)) > ROUNDED_RIGHTLY


def test_nan_passes_for_nothing() -> None:
    weight = weights("plain")
    packed, scale, scale_2 = packed_by_modelopt(weight)
    scale.view(torch.uint8)[0, 0] = 0x7F
    assert not worst_rounding(weight, packed, scale, scale_2)[0] <= ROUNDED_RIGHTLY


def test_relative_error_is_two_sums_of_squares() -> None:
    assert relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 2.0])) == (4.0, 25.0)
