"""The scan's kernels against plain and slow ones, and the rules' figures against ModelOpt."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from safetensors import safe_open

from conversion import Conversion
from lint_checkpoints import Stored, nvfp4, scalar, write_tensors
from scion.architectures.inventory import inventory
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.safetensors_file import DTYPE_BITS
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.engines.registry.engines import DEFAULT_ENGINES
from scion.lint import scan as scanning
from scion.lint.kernels import FLOATS, Blocks, Numbers, ZeroRows
from scion.lint.rules.deep import RULES, is_saturated
from scion.lint.scan import Scan, scan
from scion.lint.subject import Subject

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
}


def open_subject(folder: Path) -> Subject:
    return Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES)


def findings(folder: Path) -> dict[str, list[str | None]]:
    """The subjects that each rule names."""
    subject = open_subject(folder)
    found = {rule.code: [finding.subject for finding in rule.check(subject)] for rule in RULES}
    return {code: subjects for code, subjects in found.items() if subjects}


def checkpoint(folder: Path, tensors: dict[str, Stored]) -> Path:
    folder.mkdir()
    write_tensors(folder, tensors, shards=2)
    (folder / "config.json").write_text(json.dumps({"model_type": "unknown"}))
    return folder


def decoded(dtype: str, raw: bytes) -> torch.Tensor:
    numbers = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.tensor([])
    return (numbers.view(TORCH[dtype]) if raw else numbers).double()


def plain_numbers(dtype: str, raw: bytes, columns: int) -> tuple[int, int | None, list[int]]:
    """Numbers that are not finite, the first of them, and the zero rows; one after another."""
    numbers = decoded(dtype, raw).tolist()
    bad = [index for index, number in enumerate(numbers) if not abs(number) < float("inf")]
    rows = [numbers[begin : begin + columns] for begin in range(0, len(numbers), columns)]
    zero = [index for index, row in enumerate(rows) if all(number == 0 for number in row)]
    return len(bad), bad[0] if bad else None, zero


def plain_blocks(codes: bytes, scales: bytes, columns: int) -> dict[str, Any]:
    """What `Blocks` counts, a block at a time."""
    found = dict.fromkeys(("full", "at_top", "below_top", "lost", "negative", "nan"), 0)
    live: list[bool] = []
    for index, scale in enumerate(decoded("F8_E4M3", scales).tolist()):
        block = codes[8 * index : 8 * index + 8]
        sizes = [code & 7 for byte in block for code in (byte & 15, byte >> 4)]
        found["full"] += sizes.count(7)
        found["at_top"] += scale == 448
        found["below_top"] += scale == 416
        found["lost"] += scale == 0 and any(sizes)
        found["negative"] += scale < 0
        found["nan"] += scale != scale
        live.append(any(sizes) and scale != 0)
    rows = [live[begin : begin + columns] for begin in range(0, len(live), columns)]
    zero = [index for index, row in enumerate(rows) if not any(row)]
    return {**found, "total": len(live), "zero": zero}


def cut(raw: bytes, cuts: list[int], unit: int) -> list[np.ndarray]:
    """`raw` in pieces of whole units."""
    borders = sorted({0, len(raw) // unit, *(place % (len(raw) // unit + 1) for place in cuts)})
    data = np.frombuffer(raw, np.uint8)
    return [data[begin * unit : end * unit] for begin, end in pairwise(borders)]


def zero_some_rows(draw: st.DrawFn, rows: list[bytes], *, unit: bytes) -> bytes:
    """The rows, some of them filled with a unit of zero."""
    chosen = draw(st.sets(st.integers(0, len(rows) - 1)))
    return b"".join(
        unit * (len(row) // len(unit)) if index in chosen else row for index, row in enumerate(rows)
    )


@st.composite
def matrices(draw: st.DrawFn) -> tuple[str, int, bytes]:
    """Dtype, columns, data: any bits at all, so many a NaN, and rows of zero and minus zero."""
    dtype = draw(st.sampled_from(sorted(FLOATS)))
    size = DTYPE_BITS[dtype] // 8
    columns = draw(st.integers(1, 20))
    width = columns * size
    rows = draw(st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=8))
    unit = draw(st.sampled_from([bytes(size), bytes(size - 1) + b"\x80"]))
    return dtype, columns, zero_some_rows(draw, rows, unit=unit)


@st.composite
def packed_matrices(draw: st.DrawFn) -> tuple[int, bytes, bytes]:
    """Blocks in a row, codes, scales: the scales often at the edges of their range."""
    columns = draw(st.integers(1, 5))
    count = columns * draw(st.integers(1, 6))
    blocks = [draw(st.binary(min_size=8, max_size=8)) for _ in range(count)]
    edges = st.sampled_from(b"\x00\x01\x7d\x7e\x7f\x80\x81\xb8\xff")
    scales = bytes(draw(st.lists(edges | st.integers(0, 255), min_size=count, max_size=count)))
    return columns, zero_some_rows(draw, blocks, unit=b"\x08"), scales


@given(matrix=matrices(), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_numbers_are_counted_wherever_the_data_is_cut(
    matrix: tuple[str, int, bytes], cuts: list[int]
) -> None:
    dtype, columns, raw = matrix
    numbers = Numbers(FLOATS[dtype], ZeroRows(columns))
    for chunk in cut(raw, cuts, DTYPE_BITS[dtype] // 8):
        numbers.take(chunk)
    assert numbers.rows
    count, first, zero = plain_numbers(dtype, raw, columns)
    assert (numbers.not_finite, numbers.first) == (count, first)
    assert (numbers.rows.count, numbers.rows.first) == (len(zero), zero[0] if zero else None)
    assert numbers.rows.total == len(raw) * 8 // DTYPE_BITS[dtype] // columns


@pytest.mark.parametrize("dtype", sorted(FLOATS))
def test_every_bit_pattern_is_judged_as_torch_does(dtype: str) -> None:
    kept = min(DTYPE_BITS[dtype] // 8, 2)
    padding = bytes(DTYPE_BITS[dtype] // 8 - kept)
    for value in range(256**kept):
        raw = padding + value.to_bytes(kept, "little")
        numbers = Numbers(FLOATS[dtype])
        numbers.take(np.frombuffer(raw, np.uint8))
        assert numbers.not_finite == (not decoded(dtype, raw).isfinite().item()), value


@given(matrix=packed_matrices(), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_blocks_are_counted_wherever_the_data_is_cut(
    matrix: tuple[int, bytes, bytes], cuts: list[int]
) -> None:
    columns, codes, scales = matrix
    blocks = Blocks(ZeroRows(columns))
    for piece, of_it in zip(cut(codes, cuts, 8), cut(scales, cuts, 1), strict=True):
        blocks.take(piece, of_it)
    wanted = plain_blocks(codes, scales, columns)
    zero = wanted.pop("zero")
    assert {name: getattr(blocks, name) for name in wanted} == wanted
    assert blocks.rows
    assert (blocks.rows.count, blocks.rows.first) == (len(zero), zero[0] if zero else None)


SHAPES = {
    "empty.weight": ("BF16", (0, 32)),
    "narrow.weight": ("BF16", (5, 0)),
    "scalar": ("F32", ()),
    "norm.weight": ("BF16", (37,)),
    "conv1d.weight": ("F16", (6, 1, 4)),
    "wide.weight": ("BF16", (3, 333)),
    "column.weight": ("F32", (77, 1)),
    "eighth.weight": ("F8_E4M3", (9, 31)),
    "fifth.weight": ("F8_E5M2", (9, 31)),
    "double": ("F64", (2, 3, 5)),
    "bytes": ("U8", (40,)),
    "experts.gate_up_proj": ("BF16", (2, 8, 16)),
}


def odd_checkpoint(folder: Path) -> dict[str, Stored]:
    """A checkpoint of tensors of all kinds: any bits, every third row of them zero."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Stored] = {}
    for name, (dtype, shape) in SHAPES.items():
        size = DTYPE_BITS[dtype] // 8 * math.prod(shape)
        data = np.frombuffer(rng.bytes(size), np.uint8).copy()
        if len(shape) == 2 and size:
            data.reshape(shape[0], -1)[::3] = 0
        tensors[name] = Stored(dtype, shape, data.tobytes())
    for module, shape in (("one_block", (7, 16)), ("wide_blocks", (5, 1040)), ("none", (0, 32))):
        tensors |= nvfp4(module, shape, compressed=module == "one_block")
        scales = tensors[f"{module}.weight_scale"]
        scales.data = rng.choice(np.arange(256, dtype=np.uint8), len(scales.data)).tobytes()
    checkpoint(folder, tensors)
    return tensors


