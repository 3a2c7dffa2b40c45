"""One safetensors file: its header read with suspicion, rewritten in place, its ranges copied.

A file is eight bytes (little-endian length N), N bytes of JSON, then the tensors' bytes. The JSON
maps each name to `dtype`, `shape` and `data_offsets` [begin, end) counted from the end of the
header; an optional `__metadata__` maps strings to strings. Tensors lie end to end: no overlaps,
no holes (https://github.com/huggingface/safetensors#format). Nothing here loads tensor data into
memory beyond one chunk, and nothing needs torch.

Headers may come from anybody. A length is held against the file before anything is read, the
values are counted before anything is parsed (`scion.common.bounded_json` has the bounds: below one
gigabyte at worst, while the header of a real shard takes a few megabytes), and numbers of more
than 64 bits are refused before anything is multiplied.
"""

import hashlib
import json
import os
import reprlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from scion.checkpoint.lfs import refuse_pointer
from scion.common.bounded_json import parse_json
from scion.common.digest import hashed_aside, read_chunks
from scion.common.errors import ScionError
from scion.common.files import copy_file, copy_range

# Bits an element; the 4- and 6-bit types of safetensors 0.6 and later pack several into a byte.
DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
# The library's own bound; a longer header is an attack or a broken length.
MAX_HEADER_BYTES = 100_000_000
_FETCH_AGAIN = "the file is damaged or cut short: fetch it again"
_MAX_NUMBER = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies: `begin` and `end` are byte offsets from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """A checked header. `data_start` is the file offset of the first tensor byte."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    data_start: int


@dataclass(frozen=True)
class FileDigest:
    """Hex SHA-256 of a whole safetensors file and of each tensor's raw bytes."""

    size: int
    sha256: str
    tensors: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        ScionError: The file is no sound safetensors file; the message names file and tensor.
    """
    with path.open("rb") as file:
        return read_open_header(file, where=path)


def read_open_header(file: BinaryIO, *, where: object) -> Header:
    """The same of a file that is open at its beginning; `where` is what to name in errors."""
    size = os.fstat(file.fileno()).st_size
    length = header_length(file.read(8), file_size=size, where=where)
    return parse_header(file.read(length), file_size=size, where=where)


def header_length(prefix: bytes, *, file_size: int, where: object) -> int:
    """The length of the JSON after the first eight bytes, checked against the file's size."""
    if len(prefix) < 8:
        raise ScionError(
            "not a safetensors file: too short to hold a header length",
            where=where,
            expected="at least 8 bytes",
            found=f"{len(prefix)} bytes",
            hint=_FETCH_AGAIN,
        )
    refuse_pointer(prefix, where=where)
    (length,) = struct.unpack("<Q", prefix)
    if length > min(file_size - 8, MAX_HEADER_BYTES):
        raise ScionError(
            "safetensors header runs past the end of the file",
            where=where,
            expected=f"a header of at most {min(file_size - 8, MAX_HEADER_BYTES)} bytes",
            found=f"a header length of {length} in a file of {file_size} bytes",
            hint=_FETCH_AGAIN,
        )
    return length


def parse_header(raw: bytes, *, file_size: int, where: object) -> Header:
    """Check the JSON part of a header against the size of its file.

    Args:
        raw: The JSON bytes, without the eight bytes of length.
        file_size: Size of the whole file in bytes.
        where: What to name in errors.

    Raises:
        ScionError: Not JSON, too much of it, a duplicate or malformed entry, ranges that overlap,
            leave a hole or do not end where the file ends.
    """
    entries = _decode(raw, where)
    metadata = entries.pop("__metadata__", {})
    tensors = {name: _tensor(name, entry, where) for name, entry in entries.items()}
    data_start = 8 + len(raw)
    _check_layout(tensors.values(), data_size=file_size - data_start, where=where)
    return Header(tensors=tensors, metadata=metadata, data_start=data_start)


