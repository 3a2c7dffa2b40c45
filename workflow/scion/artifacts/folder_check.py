"""A folder held against a table of its files: what is missing, changed, not listed, or no file.

Nothing outside of the folder is read: a link is no file of it, wherever it leads. The one exception
is a snapshot of the hub's cache, whose files are links to its blobs.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scion.checkpoint.folder_source import homes
from scion.checkpoint.safetensors_file import FileDigest, digest_safetensors
from scion.common.digest import digest_file, in_parallel
from scion.common.errors import ScionError
from scion.common.files import kind_of
from scion.common.text import printable

# What the hub and its client put beside the files of a repository.
_HUB_FILE = ".gitattributes"
_HUB_FOLDER = ".cache/huggingface"


@dataclass
class FolderCheck:
    """What was found in a folder.

    Attributes:
        problems: A line for each thing that is not as the table says; it begins with the path.
        tensors: SHA-256 by name of the tensors of each safetensors file that could be read.
    """

    problems: list[str] = field(default_factory=list[str])
    tensors: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])


def check_folder(
    folder: Path, files: Mapping[str, Mapping[str, Any]], *, besides: str | None = None
) -> FolderCheck:
    """Read every file of a folder, and compare it with the table.

    Args:
        folder: The folder.
        files: `size` and `sha256` by name.
        besides: The name of a file that may lie there without being listed.
    """
    found = _Found(folder)
    check = FolderCheck()
    for name, what in sorted(found.others.items()):
        told = what if name in files else f"{what}, not in the manifest"
        check.problems.append(f"{printable(name)}: {told}")
    for name in sorted(found.files.keys() - files.keys() - {besides, _HUB_FILE}):
        check.problems.append(f"{printable(name)}: not in the manifest")
    there = [name for name in files if name in found.files]
    read = in_parallel(lambda name: _read(found.files[name], files[name]), there)
    digests = dict(zip(there, read, strict=True))
    for name, entry in files.items():
        if name in found.others:
            continue
        line = _difference(digests.get(name), entry)
        if line is not None:
            check.problems.append(f"{printable(name)}: {line}")
        elif isinstance(digest := digests[name], FileDigest) and digest.tensors:
            check.tensors[name] = digest.tensors
    return check


class _Found:
    """What lies below a folder, links not followed.

    Attributes:
        files: The regular files by name, and where to read each.
        others: In words what else is there, by name.
    """

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Path] = {}
        self.others: dict[str, str] = {}
        self._homes = homes(folder.resolve())
        waiting = [folder]
        while waiting:
            inner = waiting.pop()
            name = str(inner.relative_to(folder))
            try:
                entries = sorted(os.scandir(inner), key=lambda entry: entry.name)
            except OSError as error:
                self.others[name] = f"can't be read: {error.strerror}"
                continue
            if not entries and inner != folder:
                self.others[name] = "an empty folder"
            for entry in entries:
                below = str(Path(entry.path).relative_to(folder))
                if self._add(below, entry):
                    waiting.append(Path(entry.path))

    def _add(self, name: str, entry: "os.DirEntry[str]") -> bool:
        """Note an entry; whether it is a folder to be looked into."""
        if entry.is_dir(follow_symlinks=False):
            return name != _HUB_FOLDER
        if entry.is_file(follow_symlinks=False):
            self.files[name] = Path(entry.path)
        elif entry.is_symlink():
            self._add_link(name, Path(entry.path))
        else:
            self.others[name] = kind_of(entry.stat(follow_symlinks=False).st_mode)
        return False

    def _add_link(self, name: str, link: Path) -> None:
        blobs = self._homes[1:]
        try:
            target = link.resolve(strict=True)
            sound = any(map(target.is_relative_to, blobs)) and target.is_file()
        # A ring of links is a RuntimeError up to Python 3.12.
        except (OSError, RuntimeError):
            target, sound = link, False
        if sound:
            self.files[name] = target
        else:
            self.others[name] = f"a link to {printable(os.readlink(link))}"


def _read(path: Path, entry: Mapping[str, Any]) -> FileDigest | str:
    """The digest of a file, or in words why there is none."""
    try:
        size = path.stat().st_size
        if size != entry["size"]:
            # It need not be read; a hole of terabytes would take hours.
            return f"expected {entry['size']} bytes, found {size}"
        if path.suffix == ".safetensors":
            try:
                return digest_safetensors(path)
            except ScionError as error:
                sha256 = digest_file(path)
                if sha256 == entry["sha256"]:
                    return f"{error.problem}: expected {error.expected}, found {error.found}"
                return FileDigest(size, sha256, {})
        return FileDigest(size, digest_file(path), {})
    except (OSError, EOFError) as error:
        return f"can't be read: {error}"


def _difference(digest: FileDigest | str | None, entry: Mapping[str, Any]) -> str | None:
    if digest is None:
        return "missing"
    if isinstance(digest, str):
        return printable(digest)
    if digest.sha256 != entry["sha256"]:
        return f"expected {entry['sha256']}, found {digest.sha256}"
    return None
