"""The shards of a release, laid out before the first layer is read, and filled layer by layer.

Every tensor's dtype, shape and place follow from config.json and the recipe, so headers are written
first and disk space is reserved; what is left is to put bytes in their place, in any order. A
journal names the layers that are finished with the digests of their tensors: a run that was killed
goes on after them, once their bytes are found to be those.
"""

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch

from scion.checkpoint.safetensors_file import Tensor
from scion.checkpoint.shards import Piece, index_headers, shard_header
from scion.common.digest import digest_file, in_parallel
from scion.common.errors import NoRoomError
from scion.common.files import link_or_copy

_JOURNAL = "layers.jsonl"
_WINDOW = 16 << 20
_WRITERS = 4
Check = Callable[[Tensor, bytes, object], None]


class PlannedShards:
    """A folder of shards in the making.

    Args:
        folder: Where they are; it outlives an interrupted run.
        plan: By shard name its tensors, as `scion.checkpoint.shards.plan_shards` gives them.
        request: Identity of what is asked for. What a run for another request has left is removed.

    Attributes:
        folder: Where they are.
        checksums: Of block scales that a search found, by module, of all finished parts.
        tokens: How many each expert got in calibration, by the stored name of a layer's experts.
        finished: By finished part the digests of its tensors.

    Raises:
        NoRoomError: The disk has no room.
    """

    def __init__(
        self,
        folder: Path,
        plan: Mapping[str, list[Tensor]],
        *,
        request: str,
    ) -> None:
        self.folder = folder
        self._plan = plan
        self._place: dict[str, tuple[str, Tensor, int]] = {}
        for shard, tensors in plan.items():
            start = len(shard_header(tensors))
            self._place |= {tensor.name: (shard, tensor, start) for tensor in tensors}
        self.checksums: dict[str, float] = {}
        self.tokens: dict[str, list[int]] = {}
        self.finished = self._resume(request)
        self._files = {shard: (folder / shard).open("r+b", buffering=0) for shard in plan}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="shards")

    def _resume(self, request: str) -> dict[str, dict[str, str]]:
        """The parts that an earlier run has finished; a fresh folder where there is none."""
        lines = _read_journal(self.folder / _JOURNAL)
        if lines and lines[0] == {"request": request} and self._complete():
            with (self.folder / _JOURNAL).open("ab") as journal:
                # Or the next line would be written behind one that was cut off.
                journal.write(b"\n")
            parts: dict[str, dict[str, str]] = {
                part: sums
                for line in lines[1:]
                if isinstance(part := line.get("part"), str)
                and isinstance(sums := line.get("sha256"), dict)
            }
            whole = in_parallel(
                lambda sums: all(map(self._unchanged, sums.items())), parts.values()
            )
            kept = {
                part: sums for (part, sums), same in zip(parts.items(), whole, strict=True) if same
            }
            for line in lines[1:]:
                if line.get("part") in kept:
                    self.checksums |= line.get("checksums", {})
                    self.tokens |= line.get("tokens", {})
            return kept
        self.discard()
        self.folder.mkdir(parents=True)
        try:
            for shard, tensors in self._plan.items():
                _reserve(self.folder / shard, shard_header(tensors), tensors[-1].end)
        except BaseException:
            self.discard()
            raise
        (self.folder / _JOURNAL).write_text(json.dumps({"request": request}) + "\n")
        return {}

    def _complete(self) -> bool:
        return all((self.folder / shard).is_file() for shard in self._plan)

    def _unchanged(self, wanted: tuple[str, str]) -> bool:
        name, sha256 = wanted
        if name not in self._place:
            return False
        shard, tensor, start = self._place[name]
        path = self.folder / shard
        if path.stat().st_size < start + tensor.end:
            return False
        return digest_file(path, offset=start + tensor.begin, size=tensor.size) == sha256

    def write(
        self,
        part: str,
        tensors: Mapping[str, torch.Tensor],
        checksums: Mapping[str, float] = MappingProxyType({}),
        tokens: Mapping[str, list[int]] = MappingProxyType({}),
    ) -> Future[None]:
        """Write the tensors of a part, such as a layer, and note it as finished; in the background.

        Args:
            part: Its name in the journal.
            tensors: CPU tensors by name; nobody may change them any more.
            checksums: Of block scales that a search found, by module.
            tokens: As the attribute has them.

        Returns:
            Done when the part is in the journal; its exception is a NoRoomError on a full disk.
        """
        writes = {
            name: self._pool.submit(self._write, name, tensor) for name, tensor in tensors.items()
        }
        noted = {"checksums": dict(checksums), "tokens": dict(tokens)}
        return self._note(part, writes, noted)

    def copy(self, part: str, pieces: Iterable[Piece], check: Check) -> Future[None]:
        """Copy stored tensors as they are; in the background.

        Args:
            part: Its name in the journal.
            pieces: The tensors and where their bytes lie.
            check: Called with a piece's tensor, each window of its bytes, and their file.
        """
        writes = {
            piece.tensor.name: self._pool.submit(self._copy, piece, check) for piece in pieces
        }
        return self._note(part, writes, {"checksums": {}, "tokens": {}})

    def _note(
        self, part: str, writes: Mapping[str, Future[str]], noted: Mapping[str, dict[str, Any]]
    ) -> Future[None]:
        # A thread of its own, not one of the pool's: it waits for those.
        noter = ThreadPoolExecutor(1, thread_name_prefix="journal")

        def note() -> None:
            digests = {name: write.result() for name, write in writes.items()}
            line = json.dumps({"part": part, "sha256": digests, **noted}) + "\n"
            # In one piece: two parts may end at the same time.
            with self._lock, (self.folder / _JOURNAL).open("ab", buffering=0) as journal:
                journal.write(line.encode())
            self.checksums |= noted["checksums"]
            self.tokens |= noted["tokens"]
            self.finished[part] = digests

        done = noter.submit(note)
        noter.shutdown(wait=False)
        return done

    def _write(self, name: str, tensor: torch.Tensor) -> str:
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
        _, place, _ = self._place[name]
        if len(raw) != place.size:
            raise ValueError(f"{name}: {len(raw)} bytes where {place.size} were planned")
        self._put(name, 0, raw)
        return hashlib.sha256(raw).hexdigest()

    def _copy(self, piece: Piece, check: Check) -> str:
        digest, done = hashlib.sha256(), 0
        with piece.path.open("rb", buffering=0) as source:
            while done < piece.tensor.size:
                size = min(_WINDOW, piece.tensor.size - done)
                window = os.pread(source.fileno(), size, piece.offset + done)
                if not window:
                    raise EOFError(f"{piece.path} ended {piece.tensor.size - done} bytes early")
                check(piece.tensor, window, piece.path)
                self._put(piece.tensor.name, done, window)
                digest.update(window)
                done += len(window)
        return digest.hexdigest()

    def _put(self, name: str, offset: int, raw: Any) -> None:
        shard, tensor, start = self._place[name]
        position, left = start + tensor.begin + offset, memoryview(raw)
        try:
            while left:
                written = os.pwrite(self._files[shard].fileno(), left[: 1 << 30], position)
                position, left = position + written, left[written:]
        except OSError as error:
            raise no_room(self.folder / shard, error) from error

    def close(self) -> None:
        """Wait for what is being written, and close the files."""
        self._pool.shutdown(cancel_futures=True)
        for file in self._files.values():
            file.close()

    def digests(self) -> dict[str, str]:
        """Hex SHA-256 by name of all tensors that are written, taken from what was written."""
        return {name: sha256 for part in self.finished.values() for name, sha256 in part.items()}

    def discard(self) -> None:
        """Remove the folder: there is nothing in it to go on from."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def link_into(self, folder: Path) -> None:
        """Give the finished shards their names in `folder`, with the index; no byte is copied."""
        for shard in self._plan:
            link_or_copy(self.folder / shard, folder / shard)
        index_headers(folder, self._plan)


def _read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of the journal that can be read; the last one may have been cut off."""
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    # A damaged line costs the part that it names, no other.
    for line in path.read_text(errors="replace").split("\n"):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                lines.append(cast("dict[str, Any]", entry))
    return lines


def _reserve(path: Path, header: bytes, data_size: int) -> None:
    """Write a shard's header and reserve the space of its data."""
    with path.open("wb") as file:
        file.write(header)
        file.flush()
        try:
            os.posix_fallocate(file.fileno(), 0, len(header) + data_size)
        except OSError as error:
            raise no_room(path, error) from error


def no_room(path: Path, error: OSError) -> NoRoomError:
    """The error for a file that could not be written for lack of room."""
    free = shutil.disk_usage(path.parent).free
    return NoRoomError(
        "a file can't be written",
        where=path,
        expected="room on the disk",
        found=f"{error.strerror}; {free / 1e9:.1f} GB are free",
        hint="free some space and run again: finished layers are kept",
    )
