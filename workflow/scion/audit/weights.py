"""The tensors of a checkpoint where they lie, in a folder or on the hub; only ranges are read."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scion.architectures.inventory import Inventory
from scion.checkpoint.experts_apart import members_of
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.safetensors_file import Tensor
from scion.checkpoint.shards import CONFIG, INDEX, parse_object, parse_weight_map
from scion.checkpoint.source import Source
from scion.common.errors import ScionError

if TYPE_CHECKING:
    # It takes seconds to import, and comparing bytes does without.
    import torch


# Bytes of the widest number.
_SCALAR = 8


@dataclass(frozen=True)
class Extent:
    """The bytes of a tensor.

    Attributes:
        source: The checkpoint that has them.
        file: Its shard.
        offset: Where they begin in it.
        tensor: Name, dtype and shape.
        known: All of them, where they were read already, as those of scalars are; else None.
        same_as: What they were found equal to already, bit for bit; None where nobody has looked.
    """

    source: Source
    file: str
    offset: int
    tensor: Tensor
    known: bytes | None = None
    same_as: "Extent | None" = None

    def stream(self, begin: int, size: int) -> Iterator[bytes]:
        """The bytes [begin, begin + size) of the tensor, in chunks."""
        if self.known is not None:
            return iter((self.known[begin : begin + size],))
        return self.source.stream(self.file, self.offset + begin, size)

    def rows(self, rows: range) -> "torch.Tensor":
        """Neighbouring rows of it, as they are stored."""
        import numpy as np
        import torch

        from scion.quantization.stored_rows import DTYPES

        inner = self.tensor.shape[1:]
        dtype = DTYPES[self.tensor.dtype]
        width = math.prod(inner) * dtype.itemsize
        # NumPy asks for huge pages, which Python and torch do not.
        raw = np.empty(len(rows) * width, np.uint8)
        begin, buffer = rows.start * width, memoryview(raw)  # pyright: ignore[reportArgumentType]
        if self.known is not None:
            buffer[:] = self.known[begin : begin + len(buffer)]
        else:
            self.source.fill(self.file, self.offset + begin, buffer)
        return torch.from_numpy(raw).view(dtype).view(len(rows), *inner)

    def number(self) -> float:
        """The one number of a scalar.

        Raises:
            ScionError: It has more numbers than one, or such as are no scales.
        """
        import torch

        from scion.quantization.stored_rows import DTYPES

        dtype, shape = self.form
        if math.prod(shape) != 1 or dtype not in DTYPES:
            raise ScionError(
                "a scale is not one number",
                where=f"{self.source.name}: {self.tensor.name}",
                expected="a float32 scalar",
                found=f"{dtype} {list(shape)}",
                hint="the release is broken: ask its publisher",
            )
        raw = bytearray().join(self.stream(0, self.tensor.size))
        return torch.frombuffer(raw, dtype=DTYPES[self.tensor.dtype]).item()

    @property
    def form(self) -> tuple[str, tuple[int, ...]]:
        """Dtype and shape."""
        return self.tensor.dtype, self.tensor.shape


Extents = dict[str, Extent]


@dataclass(frozen=True)
class RangedCheckpoint:
    """A checkpoint.

    Attributes:
        source: Where its files are read from.
        config: The content of config.json.
        extents: The tensors by the names that they have in the shards.
    """

    source: Source
    config: Mapping[str, Any]
    extents: Extents

    @classmethod
    def open(cls, location: str) -> "RangedCheckpoint":
        """Open a folder or a repository of the hub; headers and config.json are read.

        Raises:
            ScionError: It is no checkpoint, or one of its headers is unsound; a tensor stands in
                two shards.
        """
        source = open_source(location)
        config = parse_object(_read(source, CONFIG), where=f"{source.name}/{CONFIG}")
        shards = [name for name in source.files if name.endswith(".safetensors")]
        index: dict[str, str] = {}
        if INDEX in source.files:
            where = f"{source.name}/{INDEX}"
            index = parse_weight_map(parse_object(_read(source, INDEX), where=where), where=where)
            shards = sorted(set(index.values()))
        extents: Extents = {}
        headers = source.headers([_there(source, shard) for shard in shards])
        # A scale each: one by one they would be requests by the hundred on the hub.
        scalars = {
            shard: [each for each in header.tensors.values() if 0 < each.size <= _SCALAR]
            for shard, header in headers.items()
        }
        known = source.small({shard: some for shard, some in scalars.items() if some})
        for shard, header in headers.items():
            for name, tensor in header.tensors.items():
                if name in extents:
                    raise ScionError(
                        "a tensor stands in two shards",
                        where=f"{source.name}: {name}",
                        expected=f"it in {extents[name].file} alone",
                        found=f"it in {shard} as well",
                        hint="engines take the one or the other: ask its publisher",
                    )
                offset = header.data_start + tensor.begin
                extents[name] = Extent(source, shard, offset, tensor, known.get(name))
        for name, shard in index.items():
            if name not in extents or extents[name].file != shard:
                raise ScionError(
                    "the index names a tensor where it is not",
                    where=f"{source.name}/{INDEX}: {name}",
                    expected=extents[name].file if name in extents else "no such entry",
                    found=shard,
                    hint="index and shards are of different versions: ask its publisher",
                )
        return cls(source, config, extents)


def members_apart(extents: Mapping[str, Extent], expected: Inventory) -> Extents:
    """Tensors by name, the members of stacked experts in place of each stack.

    Args:
        extents: By sound names.
        expected: The tensors that config.json implies.

    Raises:
        ScionError: A stack has another shape than config.json implies.
    """
    found: Extents = {}
    for name, extent in extents.items():
        stack = expected.stacked.get(name)
        if stack is None:
            found[name] = extent
            continue
        for member in members_of(extent.tensor, stack, where=extent.source.name):
            offset = extent.offset + member.begin - extent.tensor.begin
            found[member.name] = Extent(extent.source, extent.file, offset, member)
    return found


def _read(source: Source, name: str) -> bytes:
    raw = source.read(_there(source, name))
    if raw is None:
        raise ScionError(
            f"{name} is too large to be what it says",
            where=source.name,
            expected="some megabytes of JSON at most",
            found=f"{source.files[name]} bytes",
            hint="name the folder or repository of a checkpoint",
        )
    return raw


def _there(source: Source, name: str) -> str:
    if name not in source.files:
        raise ScionError(
            "the checkpoint lacks a file",
            where=source.name,
            expected=name,
            found="no such file",
            hint="name the folder or repository of a whole checkpoint",
        )
    return name
