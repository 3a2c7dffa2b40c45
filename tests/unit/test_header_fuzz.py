"""Headers broken at random: a header or a refusal, never anything else, and held to the library.

The mutations follow from a seed, so a count that changes is a change of the code. `pytest -s` shows
how many were accepted. safetensors' own reader is the oracle: whatever is accepted here, it accepts
too, and the other way round, but for the differences that are named below.
"""

import random
import re
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from checkpoints import header_bytes
from hostile import measured, one, tensors, write_shard
from scion.checkpoint.safetensors_file import DTYPE_BITS, Header, header_length, parse_header
from scion.common.errors import ScionError

CASES = 50_000
PICO = Path(__file__).parents[2] / "resources/pico/pico-base/model-00003-of-00003.safetensors"

# What only the library accepts, by what is said here. Of a name that stands twice it keeps the
# last; it takes any JSON white space in front, null for no metadata, a list for an entry's values
# in order, {"U8": null} for a dtype, and a name that no module can have.
STRICTER = (
    "a key stands twice",
    "does not begin with {",
    "__metadata__ must map",
    "list indices must be",
    "unhashable type: 'dict'",
    "a tensor without a name",
)
# What only Scion accepts: minus zero, which is zero; a field that nobody reads, nested more deeply
# than the library's parser goes.
LAXER = (re.compile(rb"-0\b"), re.compile(rb"[\[{]{100}"))

TOKENS = (
    *(b"0", b"-0", b"-1", b"1", b"4.0", b"1e400", b"NaN", b"Infinity", b"9" * 5000),
    *(str(2**bits + by).encode() for bits in (31, 32, 53, 62, 63, 64) for by in (-1, 0, 1)),
    *(b"true", b"null", b"[]", b"{}", b"[1,2]", b'""', b'"x"', b'{"U8":null}', b"[" * 300),
    *(b'"__metadata__":null,', b'"__metadata__":{},', b'"dtype":"U8",', b'"a":1,', b',"x":1.5'),
    *(b"\\u0000", b"\\ud800", b"\\ud83d\\ude00", b"\x00", b"\x1b", b"\xff", b"\xef\xbb\xbf"),
    *(f'"{dtype}"'.encode() for dtype in DTYPE_BITS),
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b" ", b"\n"),
)


def seeds() -> list[tuple[bytes, int]]:
    """Sound headers, each with the size of its data."""
    arrays = {
        "model.layers.0.weight": np.zeros((3, 8), np.uint8),
        "model.layers.0.weight_scale_2": np.zeros((), np.float32),
        "empty": np.zeros((0, 4), np.float16),
        "ä": np.zeros((2, 2), np.int64),
    }
    packed = {"f4": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}}
    one = {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}
    contents = [save(arrays, metadata={"format": "pt"}), save({}), PICO.read_bytes()]
    contents.append(header_bytes({**packed, "__metadata__": {}}) + bytes(4))
    contents.append(header_bytes(one) + b"abcd")
    made: list[tuple[bytes, int]] = []
    for content in contents:
        end = 8 + struct.unpack("<Q", content[:8])[0]
        made.append((content[8:end], len(content) - end))
    return made


def flip(raw: bytearray, rng: random.Random) -> None:
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)


def cut(raw: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(raw))
    del raw[begin : begin + rng.choice((1, 2, 8, len(raw)))]


def splice(raw: bytearray, rng: random.Random) -> None:
    begin, to = rng.randrange(len(raw)), rng.randrange(len(raw))
    part = raw[begin : begin + rng.choice((1, 8, 60, 200))]
    raw[to : to + rng.choice((0, len(part)))] = part


def insert(raw: bytearray, rng: random.Random) -> None:
    to = rng.randrange(len(raw) + 1)
    raw[to:to] = rng.choice(TOKENS)


def replace_token(raw: bytearray, rng: random.Random) -> None:
    """Put another number or word where one stands."""
    places = list(re.finditer(rb'-?\d+|"[^"]*"|\[[^\[\]]*\]|null|true', raw))
    if places:
        place = rng.choice(places)
        raw[place.start() : place.end()] = rng.choice(TOKENS)


