"""The files of a release or of another artifact, wherever they lie: all of them, folders too.

`FolderTree` has those of a folder; `scion.artifacts.hub_tree` those of a repository of the hub.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from scion.artifacts.manifest import DOWNLOAD_ANEW
from scion.artifacts.release_layout import SIGNATURE
from scion.checkpoint.folder_source import homes
from scion.checkpoint.shards import parse_object, unreadable
from scion.common.bounded_json import MAX_TEXT_BYTES
from scion.common.digest import read_chunks
from scion.common.files import kind_of
from scion.common.text import printable

# What the hub itself, its client and git put beside the files of a repository.
_HUB_FILE = ".gitattributes"
_CLIENT_FOLDERS = (".cache/huggingface", ".git")


class FileTree(Protocol):
    """Files by their path from the top, and what else lies between them."""

    @property
    def name(self) -> str:
        """What the user called it."""
        ...

    @property
    def files(self) -> Mapping[str, int]:
        """Size in bytes by name of every regular file."""
        ...

    @property
    def others(self) -> Mapping[str, str]:
        """In words what else is there, by name: links, pipes, empty folders."""
        ...

    @property
    def added(self) -> Sequence[str]:
        """What is put beside a release (`is_added`), which is among neither of the two."""
        ...

    @property
    def threads(self) -> int | None:
        """How many files to read at the same time; None: one a core."""
        ...

    def place(self, name: str) -> str:
        """What errors call a file."""
        ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """All bytes of a file, in pieces.

        Raises:
            OSError: It can't be read.
            EOFError: It was cut short while it was read.
            ScionError: The hub refuses it.
        """
        ...


def is_added(name: str) -> bool:
    """Whether a file is one that is put beside a release's own: by the hub, git, or who signs."""
    return name in (_HUB_FILE, SIGNATURE) or name.startswith(
        tuple(f"{folder}/" for folder in _CLIENT_FOLDERS)
    )


def read_whole(tree: FileTree, name: str) -> bytes:
    """The bytes of a file of text.

    Raises:
        OSError: There is no such file, or it can't be read.
        EOFError: It was cut short while it was read.
        ValueError: It has more than `MAX_TEXT_BYTES`; none of them is read.
        ScionError: The hub refuses it.
    """
    if name in tree.others:
        raise OSError(f"{tree.others[name]}, not a file")
    if name not in tree.files:
        raise FileNotFoundError(f"there is no file {name}")
    if tree.files[name] > MAX_TEXT_BYTES:
        raise ValueError(f"{tree.files[name]} bytes, more than the {MAX_TEXT_BYTES} that are read")
    return b"".join(tree.chunks(name))


def read_object(tree: FileTree, name: str) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        ScionError: There is no such file, it can't be read, or holds something else.
    """
    where = tree.place(name)
    try:
        raw = read_whole(tree, name)
    except (OSError, EOFError, ValueError) as error:
        raise unreadable(where, error, hint=DOWNLOAD_ANEW) from error
    return parse_object(raw, where=where, hint=DOWNLOAD_ANEW)


class FolderTree:
    """A folder of this machine; links are not followed, so nothing outside of it is read.

    The one exception is a snapshot of the hub's cache, whose files are links to its blobs.

    Attributes:
        name: The folder, as it was given.
        files: Size in bytes by name of the regular files.
        others: In words what else is there, by name.
        added: What hubs and their clients put there; not looked into.
        threads: None: disks are read by one thread a core.
    """

    def __init__(self, folder: Path) -> None:
        """List a folder and all below it."""
        self.name = str(folder)
        self.files: dict[str, int] = {}
        self.others: dict[str, str] = {}
        self.added: list[str] = []
        self.threads = None
        self._folder = folder
        self._paths: dict[str, Path] = {}
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

    def place(self, name: str) -> str:
        """Its path."""
        return str(self._folder / name)

    def chunks(self, name: str) -> Iterator[bytes]:
        """All bytes of a file, in pieces."""
        return read_chunks(self._paths[name])

    def _add(self, name: str, entry: "os.DirEntry[str]") -> bool:
        """Note an entry; whether it is a folder to be looked into."""
        if entry.is_dir(follow_symlinks=False):
            if not is_added(f"{name}/"):
                return True
            self.added.append(f"{name}/")
        elif entry.is_file(follow_symlinks=False):
            self._add_file(name, Path(entry.path))
        elif entry.is_symlink():
            self._add_link(name, Path(entry.path))
        else:
            self.others[name] = kind_of(entry.stat(follow_symlinks=False).st_mode)
        return False

    def _add_file(self, name: str, path: Path) -> None:
        if is_added(name):
            self.added.append(name)
            return
        self.files[name] = path.stat().st_size
        self._paths[name] = path

    def _add_link(self, name: str, link: Path) -> None:
        blobs = self._homes[1:]
        try:
            target = link.resolve(strict=True)
            sound = any(map(target.is_relative_to, blobs)) and target.is_file()
        # A ring of links is a RuntimeError up to Python 3.12.
        except (OSError, RuntimeError):
            target, sound = link, False
        if sound:
            self._add_file(name, target)
        else:
            self.others[name] = f"a link to {printable(os.readlink(link))}"
