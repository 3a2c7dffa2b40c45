"""A checkpoint on the hub, judged without downloading it: configs, index, and headers by ranges.

Of each shard one range is read, or two. The first, of `PREFIX_BYTES`, holds the header of
almost every shard and, where safetensors' own writer laid it out (by dtype, the widest first),
its float32 scalars. The second is the rest of a longer header; or else it covers scalars that lie
close together elsewhere in the file. Ones that are scattered over it are left out.

With the hub's redirect to the address that holds the file, a shard takes two HTTP requests, and at
most three: for a longer header, or else for scalars elsewhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from scion.checkpoint.hub.client import RangeReader, at_commit
from scion.checkpoint.hub.http import Meter
from scion.checkpoint.hub.location import HubRepository
from scion.checkpoint.lfs import refuse_pointer
from scion.checkpoint.safetensors_file import Header, Tensor, header_length, parse_header
from scion.checkpoint.shards import CONFIG, INDEX
from scion.checkpoint.source import Traffic

PREFIX_BYTES = 128 << 10
SPAN_BYTES = 256 << 10
"""The longest range that is read for the sake of scalars."""
MAX_FILE_BYTES = 2 << 20
"""The largest file that is read whole; a tokenizer.json of 20 MB is not worth its transfer."""
MAX_VITAL_BYTES = 64 << 20
"""The same for config.json and the index, without which nothing can be judged."""
_CONNECTIONS = 8


@dataclass(frozen=True)
class _Opened:
    """A header, and the bytes that came with it: `tail` begins where the tensors' data begins."""

    header: Header
    tail: bytes
    at_once: bool


class HubSource:
    """A repository of the hub at one commit.

    Attributes:
        name: The repository with the commit that is read, whatever branch was asked for.
        folder: None: it is not on this machine.
        files: Size in bytes by name of the files at its top.
    """

    def __init__(self, repository: HubRepository) -> None:
        """Find out the commit and list its files.

        Raises:
            ScionError: Not there, not allowed, or the hub can't be reached.
        """
        self.folder = None
        self._meter = Meter()
        with self._meter.running():
            self._reader = RangeReader(at_commit(repository))
        self.name = str(self._reader.repository)
        self.files = {
            name: file.size for name, file in self._reader.files.items() if "/" not in name
        }
        self._texts: dict[str, bytes] = {}
        self._opened: dict[str, _Opened] = {}

    @property
    def traffic(self) -> Traffic:
        """What has been moved so far."""
        return Traffic(self._meter.requests, self._meter.bytes_moved)

    def read(self, name: str) -> bytes | None:
        """A whole file; None where it is larger than the module's bounds."""
        most = MAX_VITAL_BYTES if name in (CONFIG, INDEX) else MAX_FILE_BYTES
        size = self.files.get(name, 0)
        if size > most:
            return None
        if name not in self._texts:
            with self._meter.running():
                self._texts[name] = self._reader.read(name, 0, size)
            refuse_pointer(self._texts[name], where=f"{self.name}: {name}")
        return self._texts[name]

    def headers(self, shards: Sequence[str]) -> dict[str, Header]:
        """The checked header of each shard; several are fetched at a time."""
        unopened = [shard for shard in shards if shard not in self._opened]
        with self._meter.running(), ThreadPoolExecutor(_CONNECTIONS) as pool:
            self._opened.update(zip(unopened, pool.map(self._open, unopened), strict=True))
        return {shard: self._opened[shard].header for shard in shards}

    def _open(self, shard: str) -> _Opened:
        size, where = self.files.get(shard, 0), f"{self.name}: {shard}"
        start = self._reader.read(shard, 0, min(PREFIX_BYTES, size))
        end = 8 + header_length(start[:8], file_size=size, where=where)
        at_once = end <= len(start)
        if not at_once:
            start += self._reader.read(shard, len(start), end - len(start))
        header = parse_header(start[8:end], file_size=size, where=where)
        return _Opened(header, start[end:], at_once)

    def small(self, tensors: Mapping[str, Sequence[Tensor]]) -> dict[str, bytes]:
        """The bytes of small tensors by name, but for shards in which they are scattered."""
        self.headers(list(tensors))
        data: dict[str, bytes] = {}
        with self._meter.running(), ThreadPoolExecutor(_CONNECTIONS) as pool:
            for shard_data in pool.map(self._small, tensors, tensors.values()):
                data |= shard_data
        return data

    def stream(self, name: str, begin: int, size: int) -> Iterator[bytes]:
        """The bytes [begin, begin + size) of a file, in chunks as they arrive."""
        yield from self._reader.stream(name, begin, size)

    def fill(self, name: str, begin: int, buffer: memoryview) -> None:
        """Read the bytes of a file from `begin` on into a buffer, as many as it holds."""
        for chunk in self.stream(name, begin, len(buffer)):
            buffer[: len(chunk)] = chunk
            buffer = buffer[len(chunk) :]
        if buffer:
            raise EOFError(f"{name} ended {len(buffer)} bytes early")

    def _small(self, shard: str, tensors: Sequence[Tensor]) -> dict[str, bytes]:
        opened = self._opened[shard]
        contents = _cut(tensors, 0, opened.tail)
        beyond = [tensor for tensor in tensors if tensor.name not in contents]
        if beyond and opened.at_once:
            begin = min(tensor.begin for tensor in beyond)
            size = max(tensor.end for tensor in beyond) - begin
            if size <= SPAN_BYTES:
                data = self._reader.read(shard, opened.header.data_start + begin, size)
                contents |= _cut(beyond, begin, data)
        return contents


def _cut(tensors: Sequence[Tensor], begin: int, data: bytes) -> dict[str, bytes]:
    """The bytes of those tensors that lie in `data`, which begins at offset `begin`."""
    return {
        tensor.name: data[tensor.begin - begin : tensor.end - begin]
        for tensor in tensors
        if tensor.end - begin <= len(data)
    }