def repeat_entry(raw: bytearray, rng: random.Random) -> None:
    """Put an entry in again, or take one out."""
    entries = list(re.finditer(rb'"[^"]*":\{[^{}]*\},?', raw))
    if entries:
        entry = rng.choice(entries)
        raw[entry.start() : rng.choice((entry.start(), entry.end()))] = rng.choice(
            (b"", entry.group(), entry.group().replace(b":{", b"2:{", 1))
        )


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip,
    cut,
    splice,
    insert,
    replace_token,
    repeat_entry,
)


def check_invariants(header: Header, size: int) -> None:
    """Every tensor lies in the file, as long as its shape says, and none overlaps another."""
    position = 0
    for tensor in sorted(header.tensors.values(), key=lambda each: (each.begin, each.end)):
        assert tensor.name
        assert position == tensor.begin <= tensor.end
        assert all(type(length) is int and length >= 0 for length in tensor.shape)
        count = 1
        for length in tensor.shape:
            count *= length
        assert tensor.size * 8 == count * DTYPE_BITS[tensor.dtype]
        position = tensor.end
    assert header.data_start + position == size
    assert all(type(value) is str for value in header.metadata.values())


def judge(content: bytes) -> tuple[str, str]:
    """What becomes of a file here and in the library: nothing, or why it is refused."""
    ours = theirs = ""
    try:
        length = header_length(content[:8], file_size=len(content), where="x")
        raw = content[8 : 8 + length]
        check_invariants(parse_header(raw, file_size=len(content), where="x"), len(content))
    except ScionError as error:
        ours = f"{error.problem}: {error.found}"
    try:
        deserialize(content)
    except SafetensorError as error:
        theirs = str(error) or "refused"
    return ours, theirs


def test_broken_headers_are_headers_or_refusals_as_in_the_library() -> None:
    started, rng, counts = time.monotonic(), random.Random(0), Counter[str]()
    sound = seeds()
    for _ in range(CASES):
        raw, size = rng.choice(sound)
        broken = bytearray(raw)
        for _ in range(rng.choice((1, 1, 2, 3))):
            if broken:
                rng.choice(MUTATIONS)(broken, rng)
        # Sometimes the length stays what it was, so that the header ends too early or too late.
        length = len(raw) if rng.random() < 0.1 else len(broken)
        content = struct.pack("<Q", length) + broken + bytes(size)
        ours, theirs = judge(content)
        assert len(ours) < 1000
        assert ours.isprintable()
        if ours and not theirs:
            assert any(reason in ours for reason in STRICTER), (ours, bytes(broken))
        if theirs and not ours:
            assert any(pattern.search(broken) for pattern in LAXER), (theirs, bytes(broken))
        both = "accepted by both" if not ours and not theirs else "refused by both"
        counts[both if bool(ours) == bool(theirs) else "only here" if theirs else "only there"] += 1
    print(f"{CASES} headers in {time.monotonic() - started:.1f} s: {dict(counts)}")
    assert counts["accepted by both"] > CASES / 50
    assert counts["refused by both"] > CASES / 2


ENTRY = b'{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    "header",
    [
        b' {"a":%s}' % ENTRY,
        b'{"a":%s,"a":%s}' % (ENTRY, ENTRY),
        b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1,"x":1}}',
        b'{"__metadata__":null,"a":%s}' % ENTRY,
        b'{"a":["U8",[4],[0,4]]}',
        b'{"a":{"dtype":{"U8":null},"shape":[4],"data_offsets":[0,4]}}',
        b'{"":%s}' % ENTRY,
    ],
)
def test_what_only_the_library_accepts(header: bytes) -> None:
    ours, theirs = judge(header_bytes(header) + b"abcd")
    assert any(reason in ours for reason in STRICTER)
    assert not theirs


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}}',
        b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":%s1%s}}'
        % (b"[" * 200, b"]" * 200),
    ],
)
def test_what_only_scion_accepts(header: bytes) -> None:
    ours, theirs = judge(header_bytes(header) + b"abcd")
    assert not ours
    assert theirs
    assert any(pattern.search(header) for pattern in LAXER)


SCRIPT = (
    "import sys; from pathlib import Path; "
    "from scion.checkpoint.safetensors_file import read_header; read_header(Path(sys.argv[1]))"
)


def test_a_large_header_of_a_real_kind_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_shard(path, tensors(300_000)[:-1] + b"," + one()[1:])
    done = measured([sys.executable, "-c", SCRIPT, str(path)])
    assert (done.status, done.errors) == (0, "")
    assert done.peak_mb < 1000
