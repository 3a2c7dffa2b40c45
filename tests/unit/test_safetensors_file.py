import contextlib
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load_file, save, save_file

from checkpoints import header_bytes, write_safetensors
from scion.checkpoint.safetensors_file import (
    Tensor,
    copy_renamed,
    copy_subset,
    digest_safetensors,
    digest_tensors,
    encode_header,
    header_length,
    parse_header,
    read_header,
)
from scion.common.errors import ScionError


def entry(offsets: Any = (0, 4), *, dtype: Any = "U8", shape: Any = (4,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


SOUND = header_bytes({"a": entry()}) + b"abcd"
HOSTILE = {
    "empty file": (b"", "too short"),
    "cut inside the length": (b"\x02\0\0", "too short"),
    "length one past the end": (struct.pack("<Q", 3) + b"{}", "past the end"),
    "length 2^63": (struct.pack("<Q", 2**63) + b"{}", "past the end"),
    "length 2^64 - 1": (struct.pack("<Q", 2**64 - 1) + b"{}", "past the end"),
    "cut inside the header": (SOUND[:20], "past the end"),
    "cut inside the data": (SOUND[:-1], "disagree"),
    "bytes after the data": (SOUND + b"x", "disagree"),
    "not JSON": (header_bytes(b"{a}"), "can't be read"),
    "not an object": (header_bytes([1]), "can't be read"),
    "not UTF-8": (header_bytes(b'{"\xff": 1}'), "can't be read"),
    "a lone surrogate": (header_bytes({"\ud800": entry()}) + b"abcd", "can't be read"),
    "a name twice": (
        header_bytes(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2)) + b"abcd",
        "can't be read",
    ),
    "deep nesting": (header_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "can't be read"),
    "metadata that is a list": (header_bytes({"__metadata__": [1]}), "can't be read"),
    "metadata that is no string": (header_bytes({"__metadata__": {"a": 1}}), "can't be read"),
    "overlap": (header_bytes({"a": entry(), "b": entry((2, 6))}) + b"abcdef", "overlap"),
    "the same range twice": (header_bytes({"a": entry(), "b": entry()}) + b"abcd", "overlap"),
    "hole": (header_bytes({"a": entry(), "b": entry((5, 9))}) + b"abcdefghi", "hole"),
    "hole at the start": (header_bytes({"a": entry((1, 5))}) + b"abcde", "hole"),
    "out of range": (header_bytes({"a": entry((0, 4)), "b": entry((4, 8))}) + b"abcd", "disagree"),
    "negative begin": (header_bytes({"a": entry((-4, 0))}) + b"abcd", "malformed"),
    "end before begin": (header_bytes({"a": entry((4, 0))}) + b"abcd", "does not fit its shape"),
    "negative shape": (header_bytes({"a": entry(shape=(-4,))}) + b"abcd", "malformed"),
    "fraction": (header_bytes({"a": entry((0, 4.0))}) + b"abcd", "malformed"),
    "truth value": (header_bytes({"a": entry((False, 4))}) + b"abcd", "malformed"),
    "three offsets": (header_bytes({"a": entry((0, 4, 8))}) + b"abcd", "malformed"),
    "unknown dtype": (header_bytes({"a": entry(dtype="F7")}) + b"abcd", "malformed"),
    "dtype that is a list": (header_bytes({"a": entry(dtype=[])}) + b"abcd", "malformed"),
    "no offsets": (header_bytes({"a": {"dtype": "U8", "shape": [4]}}) + b"abcd", "malformed"),
    "no entry": (header_bytes({"a": None}), "malformed"),
    "shape beyond every file": (header_bytes({"a": entry(shape=[2**62] * 40)}), "malformed"),
    "wrong size": (header_bytes({"a": entry(shape=(5,))}) + b"abcd", "does not fit its shape"),
    "white space first": (
        header_bytes(b" " + json.dumps({"a": entry()}).encode()) + b"abcd",
        "read",
    ),
    "NUL at the end": (header_bytes(json.dumps({"a": entry()}).encode() + b"\0") + b"abcd", "read"),
    "half a byte": (header_bytes({"a": entry(dtype="F4", shape=(7,))}) + b"abcd", "does not fit"),
}


@pytest.mark.parametrize(("content", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_with_its_name(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ScionError, match=problem) as caught:
        read_header(path)
    assert caught.value.where.startswith(str(path))
    assert caught.value.found


def test_the_library_takes_none_of_them_but_two() -> None:
    taken = list[str]()
    for name, (content, _) in HOSTILE.items():
        with contextlib.suppress(SafetensorError):
            deserialize(content)
            taken.append(name)
    # Its README disallows these, too.
    assert taken == ["a name twice", "white space first"]


def test_a_header_of_over_100_megabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)
    with pytest.raises(ScionError, match="past the end"):
        read_header(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), JSON), st.integers(0, 100))
def test_any_json_is_a_header_or_a_refusal(header: dict[str, Any], size: int) -> None:
    raw = json.dumps(header).encode()
    try:
        parsed = parse_header(raw, file_size=8 + len(raw) + size, where="x")
    except ScionError:
        return
    assert sum(tensor.size for tensor in parsed.tensors.values()) == size


