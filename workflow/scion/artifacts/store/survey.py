"""What is in a store, whom it belongs to and what it takes: `scion store ls` and `du`; no writing.

Bytes are those that files hold, each inode once: hard links share them. A file that has more names
than the store knows of is somebody else's as well, such as a shard of a local source: removing the
store's names of it frees nothing.
"""

import contextlib
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scion.artifacts.manifest import find_manifest
from scion.artifacts.store.locks import held
from scion.artifacts.store.roots import Root, read_roots
from scion.artifacts.store.store import MARK, Store
from scion.common.errors import ScionError
from scion.common.files import kind_of

HEX = re.compile(r"[0-9a-f]{64}")
TRASH = "trash-"


@dataclass
class Inodes:
    """Files by inode: what each holds, its names altogether, and those that were counted."""

    sizes: dict[int, int] = field(default_factory=dict[int, int])
    links: dict[int, int] = field(default_factory=dict[int, int])
    names: Counter[int] = field(default_factory=Counter[int])

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "Inodes":
        """Those of files, and of all files below folders."""
        found = cls()
        for path in paths:
            for info in _all_below(path):
                if not stat.S_ISDIR(info.st_mode):
                    found.sizes[info.st_ino] = info.st_size
                    found.links[info.st_ino] = info.st_nlink
                    found.names[info.st_ino] += 1
        return found

    @classmethod
    def of_entries(cls, entries: Iterable["Entry"]) -> "Inodes":
        """Those of artifacts, together."""
        found = cls()
        for entry in entries:
            found.add(entry.inodes)
        return found

    def add(self, other: "Inodes") -> None:
        """Count those of others as well."""
        self.sizes |= other.sizes
        self.links |= other.links
        self.names.update(other.names)

    @property
    def size(self) -> int:
        """All their bytes, each inode once."""
        return sum(self.sizes.values())

    @property
    def freed(self) -> int:
        """What removing them frees: files that have no other names than those counted."""
        return sum(
            size for inode, size in self.sizes.items() if self.names[inode] >= self.links[inode]
        )

    def shared_with(self, others: "Inodes") -> int:
        """The bytes that have a name among others as well."""
        return sum(size for inode, size in self.sizes.items() if inode in others.sizes)


def _all_below(path: Path) -> Iterator[os.stat_result]:
    """A file or folder, and all below it; what a running stage removes meanwhile is left out."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        info = path.lstat()
        yield info
        if stat.S_ISDIR(info.st_mode):
            for name in sorted(os.listdir(path)):
                yield from _all_below(path / name)


@dataclass(frozen=True)
class Entry:
    """An artifact of the store.

    Attributes:
        content: Its digest.
        folder: Its files.
        manifests: What recipes recorded of it, by the path of the record.
        last_used: When a run last asked for it (seconds since the epoch).
        inodes: Its files.
    """

    content: str
    folder: Path
    manifests: dict[Path, dict[str, Any]]
    last_used: float
    inodes: Inodes

    @property
    def stages(self) -> list[str]:
        """The stages that gave it."""
        return sorted({manifest["stage"] for manifest in self.manifests.values()})


@dataclass(frozen=True)
class Survey:
    """What a store held when it was looked at.

    Attributes:
        store: The store.
        entries: The artifacts.
        records: Manifests by path of the record; None for one that can't be read.
        roots: Folders of results.
        leased: What running processes need, as leases name it.
    """

    store: Store
    entries: list[Entry]
    records: dict[Path, dict[str, Any] | None]
    roots: list[Root]
    leased: set[str]

    @classmethod
    def of(cls, store: Store) -> "Survey":
        """Look at a store.

        Raises:
            ScionError: A root can't be read.
        """
        # Leases first: what a process that ends now has made is in the roots that are read then.
        leased = store.leases.leased()
        roots = read_roots(store.folder)
        records = {path: find_manifest(path) for path in sorted(store.records.glob("[!.]*.json"))}
        by_content: dict[str, dict[Path, dict[str, Any]]] = {}
        for path, manifest in records.items():
            if manifest is not None:
                by_content.setdefault(manifest["content"], {})[path] = manifest
        folders = [path for path in inside(store.artifacts) if HEX.fullmatch(path.name)]
        entries = [_entry(folder, by_content) for folder in folders if folder.is_dir()]
        return cls(store, entries, records, roots, leased)

    @cached_property
    def needed(self) -> set[str]:
        """Contents that a living process needs."""
        return needed_contents(self.store, self.leased)

    def reachable(self, roots: Iterable[Root]) -> set[str]:
        """Contents that these roots or living processes need."""
        return self.needed.union(*(root.contents.values() for root in roots))

    def shown_by(self, content: str) -> list[str]:
        """The folders of results that show an artifact."""
        return [
            str(root.folder)
            for root in self.roots
            if root.lasting and content in root.contents.values()
        ]

    def work(self) -> list[Path]:
        """What stages have half made, or are making."""
        folders = inside(self.store.folder / "work")
        return [path for path in folders if HEX.fullmatch(path.name[:64])]

    def damaged(self) -> list[Path]:
        """What was set aside."""
        return inside(self.store.folder / "damaged")


def needed_contents(store: Store, leased: Iterable[str]) -> set[str]:
    """The contents that leases name, by themselves, by a recipe that gave them or by a pointer."""
    contents: set[str] = set()
    for name in leased:
        is_digest = name.startswith("sha256:")
        manifest = find_manifest(store.record(name) if is_digest else Path(name))
        contents |= {name} if is_digest else set()
        contents |= {manifest["content"]} if manifest is not None else set()
    return contents


def open_store(folder: Path) -> Store:
    """Open a store that is there; none is made.

    Raises:
        ScionError: There is none, or it has another format.
    """
    if not (folder / MARK).is_file():
        raise ScionError(
            "there is no store",
            where=folder,
            expected=f"a folder with {MARK}",
            found=_what_is(folder),
            hint="name the store by --store FOLDER; a run of the workflow makes one",
        )
    return Store.open([str(folder)])


def _what_is(folder: Path) -> str:
    """In words what lies where no store does."""
    if not os.path.lexists(folder):
        return "no such folder"
    if not folder.exists():
        return "a link that leads nowhere"
    return "something else" if folder.is_dir() else kind_of(folder.stat().st_mode)


def inside(folder: Path) -> list[Path]:
    """What lies in a folder, if there is one."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def trash_of(store: Store) -> list[Path]:
    """What a prune that was killed, or is at work, has not removed yet."""
    return [path for path in inside(store.folder) if path.name.startswith(TRASH)]


def being_made(store: Store, work: Path) -> bool:
    """Whether a living process works in a folder of `work/`."""
    return held(lock_of(store, work))


def lock_of(store: Store, work: Path) -> Path:
    """The lock that whoever works in a folder of `work/` holds."""
    return store.folder / "locks" / f"{work.name[:64]}.lock"


def newest(folder: Path) -> float:
    """When something below a folder last changed (seconds since the epoch)."""
    return max((info.st_mtime for info in _all_below(folder)), default=math.inf)


def _entry(folder: Path, by_content: dict[str, dict[Path, dict[str, Any]]]) -> Entry:
    content = f"sha256:{folder.name}"
    manifests = by_content.get(content, {})
    stamps: list[float] = []
    for path in manifests or [folder]:
        with contextlib.suppress(FileNotFoundError):
            stamps.append(path.stat().st_mtime)
    return Entry(content, folder, manifests, max(stamps, default=0.0), Inodes.of([folder]))
