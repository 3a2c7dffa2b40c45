"""Where a checkpoint's files are read from: a folder, a repository of the hub, or nowhere."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scion.checkpoint.safetensors_file import Header, Tensor
from scion.checkpoint.shards import INDEX, parse_object, parse_weight_map


@dataclass(frozen=True)
class Traffic:
    """What was moved over the network.

    Attributes:
        requests: HTTP requests; each redirect and each repeated try is one more.
        bytes_moved: Bytes of content in the answers, as transferred, listings included.
    """

    requests: int
    bytes_moved: int


class Source(Protocol):
    """Where a checkpoint's files are read from.

    `scion.checkpoint` has the two that there are.
    """

    @property
    def name(self) -> str:
        """What the user called it."""
        ...

    @property
    def traffic(self) -> Traffic | None:
        """What reading it has moved so far; None where nothing has to be moved."""
        ...

    @property
    def files(self) -> Mapping[str, int]:
        """Size in bytes by name of every file at the top of the folder or repository."""
        ...

    @property
    def folder(self) -> Path | None:
        """The folder, where there is one on this machine."""
        ...

    def read(self, name: str) -> bytes | None:
        """A whole small file; None where reading it would cost too much.

        Raises:
            ScionError: It is not there, or can't be read.
        """
        ...

    def headers(self, shards: Sequence[str]) -> dict[str, Header]:
        """The checked headers of safetensors files, by their names.

        Raises:
            ScionError: One is not there, or is no sound safetensors file.
        """
        ...

    def small(self, tensors: Mapping[str, Sequence[Tensor]]) -> dict[str, bytes]:
        """The bytes of tensors of a few bytes, by name; costly ones are left out.

        Args:
            tensors: The tensors by the shard that holds them.
        """
        ...

    def stream(self, name: str, begin: int, size: int) -> Iterator[bytes]:
        """The bytes [begin, begin + size) of a file, in chunks.

        Raises:
            ScionError: It is not there, or can't be read.
        """
        ...

    def fill(self, name: str, begin: int, buffer: memoryview) -> None:
        """Read the bytes of a file from `begin` on into a buffer, as many as it holds.

        Raises:
            ScionError: It is not there, or can't be read.
            EOFError: It ends earlier.
        """
        ...


@dataclass(frozen=True)
class EmptySource:
    """A place that can't be opened: what it is called, and no file.

    Attributes:
        name: What the user called it.
    """

    name: str
    traffic: None = None
    folder: None = None

    @property
    def files(self) -> Mapping[str, int]:
        """None."""
        return {}

    def read(self, name: str) -> bytes | None:
        """None: there is no file."""
        return None

    def headers(self, shards: Sequence[str]) -> dict[str, Header]:
        """None."""
        return {}

    def small(self, tensors: Mapping[str, Sequence[Tensor]]) -> dict[str, bytes]:
        """None."""
        return {}

    def stream(self, name: str, begin: int, size: int) -> Iterator[bytes]:
        """No bytes."""
        return iter(())

    def fill(self, name: str, begin: int, buffer: memoryview) -> None:
        """No bytes, so that no buffer is filled."""
        if buffer:
            raise EOFError(f"{name} ended {len(buffer)} bytes early")


def tensor_shards(source: Source, location: str) -> dict[str, str]:
    """Shard by name of every tensor: by the index, or by the headers where there is none.

    Args:
        source: The checkpoint.
        location: What errors call it.

    Raises:
        ScionError: The index or a header can't be used.
    """
    raw = source.read(INDEX) if INDEX in source.files else None
    if raw is not None:
        where = f"{location}/{INDEX}"
        return parse_weight_map(parse_object(raw, where=where), where=where)
    shards = [name for name in source.files if name.endswith(".safetensors")]
    headers = source.headers(shards)
    return {name: shard for shard in shards for name in headers[shard].tensors}
