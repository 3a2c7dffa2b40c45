"""`scion store prune`: removing what no root and no living process needs, beside running jobs.

What goes is decided, and renamed into `trash-<random>/`, while no lease can begin. Only then is it
deleted, which may take long. So a prune that is killed leaves whole artifacts and a folder of
trash, which the next one removes.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from scion.artifacts.store.locks import exclusive, held, unheld
from scion.artifacts.store.roots import Root
from scion.artifacts.store.store import Store, unusable
from scion.artifacts.store.survey import (
    TRASH,
    Entry,
    Inodes,
    Survey,
    being_made,
    inside,
    lock_of,
    newest,
    trash_of,
)
from scion.checkpoint.shards import read_object
from scion.common.digest import hex_digits
from scion.common.errors import ScionError

_DAY = 86400.0
# Caches: what is gone from them is read again.
_CACHE_DAYS = 30
# Nobody takes so long to write a small file.
_LEFTOVER_DAYS = 1
_OWN_LOCKS = ("leases.lock", "prune.lock")


@dataclass(frozen=True)
class Rules:
    """What a prune keeps besides what is needed.

    Attributes:
        keep: Bytes of unreachable artifacts, those that were used last.
        older_than: Days for which half-made work is kept.
        forget: Folders of results that are gone, on whatever host.
    """

    keep: int = 0
    older_than: float = 7
    forget: tuple[Path, ...] = ()


@dataclass
class Doomed:
    """What a prune removes.

    Attributes:
        notes: What the reader should know besides.
        roots: Files of roots whose folder is gone.
        pointers: Pointers that name an artifact that goes.
        records: Records that name one, or one that is gone already.
        artifacts: Artifacts, the least recently used first.
        work: Half-made work.
        damaged: What was set aside.
        trash: What an earlier prune did not come to.
        small: Entries of caches, stale leases, notes of what was dropped, half-written small files.
        locks: Locks that nobody holds.
    """

    notes: list[str] = field(default_factory=list[str])
    roots: list[Path] = field(default_factory=list[Path])
    pointers: list[Path] = field(default_factory=list[Path])
    records: list[Path] = field(default_factory=list[Path])
    artifacts: list[Entry] = field(default_factory=list[Entry])
    work: list[Path] = field(default_factory=list[Path])
    damaged: list[Path] = field(default_factory=list[Path])
    trash: list[Path] = field(default_factory=list[Path])
    small: list[Path] = field(default_factory=list[Path])
    locks: list[Path] = field(default_factory=list[Path])

    @property
    def freed(self) -> int:
        """The bytes that its removal gives back."""
        folders = [entry.folder for entry in self.artifacts]
        return Inodes.of([*folders, *self.work, *self.damaged, *self.trash]).freed


def prune(store: Store, rules: Rules, *, dry_run: bool, say: Callable[[Doomed], None]) -> None:
    """Remove what is not needed.

    Args:
        store: A local store.
        rules: What to keep besides.
        dry_run: Only say what would go; nothing is changed.
        say: Called once all is decided, before anything goes.

    Raises:
        ScionError: The store is not this user's, has no locks, a root can't be read, or is to be
            forgotten and not known.
    """
    if dry_run:
        say(decide(store, rules))
        return
    _require_right(store.folder)
    locks = store.folder / "locks"
    with exclusive(locks / "prune.lock", waiting="waiting for another prune") as alone:
        with store.leases.closed() as closed:
            if not (alone and closed):
                raise no_locks(store.folder)
            doomed = decide(store, rules)
            say(doomed)
            try:
                _put_aside(store, doomed, store.folder / f"{TRASH}{uuid4().hex[:8]}")
            except OSError as error:
                raise unusable(store.folder, error) from error
        for folder in trash_of(store):
            store.known.remove(folder)


def decide(store: Store, rules: Rules) -> Doomed:
    """What goes; trust it only while no lease can begin."""
    survey, doomed = Survey.of(store), Doomed()
    roots = _living(survey, rules, doomed)
    _choose_artifacts(survey, roots, rules, doomed)
    gone = {entry.content for entry in doomed.artifacts}
    doomed.pointers = [
        pointer for root in roots for pointer, content in root.pointers() if content in gone
    ]
    kept = {entry.content for entry in survey.entries} - gone
    doomed.records = [
        path
        for path, manifest in survey.records.items()
        if manifest is not None and manifest["content"] not in kept
    ]
    leased = {hex_digits(name) for name in survey.leased}
    doomed.work = [
        path
        for path in survey.work()
        if is_own(path)
        and path.name[:64] not in leased
        and not being_made(store, path)
        and _older(newest(path), rules.older_than)
    ]
    doomed.damaged = [path for path in survey.damaged() if is_own(path)]
    doomed.trash = trash_of(store)
    doomed.small = _small(survey, kept, doomed)
    doomed.locks = [
        path
        for path in inside(store.folder / "locks")
        if path.suffix == ".lock"
        and path.name not in _OWN_LOCKS
        and path.stem not in leased
        and not held(path)
    ]
    return doomed


def _living(survey: Survey, rules: Rules, doomed: Doomed) -> list[Root]:
    """The roots that count; the others are noted as gone."""
    forgotten = {folder.resolve() for folder in rules.forget}
    _require_roots(forgotten, survey.roots)
    living: list[Root] = []
    for root in survey.roots:
        forget = root.folder.resolve() in forgotten
        if root.alive and forget:
            doomed.notes.append(f"{root.folder}: still there, so it is not forgotten")
        if root.alive or (root.lasting and not forget):
            living.append(root)
            if not root.alive:
                doomed.notes.append(
                    f"{root.folder}: not found here, but noted on {root.host}; what it shows is "
                    f"kept. If it is gone: --forget {root.folder}"
                )
        elif root.path is not None:
            doomed.roots.append(root.path)
            doomed.notes.append(f"{root.folder}: gone; what it showed is needed no longer")
    return living


def _require_roots(forgotten: set[Path], roots: list[Root]) -> None:
    """Refuse to forget what the store does not know: a name that was mistyped, most likely."""
    known = {root.folder.resolve() for root in roots}
    for folder in sorted(forgotten - known):
        raise ScionError(
            "there is no such root to forget",
            where=folder,
            expected="a folder of results that this store has noted",
            found=", ".join(sorted(map(str, known))) or "a store without roots",
            hint="nothing was removed: name one of those; scion store ls shows what each shows",
        )


def _choose_artifacts(survey: Survey, roots: list[Root], rules: Rules, doomed: Doomed) -> None:
    """The least recently used of those that nobody needs, until the rest is small enough."""
    reachable = survey.reachable(roots)
    rest = [entry for entry in survey.entries if entry.content not in reachable]
    for entry in rest:
        if not is_own(entry.folder):
            doomed.notes.append(f"{entry.folder}: another user's; only that user can remove it")
    rest = [entry for entry in rest if is_own(entry.folder)]
    rest.sort(key=lambda entry: (entry.last_used, entry.content))
    total = _Total(rest)
    while rest and (rules.keep == 0 or total.size > rules.keep):
        total.remove(rest[0])
        doomed.artifacts.append(rest.pop(0))


class _Total:
    """What removing artifacts would free, kept up to date while some of them go."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._inodes = Inodes.of_entries(entries)
        self._lonely = {
            inode
            for inode, links in self._inodes.links.items()
            if self._inodes.names[inode] >= links
        }
        self.size = sum(self._inodes.sizes[inode] for inode in self._lonely)

    def remove(self, entry: Entry) -> None:
        """Take an artifact away; what others of them share with it stays."""
        for inode, names in entry.inodes.names.items():
            self._inodes.names[inode] -= names
            if self._inodes.names[inode] == 0 and inode in self._lonely:
                self.size -= self._inodes.sizes[inode]