@pytest.mark.parametrize("chunk", [8, 64, 1 << 20])
def test_a_scan_finds_what_a_plain_one_finds(chunk, monkeypatch, tmp_path: Path) -> None:
    tensors = odd_checkpoint(tmp_path / "model")
    monkeypatch.setattr(scanning, "CHUNK", chunk)
    found = scan(open_subject(tmp_path / "model"))
    check_numbers(found, tensors)
    check_blocks(found, tensors)


def check_numbers(found: Scan, tensors: dict[str, Stored]) -> None:
    expected = {
        name for name, (dtype, _) in SHAPES.items() if dtype in FLOATS and tensors[name].data
    }
    assert found.numbers.keys() == expected
    for name, numbers in found.numbers.items():
        stored = tensors[name]
        columns = stored.shape[-1] if stored.shape else 1
        count, first, zero = plain_numbers(stored.dtype, stored.data, columns)
        assert (numbers.not_finite, numbers.first) == (count, first), name
        is_matrix = name.endswith(".weight") and len(stored.shape) == 2
        assert (numbers.rows is not None) == is_matrix, name
        if numbers.rows:
            assert (numbers.rows.count, numbers.rows.total) == (len(zero), stored.shape[0]), name


def check_blocks(found: Scan, tensors: dict[str, Stored]) -> None:
    weights = {"one_block": "weight_packed", "wide_blocks": "weight"}
    assert found.blocks.keys() == weights.keys()
    for module, blocks in found.blocks.items():
        scales = tensors[f"{module}.weight_scale"]
        codes = tensors[f"{module}.{weights[module]}"].data
        wanted = plain_blocks(codes, scales.data, scales.shape[-1])
        zero = wanted.pop("zero")
        assert {name: getattr(blocks, name) for name in wanted} == wanted
        assert blocks.rows
        assert (blocks.rows.count, blocks.rows.total) == (len(zero), scales.shape[0])


