"""Digests of files that were read once: trusted while inode, size and times are what they were.

Changing a file, even with its modification date put back afterwards, moves the time of its last
status change (ctime), which no program can set. A new hard link moves it too, and so does removing
one: `KnownFiles.place` and `KnownFiles.remove` do that and keep up. What is not known is read
again; nothing is ever assumed.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from scion.checkpoint.safetensors_file import FileDigest, digest_safetensors
from scion.checkpoint.shards import read_object
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from scion.common.files import link_or_copy, to_json
from scion.common.interrupts import deferred_interrupts

# How often a file is read whose status keeps changing.
_READS = 5


class KnownFiles:
    """A folder of one small file per inode; a cache: what can't be written is not remembered.

    Args:
        folder: Where it is, or will be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, path: Path) -> FileDigest | None:
        """The digest of a file that has not changed since it was read, or None."""
        signature = _signature(path.stat())
        with contextlib.suppress(ScionError, KeyError, TypeError):
            entry = read_object(self._place(signature))
            if entry["signature"] == signature:
                return FileDigest(signature[1], entry["sha256"], entry["tensors"])
        return None

    def digest(self, path: Path, *, tensors: Mapping[str, str] | None = None) -> FileDigest:
        """The digest of a file, which is read if it is not known.

        Args:
            path: The file.
            tensors: Hex SHA-256 by name of tensors whose writer hashed them.
        """
        known = self.get(path)
        if known is not None and (known.tensors or path.suffix != ".safetensors"):
            return known
        for _ in range(_READS):
            before = _signature(path.stat())
            found = _read(path, tensors=tensors)
            after = _signature(path.stat())
            if after == before:
                self.remember(path, found)
                return found
            # Only its status, as by a link that another process made: what was read may be true.
            if after[:-1] != before[:-1]:
                break
        raise ScionError(
            "a file changed while it was read",
            where=path,
            expected="a file that nobody writes to",
            found="other times or another size than a moment before",
            hint="wait until whatever writes it has ended, and run again",
        )

    def remember(self, path: Path, digest: FileDigest) -> None:
        """Trust this digest until the file changes; for whoever has just read or written it."""
        self._remember(_signature(path.stat()), digest)

    def _remember(self, signature: list[int], digest: FileDigest) -> None:
        if not self.folder.parent.is_dir():
            # A plan's store that no run has begun yet.
            return
        entry = {"signature": signature, "sha256": digest.sha256, "tensors": dict(digest.tensors)}
        place = self._place(signature)
        # Not synced, as `atomic_file` does: what a power cut takes is read again.
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=".")
            with os.fdopen(descriptor, "wb") as file:
                # Else a store's other users would read all files again, each after the other.
                os.fchmod(file.fileno(), 0o644)
                file.write(to_json(entry))
            os.replace(name, place)

    def place(
        self, source: Path, target: Path, how: Callable[[Path, Path], None] = link_or_copy
    ) -> None:
        """Make `target` a link, a clone or a copy of `source`, and go on trusting what was trusted.

        Args:
            source: A file.
            target: Its new name.
            how: `link_or_copy`, `reflink_or_link` or `copy_file` of `scion.common.files`.
        """
        before, digest = source.stat(), self.get(source)
        placed = [source]
        try:
            how(source, target)
            placed.append(target)
        finally:
            # An interrupt may come between a link and its note.
            with deferred_interrupts():
                after = source.stat()
                # A link moves the time of the status; anything else is an edit.
                edited = before.st_size != after.st_size or before.st_mtime_ns != after.st_mtime_ns
                if digest is not None and not edited:
                    for path in placed:
                        self.remember(path, digest)

    def remove(self, folder: Path) -> None:
        """Remove a folder, if there is one, and go on trusting the files that are linked elsewhere.

        Removing one of a file's names changes its times, as adding one does.
        """
        if not folder.is_dir() or folder.is_symlink():
            return
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(stat.S_IRWXU)
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
                self.unlink(path)
        shutil.rmtree(folder)

    def unlink(self, path: Path) -> None:
        """Remove one of a file's names, and go on trusting the others."""
        digest = self.get(path)
        with deferred_interrupts(), path.open("rb") as file:
            path.unlink()
            if digest is not None and os.fstat(file.fileno()).st_nlink:
                self._remember(_signature(os.fstat(file.fileno())), digest)

    def _place(self, signature: list[int]) -> Path:
        return self.folder / f"{signature[0]}.json"


def _read(path: Path, *, tensors: Mapping[str, str] | None = None) -> FileDigest:
    """Read a file, whatever is known of it."""
    if path.suffix != ".safetensors":
        return FileDigest(path.stat().st_size, digest_file(path), {})
    return digest_safetensors(path, known=tensors)


def unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file is what it was, as far as its size, inode and times tell."""
    return _signature(before) == _signature(after)


def _signature(found: os.stat_result) -> list[int]:
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