def _small(survey: Survey, kept: set[str], doomed: Doomed) -> list[Path]:
    """Entries of caches that nothing uses, stale leases, and what a killed writer has left."""
    folder = survey.store.folder
    going = {entry.content for entry in doomed.artifacts}
    stays = Inodes.of_entries(entry for entry in survey.entries if entry.content not in going)
    stays.add(Inodes.of(path for path in survey.work() if path not in doomed.work))
    used = {str(inode) for inode in stays.sizes}
    found = list(survey.store.leases.stale())
    for path in inside(folder / "known"):
        if path.stem not in used and _old(path, _CACHE_DAYS):
            found.append(path)
    # A plan that a running workflow made may rest on any of them.
    for path in inside(folder / "sources") if not survey.leased else ():
        if _old(path, _CACHE_DAYS) and _content(path) not in kept:
            found.append(path)
    for path in inside(folder / "dropped"):
        if path.suffix == ".json" and f"sha256:{path.stem}" not in kept:
            found.append(path)
    for name in ("records", "roots", "sources", "known", "dropped"):
        found += [path for path in (folder / name).glob(".*") if _old(path, _LEFTOVER_DAYS)]
    return sorted(set(found))


def _content(path: Path) -> str | None:
    with contextlib.suppress(ScionError):
        return read_object(path).get("content")
    return None


def _old(path: Path, days: float) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return _older(path.lstat().st_mtime, days)
    return False


def _older(stamp: float, days: float) -> bool:
    return time.time() - stamp >= days * _DAY


def is_own(folder: Path) -> bool:
    """Whether this user may move a read-only folder: only its owner can, and root."""
    with contextlib.suppress(FileNotFoundError):
        return os.geteuid() in (0, folder.stat().st_uid)
    return False


def _put_aside(store: Store, doomed: Doomed, trash: Path) -> None:
    """Let what goes vanish by name: what is large into a folder of trash, to be deleted later."""
    trash.mkdir()
    for path in (*doomed.roots, *doomed.pointers, *doomed.records, *doomed.small):
        # A pointer may lie in a folder of another user's: the next plan removes it.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            path.unlink()
    for entry in doomed.artifacts:
        _move(entry.folder, trash)
    for path in doomed.damaged:
        _move(path, trash)
    for path in doomed.work:
        with unheld(lock_of(store, path)) as free:
            if free:
                _move(path, trash)
    for path in doomed.locks:
        with unheld(path) as free:
            if free:
                path.unlink(missing_ok=True)


def _move(path: Path, trash: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            # Else its owner could not move it.
            path.chmod(0o755)
        path.rename(trash / f"{path.name}-{uuid4().hex[:8]}")


def _require_right(folder: Path) -> None:
    """Refuse at once where nothing can be removed."""
    for path in (folder, folder / "artifacts"):
        if path.exists() and not os.access(path, os.W_OK):
            raise ScionError(
                "the store can't be written",
                where=path,
                expected="a folder that this user may write to",
                found="no right to write",
                hint="it is another user's: ask its owner to prune it",
            )


def no_locks(folder: Path) -> ScionError:
    """The error for a store on a file system without locks, of which nothing can be removed."""
    return ScionError(
        "nobody can tell whether the store is in use",
        where=folder,
        expected="a file system with locks (flock)",
        found="one without",
        hint="go to the host that has the disk, or mount it with locks",
    )