def test_embeddings_and_heads_may_have_zero_rows(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    zero = {
        name: Stored("BF16", (16, 16), bytes(512))
        for name in ("lm_head.weight", "model.embed_tokens.weight", "visual.pos_embed.weight")
    }
    head = nvfp4("other.lm_head", (16, 16))
    head["other.lm_head.weight"].data = bytes(128)
    checkpoint(folder, {**zero, **head, "norm.weight": Stored("BF16", (16,), bytes(32))})
    assert findings(folder) == {}


@pytest.mark.parametrize(
    ("weight", "scale"),
    [
        (("U8", (4, 16)), ("F8_E4M3", (4, 1))),
        (("U8", (4, 16)), ("F8_E4M3", (64,))),
        (("U8", (4, 16)), ("U8", (4, 2))),
        (("I32", (4, 4)), ("F8_E4M3", (4, 2))),
        (("U8", ()), ("F8_E4M3", ())),
    ],
)
def test_codes_and_scales_that_do_not_fit_are_left_to_other_rules(weight, scale, tmp_path) -> None:
    tensors = {
        f"module.{suffix}": Stored(dtype, shape, bytes(DTYPE_BITS[dtype] // 8 * math.prod(shape)))
        for suffix, (dtype, shape) in (("weight_packed", weight), ("weight_scale", scale))
    }
    subject = open_subject(checkpoint(tmp_path / "model", tensors))
    assert scan(subject).blocks == {}


def test_scalar_scales_of_weights_are_left_to_other_rules(tmp_path: Path) -> None:
    tensors = {"module.weight": Stored("F8_E4M3", (2, 2), b"\x38" * 4)}
    for suffix in ("weight_scale", "input_scale", "k_scale"):
        tensors[f"module.{suffix}"] = scalar(float("nan"))
    assert findings(checkpoint(tmp_path / "model", tensors)) == {"D703": ["module.k_scale"]}


def test_a_subject_is_scanned_once(monkeypatch, tmp_path: Path) -> None:
    odd_checkpoint(tmp_path / "model")
    subject = open_subject(tmp_path / "model")
    first = scan(subject)
    monkeypatch.setattr(scanning, "_run", pytest.fail)
    assert scan(subject) is first


def test_a_file_that_shrinks_is_named(tmp_path: Path) -> None:
    odd_checkpoint(tmp_path / "model")
    subject = open_subject(tmp_path / "model")
    shard = tmp_path / "model/model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ScionError, match="cut short") as raised:
        scan(subject)
    assert raised.value.where == str(shard)


def test_an_error_ends_the_scan_at_once(monkeypatch, tmp_path: Path) -> None:
    """Ctrl-C takes the same way: an exception while results are waited for."""
    taken: list[int] = []

    def take(_numbers: Numbers, _raw: np.ndarray) -> None:
        taken.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(scanning, "CHUNK", 8)
    monkeypatch.setattr(Numbers, "take", take)
    many = {f"norm{index}": Stored("BF16", (4096,), bytes(8192)) for index in range(64)}
    checkpoint(tmp_path / "model", many)
    with pytest.raises(KeyboardInterrupt):
        scan(open_subject(tmp_path / "model"))
    assert len(taken) < len(many)


KINDS = {
    "bell curve": lambda rng, shape: rng.normal(size=shape),
    "even": lambda rng, shape: rng.uniform(-1, 1, shape),
    "heavy tails": lambda rng, shape: rng.standard_t(4, shape),
    "peaked": lambda rng, shape: rng.laplace(size=shape),
    "rows of any size": lambda rng, shape: (
        rng.normal(size=shape) * rng.lognormal(0, 1, (shape[0], 1))
    ),
    "sparse": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.1),
}


def drawn(kind: str, *, seed: int = 0, shape: tuple[int, int] = (256, 512)) -> torch.Tensor:
    values = KINDS[kind](np.random.default_rng(seed), shape)
    return torch.tensor(values, dtype=torch.float32).bfloat16()


def quantized(weight: torch.Tensor, *, shrunk: float = 1) -> Blocks:
    """What ModelOpt makes of a matrix, with weight_scale_2 that many times too small."""
    modelopt: Any = NVFP4QTensor
    scale_2 = modelopt.get_weights_scaling_factor_2(weight) / shrunk
    made, scales, _ = modelopt.quantize(weight.clone(), 16, weights_scaling_factor_2=scale_2)
    blocks = Blocks()
    codes = made._quantized_data.contiguous().numpy()
    blocks.take(codes.reshape(-1), scales.contiguous().view(torch.uint8).numpy().reshape(-1))
    return blocks


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), larger=st.floats(1, 8))
def test_what_modelopt_makes_is_not_saturated(kind: str, seed: int, larger: float) -> None:
    """Nor is a part of a fused layer, whose scale is that of the part with the largest weight."""
    weight = drawn(kind, seed=seed)
    assert not is_saturated(quantized(weight))
    assert not is_saturated(quantized(weight, shrunk=1 / larger))