@given(st.integers(0, len(SOUND) - 1), st.integers(0, 255))
def test_any_changed_byte_gives_a_header_or_a_refusal(position: int, value: int) -> None:
    content = bytearray(SOUND)
    content[position] = value
    with contextlib.suppress(ScionError):
        length = header_length(bytes(content[:8]), file_size=len(content), where="x")
        parse_header(bytes(content[8 : 8 + length]), file_size=len(content), where="x")


ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(
        st.sampled_from([np.uint8, np.int16, np.float32, np.float64]),
        st.lists(st.integers(0, 3), max_size=3),
    ).map(lambda made: np.zeros(made[1], dtype=made[0])),
    max_size=5,
)


@given(ARRAYS)
def test_what_the_library_writes_is_read_and_written_again(arrays: dict[str, Any]) -> None:
    content = save(arrays, metadata={"format": "pt"})
    length = 8 + int.from_bytes(content[:8], "little")
    header = parse_header(content[8:length], file_size=len(content), where="x")
    assert {name: tensor.shape for name, tensor in header.tensors.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    again = encode_header(header.tensors.values(), header.metadata)
    assert parse_header(again[8:], file_size=len(again) + len(content) - length, where="x") == (
        type(header)(header.tensors, header.metadata, len(again))
    )


def test_the_exact_bytes_of_a_header() -> None:
    tensors = [Tensor("b", "BF16", (2, 1), 0, 4), Tensor("ä", "F32", (), 4, 8)]
    text = (
        '{"__metadata__":{"a":"1","b":"2"},'
        '"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},'
        '"ä":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}'
    ).encode()
    padding = b" " * (-len(text) % 8)
    expected = struct.pack("<Q", len(text) + len(padding)) + text + padding
    assert encode_header(tensors, {"b": "2", "a": "1"}) == expected
    assert encode_header([], {}) == struct.pack("<Q", 8) + b"{}      "


def test_a_header_takes_exactly_the_length_asked_for() -> None:
    assert encode_header([], {}, length=24) == struct.pack("<Q", 16) + b"{}".ljust(16)
    with pytest.raises(ValueError, match="does not fit"):
        encode_header([], {}, length=9)


@pytest.mark.parametrize("new", ["a", "a.name.that.is.longer.than.before" * 4])
def test_renaming_moves_no_tensor_byte(tmp_path: Path, new: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    write_safetensors(source, {"prefix.prefix.a": (3, 5), "b": (7,)})
    old = read_header(source)
    copy_renamed(source, target, {"prefix.prefix.a": new, "b": "b"})
    header = read_header(target)
    assert list(header.tensors) == [new, "b"]
    assert target.read_bytes()[header.data_start :] == source.read_bytes()[old.data_start :]
    if len(new) < len("prefix.prefix.a"):
        assert header.data_start == old.data_start


def test_a_subset_is_packed_and_bit_equal(tmp_path: Path) -> None:
    arrays = {
        name: np.random.default_rng(seed).integers(0, 255, (seed, 3), np.uint8)
        for seed, name in enumerate("abcde", start=1)
    }
    save_file(arrays, tmp_path / "source", metadata={"format": "pt"})
    copy_subset(tmp_path / "source", tmp_path / "target", ["e", "b"])
    loaded = load_file(tmp_path / "target")
    assert set(loaded) == {"b", "e"}
    assert all(np.array_equal(loaded[name], arrays[name]) for name in loaded)
    header = read_header(tmp_path / "target")
    assert header.metadata == {"format": "pt"}
    assert (tmp_path / "target").stat().st_size == header.data_start + 6 + 15


def test_digests_are_those_of_the_file_and_of_each_tensors_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    # More than two chunks of one megabyte, at an odd offset.
    arrays = {
        "a": np.arange(7, dtype=np.uint8),
        "b": np.random.default_rng(0).integers(0, 255, 2_500_001, np.uint8),
        "empty": np.zeros((0, 3), np.uint8),
    }
    save_file(arrays, path)
    digest = digest_safetensors(path)
    assert digest.size == path.stat().st_size
    assert digest.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest.tensors == {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()
    }


@given(
    sizes=st.lists(st.integers(0, 40), max_size=5), cuts=st.lists(st.integers(0, 400), max_size=9)
)
def test_digests_are_the_same_wherever_the_bytes_are_cut(sizes: list[int], cuts: list[int]) -> None:
    arrays = {f"t{n}": np.full(size, n, np.uint8) for n, size in enumerate(sizes)}
    raw = save(arrays)
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {len(raw)})
    # Equal ends make an empty piece.
    pieces = [raw[begin:end] for begin, end in zip([0, *ends], [*ends, ends[-1]], strict=True)]
    header, digests = digest_tensors(pieces, size=len(raw), where="x")
    assert digests == {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()
    }
    assert header.data_start + sum(sizes) == len(raw)


def test_bytes_that_end_too_early_are_told() -> None:
    with pytest.raises(EOFError, match="ended 4 too early"):
        digest_tensors([SOUND[:-4]], size=len(SOUND), where="x")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_stream_is_refused_as_the_file_is(name: str) -> None:
    raw, problem = HOSTILE[name]
    with pytest.raises(ScionError, match=problem):
        digest_tensors(iter([raw]), size=len(raw), where="x")
