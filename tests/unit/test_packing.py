"""Every byte is compared with ModelOpt's; most inputs are made so that a wrong rounding shows."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from torch import Tensor

from scion.common.errors import ScionError
from scion.formats import packing, packing_kernels
from scion.formats.packing import amax, pack

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
ONE = torch.tensor(1.0)
SMALLEST = 2.0**-149
"""Above zero, in float32."""
LARGEST = torch.finfo(torch.float32).max
BOUNDS = {0.25: 0, 0.75: 2, 1.25: 2, 1.75: 4, 2.5: 4, 3.5: 6, 5.0: 6}
"""Between two E2M1 numbers, and the code that each becomes."""


def by_modelopt(
    weight: Tensor, global_scale: Tensor, block_scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    made: Any = NVFP4QTensor.quantize(weight.clone(), 16, block_scale, global_scale)
    return made[0]._quantized_data, made[1]


def assert_same(weight: Tensor, global_scale: Tensor, block_scale: Tensor | None = None) -> None:
    packed, scale = pack(weight, global_scale, block_scale)
    expected, expected_scale = by_modelopt(weight, global_scale, block_scale)
    assert packed.dtype == torch.uint8
    assert scale.dtype == torch.float8_e4m3fn
    assert torch.equal(scale.view(torch.uint8), expected_scale.view(torch.uint8))
    assert torch.equal(packed, expected)


def natural_scale(weight: Tensor) -> Tensor:
    return weight.abs().max().float() / (6 * 448)


def codes(packed: Tensor) -> list[int]:
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten().tolist()


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """All finite numbers of a type are equally likely, so all exponents are."""
    integer = torch.int32 if dtype == torch.float32 else torch.int16
    range_ = torch.iinfo(integer)
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(range_.min, range_.max + 1, shape, generator=generator).to(integer)
    return bits.view(dtype).nan_to_num(0, 0, 0)


def every_value(dtype: torch.dtype) -> Tensor:
    values = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    return values[values.isfinite()]


@pytest.mark.parametrize("global_scale", [None, 1.0, SMALLEST, 1e-38, 1e-5, 1e30, LARGEST])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_value_of_two_bytes(dtype: torch.dtype, global_scale: float | None) -> None:
    values = every_value(dtype)
    mixed = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]
    weight = torch.cat((values, mixed)).view(-1, 32)
    scale = natural_scale(weight) if global_scale is None else torch.tensor(global_scale)
    assert_same(weight, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 9),
    blocks=st.integers(1, 9),
    exponent=st.integers(-20, 10),
    off=st.floats(0.25, 4, width=32),
)
def test_matrices_as_models_have_them(
    dtype: torch.dtype, seed: int, rows: int, blocks: int, exponent: int, off: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, blocks * 16, generator=generator) * 2.0**exponent
    weight[torch.rand(rows, 1, generator=generator).expand_as(weight) < 0.1] = 0
    weight = weight.to(dtype)
    # Too small a scale makes block scales and codes saturate.
    scale = natural_scale(weight) * off
    assert_same(weight, scale if scale > 0 else ONE)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), scale_bits=st.integers(1, 0x7F7FFFFF), searched=st.booleans())
def test_any_numbers_with_any_scales(
    dtype: torch.dtype, seed: int, scale_bits: int, searched: bool
) -> None:
    weight = random_bits((5, 64), dtype, seed)
    global_scale = torch.tensor(scale_bits, dtype=torch.int32).view(torch.float32)
    assert_same(weight, global_scale, any_block_scales((5, 4), seed) if searched else None)


def any_block_scales(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 127, shape, generator=generator, dtype=torch.uint8)
    return bits.view(torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_block_scale(dtype: torch.dtype) -> None:
    bits = torch.tensor([code for code in range(256) if code & 0x7F != 0x7F], dtype=torch.uint8)
    block_scale = bits.view(torch.float8_e4m3fn).view(-1, 2)
    weight = random_bits((len(block_scale), 32), dtype, 0)
    for global_scale in (1e-3, SMALLEST):
        assert_same(weight, torch.tensor(global_scale), block_scale)


def test_given_block_scales_come_back() -> None:
    weight, block_scale = torch.randn(3, 32), any_block_scales((3, 2), 1)
    before = block_scale.view(torch.uint8).clone()
    assert pack(weight, ONE, block_scale)[1] is block_scale
    assert torch.equal(block_scale.view(torch.uint8), before)


@pytest.mark.parametrize("sign", [1, -1])
def test_ties_and_their_neighbours(sign: int) -> None:
    exact = torch.tensor([*BOUNDS, 6.0])
    infinity = torch.tensor(torch.inf)
    weight = torch.stack((exact, exact.nextafter(infinity), exact.nextafter(-infinity)))
    weight = sign * torch.cat((weight, weight), dim=1)
    block_scale = torch.ones(3, 1).to(torch.float8_e4m3fn)
    assert_same(weight, ONE, block_scale)
    found = codes(pack(weight, ONE, block_scale)[0])[: len(BOUNDS)]
    assert found == [code + 8 * (sign < 0) for code in BOUNDS.values()]


def test_block_scales_round_to_the_nearest_and_ties_to_even() -> None:
    sixth = torch.tensor(1 / 6)
    assert 6 * sixth == 1
    numbers = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    between = (numbers[1:] + numbers[:-1]) / 2
    infinity = torch.tensor(torch.inf)
    exact = torch.cat((numbers, between, torch.tensor([449.0, 1e4, 1e-9, SMALLEST])))
    largest = torch.cat((exact, exact.nextafter(infinity), exact.nextafter(-infinity).abs()))
    weight = torch.zeros(len(largest), 16)
    weight[:, 7] = largest
    assert_same(weight, sixth)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_have_the_scale_1_and_the_code_0(dtype: torch.dtype) -> None:
    weight = torch.zeros(4, 64, dtype=dtype)
    assert_same(weight, ONE)
    packed, scale = pack(weight, ONE)
    assert not packed.any()
    assert (scale.float() == 1).all()
    weight[1, 3] = 5
    assert_same(weight, natural_scale(weight))


def test_a_sign_counts_below_zero_only() -> None:
    weight = torch.zeros(1, 16)
    # The third is -0.0 after its division, the fourth is not.
    weight[0, :5] = torch.tensor([-0.0, 0.0, -SMALLEST, -1e-3, 6.0])
    assert_same(weight, torch.tensor(1.0))
    assert_same(weight, torch.tensor(448.0), torch.ones(1, 1).to(torch.float8_e4m3fn))
    found = codes(pack(weight, torch.tensor(448.0), torch.ones(1, 1).to(torch.float8_e4m3fn))[0])
    assert found[:4] == [0, 0, 0, 8]


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_weights(dtype: torch.dtype) -> None:
    step = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    weight = (torch.arange(-64, 64).double() * step).to(dtype).view(4, 32)
    assert weight.count_nonzero() == 127
    assert_same(weight, natural_scale(weight).clamp(min=SMALLEST))
    assert_same(weight, ONE)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_bits((37, 96), torch.bfloat16, 3)
    expected = by_modelopt(weight, ONE)
    for rows_a_chunk in (1, 5):
        for cores in (1, 2, 7):
            monkeypatch.setattr(packing, "_CHUNK", 96 * rows_a_chunk)
            monkeypatch.setattr(packing, "_cores", lambda cores=cores: cores)
            packed, scale = pack(weight, ONE)
            assert torch.equal(packed, expected[0])
            assert torch.equal(scale.view(torch.uint8), expected[1].view(torch.uint8))


def test_several_threads_may_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_CHUNK", 256)
    weights = [random_bits((64, 64), dtype, seed) for seed in range(4) for dtype in DTYPES]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda weight: pack(weight, ONE)[0], weights))
    for weight, packed in zip(weights, found, strict=True):
        assert torch.equal(packed, by_modelopt(weight, ONE)[0])


def test_a_parameter_and_no_rows() -> None:
    assert_same(torch.nn.Parameter(torch.randn(2, 16)).detach(), ONE)
    packed, _ = pack(torch.nn.Parameter(torch.randn(2, 16)), ONE)
    assert not packed.requires_grad
    packed, scale = pack(torch.empty(0, 32), ONE)
    assert (packed.shape, scale.shape) == ((0, 16), (0, 2))


def test_what_can_not_be_kept_on_disk_is_compiled_all_the_same() -> None:
    nowhere = eval(compile("lambda x: x + 1", "/nowhere/nothing.py", "eval"))
    assert packing_kernels.kept(nowhere)(1) == 2


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**31), shape=st.lists(st.integers(1, 9), min_size=0, max_size=3))
def test_amax(dtype: torch.dtype, seed: int, shape: list[int]) -> None:
    weight = random_bits(tuple(shape), dtype, seed)
    found = amax(weight)
    assert found.dtype == torch.float32
    assert torch.equal(found, weight.abs().max().float())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_that_is_not_finite(
    dtype: torch.dtype, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_CHUNK", 64)
    monkeypatch.setattr(packing, "_cores", lambda: 2)
    weight = torch.randn(9, 32).to(dtype)
    weight[5, 17] = weight[8, 0] = value
    block_scale = torch.ones(9, 2).to(torch.float8_e4m3fn)
    for call in (
        lambda: pack(weight, ONE),
        lambda: pack(weight, ONE, block_scale),
        lambda: amax(weight),
    ):
        with pytest.raises(ScionError) as caught:
            call()
        assert caught.value.where == "weight[5, 17]"
        assert caught.value.found == str(value)


WEIGHT = torch.ones(4, 32)
SCALE = torch.ones(4, 2).to(torch.float8_e4m3fn)
NAN = torch.full((4, 2), 0xFF, dtype=torch.uint8).view(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("arguments", "where", "found"),
    [
        ((WEIGHT.double(), ONE), "weight", "torch.float64"),
        ((WEIGHT[:, :24].contiguous(), ONE), "weight", "shape [4, 24]"),
        ((WEIGHT.view(2, 2, 32), ONE), "weight", "shape [2, 2, 32]"),
        ((torch.ones(32), ONE), "weight", "shape [32]"),
        ((WEIGHT.view(8, 16).T, ONE), "weight", "strides [1, 16]"),
        ((WEIGHT.to("meta"), ONE), "weight", "one on meta"),
        ((WEIGHT, ONE.double()), "global_scale", "torch.float64"),
        ((WEIGHT, ONE.view(1)), "global_scale", "shape [1]"),
        ((WEIGHT, ONE.to("meta")), "global_scale", "one on meta"),
        ((WEIGHT, ONE * 0), "global_scale", "0.0"),
        ((WEIGHT, -ONE), "global_scale", "-1.0"),
        ((WEIGHT, ONE * torch.nan), "global_scale", "nan"),
        ((WEIGHT, ONE * torch.inf), "global_scale", "inf"),
        ((WEIGHT, ONE, SCALE.float()), "block_scale", "torch.float32"),
        ((WEIGHT, ONE, SCALE[:3]), "block_scale", "shape [3, 2]"),
        ((WEIGHT, ONE, SCALE.view(2, 4).T), "block_scale", "strides [1, 4]"),
        ((WEIGHT, ONE, NAN), "block_scale[0, 0]", "nan"),
    ],
)
def test_what_is_refused(arguments: tuple[Tensor, ...], where: str, found: str) -> None:
    with pytest.raises(ScionError) as caught:
        pack(*arguments)
    assert caught.value.where == where
    assert caught.value.found == found


@pytest.mark.parametrize("weight", [torch.ones(4).double(), torch.ones(0), torch.ones(4, 4).T[:3]])
def test_what_amax_refuses(weight: Tensor) -> None:
    with pytest.raises(ScionError, match="can't be packed"):
        amax(weight)