@pytest.mark.parametrize("kind", KINDS)
def test_nor_is_a_large_matrix(kind: str) -> None:
    """Chance has left its blocks; what bf16 rounds has not."""
    assert not is_saturated(quantized(drawn(kind, shape=(1024, 2048))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shrunk", [8, 64, 1000])
def test_clipping_is_seen(kind: str, shrunk: float) -> None:
    assert is_saturated(quantized(drawn(kind), shrunk=shrunk))


def test_clipping_of_real_weights_is_seen(conversion: Conversion) -> None:
    """At half of the largest weight, most modules show it; at a quarter, nearly all."""
    source = Checkpoint.open(conversion.extract_text.folder)
    shares: dict[int, list[bool]] = {1: [], 2: [], 4: []}
    for module in inventory(source.config, where="the source").quantized:
        name = f"{module}.weight"
        with safe_open(source.folder / source.shard_of[name], framework="pt") as file:
            weight = file.get_tensor(name)
        for shrunk, seen in shares.items():
            seen.append(is_saturated(quantized(weight, shrunk=shrunk)))
    assert not any(shares[1])
    assert np.mean(shares[2]) > 0.5
    assert np.mean(shares[4]) > 0.9


def test_codes_that_fill_their_blocks_are_seen() -> None:
    """Block scales too small for their codes, though none is at its maximum."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 512))
    scale = np.abs(weight).reshape(64, -1, 16).max(-1).repeat(16, -1) / 6
    for shrunk, expected in ((1, False), (3, True)):
        sizes = np.minimum(np.rint(np.abs(weight) / scale * shrunk), 6)
        codes = np.searchsorted([0, 0.5, 1, 1.5, 2, 3, 4, 6], sizes).astype(np.uint8)
        blocks = Blocks()
        blocks.take(
            (codes[:, ::2] | codes[:, 1::2] << 4).reshape(-1), np.full(64 * 32, 0x38, np.uint8)
        )
        assert is_saturated(blocks) == expected


def test_a_real_release_has_no_finding(release: Path) -> None:
    assert findings(release) == {}
    found = scan(open_subject(release))
    assert found.blocks
    assert all(blocks.at_top <= blocks.total / 10 for blocks in found.blocks.values())


def test_its_source_has_no_finding(conversion: Conversion) -> None:
    assert findings(conversion.extract_text.folder) == {}
