"""A release on the hub: its files as they arrive, none of them kept on disk."""

import threading
from collections.abc import Iterator

from scion.artifacts.file_tree import is_added
from scion.checkpoint.hub.client import RangeReader, at_commit
from scion.checkpoint.hub.location import HubRepository

_CONNECTIONS = 8
_KEPT_BYTES = 32 << 20
"""Of files that are read once to be hashed and again for what they say."""


class HubTree:
    """A repository of the hub at one commit.

    Attributes:
        name: The repository with the commit that is read, whatever branch was asked for.
        files: Size in bytes by name.
        others: Nothing: the hub has files alone.
        added: What the hub itself put there.
        threads: How many connections.
    """

    def __init__(self, repository: HubRepository) -> None:
        """Find out the commit and list its files.

        Raises:
            ScionError: No model, not there, not allowed, or the hub can't be reached.
        """
        self._reader = RangeReader(at_commit(repository))
        self.name = str(self._reader.repository)
        sizes = {name: file.size for name, file in self._reader.files.items()}
        self.files = {name: size for name, size in sizes.items() if not is_added(name)}
        self.others: dict[str, str] = {}
        self.added = sorted(sizes.keys() - self.files.keys())
        self.threads = _CONNECTIONS
        self._kept: dict[str, bytes] = {}
        self._room = _KEPT_BYTES
        self._lock = threading.Lock()

    def place(self, name: str) -> str:
        """The repository and the name."""
        return f"{self.name}/{name}"

    def chunks(self, name: str) -> Iterator[bytes]:
        """All bytes of a file, in pieces; those of the smallest are moved once."""
        if name in self._kept:
            yield self._kept[name]
            return
        size = self.files[name]
        with self._lock:
            keep = not name.endswith(".safetensors") and size <= self._room
            self._room -= size * keep
        pieces: list[bytes] = []
        for piece in self._reader.stream(name, 0, size):
            pieces += [piece] * keep
            yield piece
        if keep:
            self._kept[name] = b"".join(pieces)
