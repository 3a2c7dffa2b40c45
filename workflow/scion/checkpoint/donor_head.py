"""The MTP head of a checkpoint, found to be whole from config.json, index and headers alone."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.architectures.family import Head
from scion.architectures.inventory import inventory
from scion.checkpoint.safetensors_file import Tensor, encode_header, packed
from scion.checkpoint.shards import CONFIG, INDEX, SINGLE, parse_object
from scion.checkpoint.source import Source, tensor_shards
from scion.common.errors import ScionError
from scion.common.progress import progress
from scion.common.threads import unawaited_pool

_RANGES_AT_ONCE = 4
_PIECE_BYTES = 64 << 20
_NAME_BASE = "set `donor` in the config to the base model that the source was fine-tuned from"
# What numbers of these types are, in words; a donor's head is grafted as it is.
_QUANTIZED = {
    "F8_E4M3": "FP8",
    "F8_E5M2": "FP8",
    "I8": "INT8",
    "U8": "packed to 4 bits",
    "F4": "FP4",
    "I32": "packed to integers",
}


@dataclass(frozen=True)
class DonorHead:
    """A head that was found to be whole, by names, shapes and dtype.

    Attributes:
        source: The checkpoint that it stands in.
        config: Bytes of config.json.
        tensors: The tensors, sorted by name, each with its shard.
    """

    source: Source
    config: bytes
    tensors: list[tuple[str, Tensor]]

    def stream(self, shard: str, tensor: Tensor) -> Iterator[bytes]:
        """The raw bytes of one of the tensors."""
        start = self.source.headers([shard])[shard].data_start
        return self.source.stream(shard, start + tensor.begin, tensor.size)

    def write(self, target: Path) -> None:
        """Write the tensors as one safetensors file; several ranges are read at once."""
        tensors = [tensor for _, tensor in self.tensors]
        header = encode_header(packed(tensors), {"format": "pt"})
        total, stop = sum(tensor.size for tensor in tensors), threading.Event()
        with progress("bytes of the MTP head", total, unit="B") as told:

            def move(piece: _Piece) -> None:
                # Of its own: after a failure it may still be open when this method has ended.
                with target.open("r+b") as file:
                    file.seek(piece.position)
                    for chunk in self.source.stream(piece.shard, piece.begin, piece.size):
                        if stop.is_set():
                            return
                        file.write(chunk)
                        told.advance(amount=len(chunk))

            target.write_bytes(header)
            with unawaited_pool(_RANGES_AT_ONCE) as pool:
                try:
                    list(pool.map(move, self._pieces(len(header))))
                finally:
                    stop.set()

    def _pieces(self, position: int) -> Iterator["_Piece"]:
        """All bytes of the tensors, in their order; the first goes to `position`."""
        for shard, tensor in self.tensors:
            start = self.source.headers([shard])[shard].data_start + tensor.begin
            for begin in range(0, tensor.size, _PIECE_BYTES):
                size = min(_PIECE_BYTES, tensor.size - begin)
                yield _Piece(shard, start + begin, size, position)
                position += size


@dataclass(frozen=True)
class _Piece:
    """A range of a shard, and the place in the target file where it goes."""

    shard: str
    begin: int
    size: int
    position: int


def find_head(source: Source, location: str) -> DonorHead:
    """Find the head of a checkpoint; nothing but config, index and headers is read.

    Args:
        source: The checkpoint.
        location: What errors call it.

    Raises:
        ScionError: It has no whole head in bf16, or its files can't be read.
    """
    raw, where = _small(source, CONFIG, location), f"{location}/{CONFIG}"
    expected = inventory(parse_object(raw, where=where), where=where)
    head = expected.family.head
    if head is None:
        raise _headless(location, expected.family.title)
    shard_of = _shards(source, location)
    of_head = {name: shard for name, shard in shard_of.items() if name.startswith(head.prefix)}
    shards = sorted(set(of_head.values()))
    for shard in shards:
        _require(source, shard, location)
    headers = source.headers(shards)
    tensors = [
        (shard, headers[shard].tensors[name])
        for name, shard in sorted(of_head.items())
        if name in headers[shard].tensors
    ]
    _refuse_quantized([tensor for _, tensor in tensors], location)
    found = {tensor.name: tensor for _, tensor in tensors}
    represented = expected.represented(found)
    if not expected.mtp or represented != expected.mtp.keys():
        raise _no_head(location, head, expected.mtp, represented, shard_of)
    for name, tensor in found.items():
        if tensor.dtype != "BF16" or tensor.shape != expected.storable[name]:
            raise ScionError(
                "a tensor of the donor's MTP head is not what its config.json implies",
                where=f"{location}: {name}",
                expected=f"BF16 {list(expected.storable[name])}",
                found=f"{tensor.dtype} {list(tensor.shape)}",
                hint=_NAME_BASE,
            )
    return DonorHead(source, raw, tensors)


def _small(source: Source, name: str, location: str) -> bytes:
    _require(source, name, location)
    raw = source.read(name)
    if raw is None:
        raise ScionError(
            f"the donor's {name} is too large to be what it says",
            where=location,
            expected="a few megabytes of JSON at most",
            found=f"{source.files[name]} bytes",
            hint=_NAME_BASE,
        )
    return raw


def _require(source: Source, name: str, location: str) -> None:
    if name not in source.files:
        raise ScionError(
            "the donor lacks a file",
            where=location,
            expected=name,
            found="no such file",
            hint=f"fetch the missing file, name another revision, or {_NAME_BASE}",
        )


def _shards(source: Source, location: str) -> dict[str, str]:
    """Shard by name of each tensor."""
    if INDEX in source.files:
        _small(source, INDEX, location)
    else:
        _require(source, SINGLE, location)
    return tensor_shards(source, location)


def _refuse_quantized(tensors: Sequence[Tensor], location: str) -> None:
    quantized = [tensor for tensor in tensors if tensor.dtype in _QUANTIZED]
    if quantized:
        # Scales in FP8 lie beside what is packed.
        packed_first = sorted(quantized, key=lambda tensor: _QUANTIZED[tensor.dtype] == "FP8")
        first = packed_first[0]
        raise ScionError(
            f"the donor's MTP head is {_QUANTIZED[first.dtype]}",
            where=f"{location}: {first.name}",
            expected="BF16: a release keeps the head as it was trained",
            found=f"{first.dtype}, as {len(quantized)} of the head's {len(tensors)} tensors are",
            hint="set `donor` in the config to the bf16 original that this checkpoint was "
            "quantized from",
        )


def _headless(location: str, title: str) -> ScionError:
    return ScionError(
        "the donor's architecture has no MTP head",
        where=location,
        expected="a family with a head in workflow/scion/architectures/families.py",
        found=title,
        hint=_NAME_BASE,
    )


def _no_head(
    location: str, head: Head, expected: Mapping[str, Any], found: Set[str], names: Iterable[str]
) -> ScionError:
    lacking = sorted(expected.keys() - found)
    other = [name for name in names for wanted in lacking if name.endswith(f".{wanted}")]
    if other:
        return ScionError(
            "the donor's MTP head stands under other names",
            where=location,
            expected=f"{len(expected)} tensors: {', '.join(lacking[:3])}, …",
            found=f"{len(other)} such as {other[0]}",
            hint=_NAME_BASE,
        )
    added = sorted(found - expected.keys())
    parts = [f"{len(found)} tensors"]
    parts += [f"without {', '.join(lacking[:3])}"] if found and lacking else []
    parts += [f"and with {', '.join(added[:3])}"] if expected and added else []
    return ScionError(
        "the donor has no whole MTP head",
        where=location,
        expected=f"{len(expected)} tensors: {', '.join(sorted(expected)[:3])}, …"
        if expected
        else f"a config.json with {head.layers_key} of 1 or more",
        found=" ".join(parts),
        hint=f"{_NAME_BASE}, whose checkpoint has {head.prefix}* tensors",
    )
