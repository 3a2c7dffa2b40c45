"""A folder that the hub's own Xet client stores files in, and what lies there.

A hub that answers a request for a Xet token with the address `local:///FOLDER` makes hf-xet chunk
and store into that folder, and read from it. hf-xet documents neither that nor the folder's layout;
both were seen with hf-xet 1.8.0, and tests/unit/test_publish.py holds them. A shard's layout is
described at https://huggingface.co/docs/xet/shard.
"""

import struct
import time
from dataclasses import dataclass
from pathlib import Path

from hf_xet import XetFileInfo, XetSession  # pyright: ignore[reportAttributeAccessIssue]

_HEADER_BYTES = _ENTRY_BYTES = 48
_END = b"\xff" * 32
_WITH_VERIFICATION, _WITH_METADATA = 1 << 31, 1 << 30
TOKEN_SECONDS = 3600


@dataclass(frozen=True)
class XetFile:
    """A stored file.

    Attributes:
        hash: Xet's name for its content.
        size: Bytes.
    """

    hash: str
    size: int


class XetFolder:
    """The folder.

    Attributes:
        address: What a hub's answer calls it.
    """

    def __init__(self, folder: Path) -> None:
        """It need not exist."""
        self._folder = folder
        self.address = f"local://{folder}"

    def find(self, sha256: str) -> XetFile | None:
        """The stored file of a SHA-256, if there is one."""
        for shard in self._folder.glob("xet/xorbs/shards/*.mdb"):
            if found := _files_of(shard.read_bytes()).get(sha256):
                return found
        return None

    def stored_bytes(self) -> int:
        """How many bytes of chunks lie there: what uploads have moved."""
        chunks = self._folder.glob("xet/xorbs/xorbs/default.*")
        return sum(path.stat().st_size for path in chunks if path.suffix != ".tagset")

    def copy(self, file: XetFile, target: Path) -> None:
        """Write a stored file as it was before it was chunked."""
        group = XetSession().new_file_download_group(
            endpoint=self.address,
            token="unused",
            token_expiry_unix_secs=int(time.time()) + TOKEN_SECONDS,
        )
        with group:
            group.start_download_file(XetFileInfo(file.hash, file.size), str(target))


def _files_of(shard: bytes) -> dict[str, XetFile]:
    """The files that a shard describes, by SHA-256."""
    files: dict[str, XetFile] = {}
    position = _HEADER_BYTES
    while (name := shard[position : position + 32]) != _END:
        flags, parts = struct.unpack_from("<II", shard, position + 32)
        position += _ENTRY_BYTES
        sizes = [
            struct.unpack_from("<I", shard, position + part * _ENTRY_BYTES + 36)[0]
            for part in range(parts)
        ]
        position += parts * _ENTRY_BYTES * (2 if flags & _WITH_VERIFICATION else 1)
        if flags & _WITH_METADATA:
            files[_hex(shard[position : position + 32])] = XetFile(_hex(name), sum(sizes))
            position += _ENTRY_BYTES
    return files


def _hex(name: bytes) -> str:
    """A hash as it is written: of each eight bytes the last comes first."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", name))