def _decode(raw: bytes, where: object) -> dict[str, Any]:
    try:
        # The format demands it, though Python's parser would skip white space before it.
        if not raw.startswith(b"{"):
            raise ValueError("it does not begin with {")
        entries = parse_json(raw, strict=True)
        metadata = entries.get("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise ValueError("__metadata__ must map strings to strings")
        # JSON can spell half of a surrogate pair, which no file of ours could name.
        for text in (*entries, *metadata, *metadata.values()):
            text.encode()
    except ValueError as error:
        raise ScionError(
            "safetensors header can't be read",
            where=where,
            expected="a JSON object of unique tensor names",
            found=error,
            hint=_FETCH_AGAIN,
        ) from error
    return entries


def _tensor(name: str, entry: Any, where: object) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if type(shape) is not list or not all(map(_is_number, (*shape, begin, end))):
            raise ValueError("shape and offsets must be lists of non-negative 64-bit integers")
        bits = DTYPE_BITS[dtype] * _count(shape)
        if not name:
            raise ValueError("a tensor without a name")
    except (KeyError, TypeError, ValueError) as error:
        raise ScionError(
            "safetensors header has a malformed entry",
            where=f"{where}: {_shown(name)}",
            expected="dtype, shape and data_offsets of a known dtype",
            found=f"{reprlib.repr(entry)} ({_shown(str(error))})",
            hint=_FETCH_AGAIN,
        ) from error
    if (end - begin) * 8 != bits:
        raise ScionError(
            "a tensor's byte range does not fit its shape",
            where=f"{where}: {_shown(name)}",
            expected=f"{bits / 8:g} bytes for {dtype} {reprlib.repr(shape)}",
            found=f"data_offsets [{begin}, {end}], {end - begin} bytes",
            hint=_FETCH_AGAIN,
        )
    return Tensor(name, dtype, tuple(shape), begin, end)


def _is_number(value: Any) -> bool:
    # `isinstance` would take `true` for 1.
    return type(value) is int and 0 <= value <= _MAX_NUMBER


def _count(shape: Iterable[int]) -> int:
    """The number of elements; step by step, since a product of a million factors takes hours."""
    count = 1
    for length in shape:
        count *= length
        if count > _MAX_NUMBER:
            raise ValueError("the shape is larger than any file")
    return count


def _shown(text: str) -> str:
    """A stranger's name, fit for one line of a terminal."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _check_layout(tensors: Iterable[Tensor], *, data_size: int, where: object) -> None:
    position, previous = 0, "the header"
    for tensor in sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != position:
            raise ScionError(
                "tensors overlap" if tensor.begin < position else "tensors leave a hole",
                where=f"{where}: {_shown(tensor.name)}",
                expected=f"data_offsets to begin at {position}, where {_shown(previous)} ends",
                found=f"data_offsets [{tensor.begin}, {tensor.end}]",
                hint=_FETCH_AGAIN,
            )
        position, previous = tensor.end, tensor.name
    if position != data_size:
        raise ScionError(
            "tensor data and file size disagree (truncated or padded file)",
            where=where,
            expected=f"{position} bytes of tensor data, up to the end of {_shown(previous)}",
            found=f"{data_size} bytes",
            hint=_FETCH_AGAIN,
        )


def encode_header(
    tensors: Iterable[Tensor], metadata: Mapping[str, str], *, length: int | None = None
) -> bytes:
    """The bytes that stand before the data: the eight of length, then JSON padded with spaces.

    Args:
        tensors: In the order in which they shall be listed.
        metadata: Left out if empty. Keys are sorted, so equal input gives equal bytes.
        length: Pad to exactly this many bytes, the eight included; by default to a multiple of 8.
    """
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (tensor.begin, tensor.end),
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text_size = length - 8 if length is not None else -(-len(text) // 8) * 8
    if len(text) > text_size:
        raise ValueError(f"a header of {len(text)} bytes does not fit into {text_size}")
    return struct.pack("<Q", text_size) + text.ljust(text_size)


def packed(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The same tensors laid end to end, the first at the end of the header."""
    position, placed = 0, list[Tensor]()
    for tensor in tensors:
        placed.append(replace(tensor, begin=position, end=position + tensor.size))
        position += tensor.size
    return placed


def copy_renamed(source: Path, target: Path, names: Mapping[str, str]) -> None:
    """Copy a file whose tensors get new names; no tensor byte moves.

    The new header takes the old one's room, padded, so the data is a reflink or an in-kernel copy.
    Where longer names need more room, the data is copied behind a longer header.

    Args:
        source: The file to copy.
        target: The file to make.
        names: New name of every tensor by its old one.
    """
    header = read_header(source)
    tensors = [replace(tensor, name=names[tensor.name]) for tensor in header.tensors.values()]
    raw = encode_header(tensors, header.metadata)
    if len(raw) > header.data_start:
        with source.open("rb") as reader, target.open("wb") as writer:
            writer.write(raw)
            size = source.stat().st_size - header.data_start
            copy_range(reader, writer, offset=header.data_start, size=size)
        return
    raw = encode_header(tensors, header.metadata, length=header.data_start)
    copy_file(source, target)
    with target.open("r+b") as file:
        file.write(raw)


def copy_subset(source: Path, target: Path, keep: Iterable[str]) -> None:
    """Copy the tensors named in `keep`, packed end to end in the order of the source's data."""
    header = read_header(source)
    names = set(keep)
    old = sorted((header.tensors[name] for name in names), key=lambda tensor: tensor.begin)
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(encode_header(packed(old), header.metadata))
        for tensor in old:
            copy_range(reader, writer, offset=header.data_start + tensor.begin, size=tensor.size)


def digest_safetensors(path: Path, *, known: Mapping[str, str] | None = None) -> FileDigest:
    """Hash a file and each of its tensors in one pass over the bytes. Memory: one chunk.

    Args:
        path: The file.
        known: Hex SHA-256 by name of tensors that need not be hashed apart from their file.

    Raises:
        ScionError: The file is no sound safetensors file.
        EOFError: It was cut short while it was read.
    """
    size = path.stat().st_size
    with hashed_aside(read_chunks(path, size=size)) as (chunks, digest):
        _, tensors = digest_tensors(chunks, size=size, where=path, known=known)
        return FileDigest(size=size, sha256=digest(), tensors=tensors)


def digest_tensors(
    chunks: Iterable[bytes],
    *,
    size: int,
    where: object,
    known: Mapping[str, str] | None = None,
) -> tuple[Header, dict[str, str]]:
    """Hash each tensor of a file whose bytes arrive one after the other.

    Args:
        chunks: All bytes of the file, in order, in pieces of any length.
        size: How many there are.
        where: What to name in errors.
        known: Hex SHA-256 by name of tensors that need not be hashed.

    Returns:
        The header that came with them, and hex SHA-256 by tensor name.

    Raises:
        ScionError: The file is no sound safetensors file.
        EOFError: The bytes end too early.
    """
    known = known or {}
    stream = _Stream(chunks)
    prefix = b"".join(stream.take(min(8, size)))
    length = header_length(prefix, file_size=size, where=where)
    header = parse_header(b"".join(stream.take(length)), file_size=size, where=where)
    digests: dict[str, str] = {}
    for tensor in sorted(header.tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        tensor_hash = hashlib.sha256()
        for piece in stream.take(tensor.size):
            if tensor.name not in known:
                tensor_hash.update(piece)
        digests[tensor.name] = known.get(tensor.name) or tensor_hash.hexdigest()
    return header, digests


class _Stream:
    """Bytes that arrive in chunks, taken in the lengths that are asked for."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes, in pieces as they arrived."""
        while size:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise EOFError(f"the bytes ended {size} too early")
                self._rest = memoryview(chunk)
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece
