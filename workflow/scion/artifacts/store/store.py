"""The store itself: finding artifacts by recipe, opening them, adding new ones.

An artifact enters by one rename of a folder whose files are synced, and is read-only from then on.
Its record is written after it, so a record's artifact is whole or, if somebody removed it, absent.
"""

import contextlib
import errno
import os
import reprlib
import shutil
import sys
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from scion.artifacts.artifact import Artifact
from scion.artifacts.manifest import find_manifest, read_manifest
from scion.artifacts.release_layout import TENSORS
from scion.artifacts.store.dropped import DroppedWeights
from scion.artifacts.store.known_files import KnownFiles, unchanged
from scion.artifacts.store.locks import Leases, exclusive, held
from scion.artifacts.store.remote import FORMAT, MARK, Remote
from scion.artifacts.store.sources import Sources
from scion.checkpoint.safetensors_file import FileDigest
from scion.checkpoint.shards import read_object
from scion.common.digest import digest_file, hex_digits, in_parallel
from scion.common.errors import NoRoomError, ScionError
from scion.common.files import kind_of, sync, write_json

# The folder of a release's pointers, what rules declare.
POINTERS = ".pointers"
_READ_ONLY = 0o444
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What the system says when it is the place that is at fault, not Scion.
UNUSABLE = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM)
# How long another run may take to write a pointer anew that its Snakemake has just removed.
_POINTER_SECONDS = 30.0


@dataclass(frozen=True)
class Store:
    """A folder of artifacts, and the stores elsewhere that it is filled from and fills.

    Attributes:
        folder: The local folder.
        remotes: Stores elsewhere, asked in this order.
    """

    folder: Path
    remotes: tuple[Remote, ...] = ()

    @classmethod
    def open(cls, locations: Sequence[str], *, begin: bool = True) -> "Store":
        """Open a store by its locations, a local folder first.

        Args:
            locations: The folder, then stores elsewhere.
            begin: Make it if it is new; otherwise it is taken for empty, and nothing is written.

        Raises:
            ScionError: The folder holds something else, has another format, or can't be made.
        """
        folder = Path(locations[0])
        if "://" in locations[0]:
            raise ScionError(
                "the first location of a store is a folder on this machine",
                where="store",
                expected="a folder such as results/.store, then stores elsewhere",
                found=locations[0],
                hint=f"set `store: [results/.store, {locations[0]}]` in the config",
            )
        store = cls(folder, tuple(Remote(location) for location in locations[1:]))
        mark = folder / MARK
        try:
            if not mark.exists():
                _require_new(folder, mark)
                if not begin:
                    return store
                write_json(mark, {"format": FORMAT})
        except OSError as error:
            raise unusable(folder, error) from error
        hint = (
            "name another folder under `store` in the config, or use the version of Scion that "
            f'made this one; if the file was damaged, let it hold {{"format": "{FORMAT}"}}'
        )
        found = read_object(mark, hint=hint).get("format")
        if found != FORMAT:
            raise ScionError(
                "the store has another format",
                where=mark,
                expected=FORMAT,
                found=reprlib.repr(found),
                hint=hint,
            )
        return store

    @property
    def artifacts(self) -> Path:
        """The folder of artifacts, each named by its content."""
        return self.folder / "artifacts"

    @property
    def records(self) -> Path:
        """The folder of records, each named by its recipe."""
        return self.folder / "records"

    @cached_property
    def known(self) -> KnownFiles:
        """What is known of files here and of those that were taken from elsewhere."""
        return KnownFiles(self.folder / "known")

    @cached_property
    def sources(self) -> Sources:
        """What is known of local checkpoints."""
        return Sources(self.folder / "sources")

    @cached_property
    def leases(self) -> Leases:
        """What running processes need."""
        return Leases(self.folder / "leases", self.folder / "locks" / "leases.lock")

    @cached_property
    def dropped(self) -> DroppedWeights:
        """Artifacts whose weights are here no longer."""
        return DroppedWeights(self.folder / "dropped")

    def place(self, content: str) -> Path:
        """The folder of an artifact with this content, whether or not it is there."""
        return self.artifacts / hex_digits(content)

    def record(self, recipe: str) -> Path:
        """The file that says what a recipe gave, whether or not it is there."""
        return self.records / f"{hex_digits(recipe)}.json"

    def holds(self, content: str) -> bool:
        """Whether an artifact with this content is here; nothing of it is read."""
        return self.place(content).is_dir()

    def is_whole(self, artifact: Artifact) -> bool:
        """Whether an artifact is here with its weights, and all its files are what they were."""
        here = self.holds(artifact.content) and not self.dropped.of(artifact.content)
        return here and not self.damage(artifact)

    # Reading

    def open_pointer(self, pointer: Path) -> Artifact:
        """The artifact that a pointer names, its files found to be what they were.

        Its weights may have been dropped.

        Raises:
            ScionError: The pointer can't be read, or its artifact is gone or damaged.
        """
        _wait_for(pointer)
        manifest = read_manifest(pointer)
        if not self.holds(manifest["content"]):
            raise ScionError(
                "the store has no longer what a pointer names",
                where=pointer,
                expected=self.place(manifest["content"]),
                found="no such folder",
                hint="run the workflow again: it makes the artifact anew",
            )
        artifact = Artifact(self.place(manifest["content"]), manifest)
        if damage := self.damage(artifact):
            aside = self.set_aside(manifest["content"])
            raise ScionError(
                "an artifact in the store is not what it was",
                where=artifact.folder,
                expected="files with the digests that were recorded",
                found="; ".join(damage),
                hint=f"it was moved to {aside}: run again, and it is made anew",
            )
        self.note_use(artifact)
        return artifact

    def note_use(self, artifact: Artifact) -> None:
        """Stamp the record of an artifact with the time, for `scion store` to tell its last use."""
        # Another user's, in a store that is only read, or gone: it is a hint and no more.
        with contextlib.suppress(OSError):
            os.utime(self.record(artifact.recipe))

    def find(self, recipe: str) -> Artifact | None:
        """What a recipe gave, here or in a store elsewhere; None if nobody has it whole.

        Raises:
            ScionError: A store elsewhere can't be reached, or returns other bytes.
        """
        artifact = self._find_here(recipe)
        for remote in self.remotes if artifact is None else ():
            manifest = remote.record(recipe)
            if manifest is not None:
                return self._pull(remote, manifest)
        return artifact

    def _find_here(self, recipe: str) -> Artifact | None:
        path = self.record(recipe)
        if not path.is_file():
            return None
        try:
            manifest = read_manifest(path)
        except ScionError as error:
            print(f"{error}\nit is made anew", file=sys.stderr)
            return None
        if manifest["recipe"] != recipe:
            print(f"{path}: it holds another recipe's manifest; it is made anew", file=sys.stderr)
            return None
        artifact = Artifact(self.place(manifest["content"]), manifest)
        if not artifact.folder.is_dir():
            print(f"{path}: its artifact is gone from the store; it is made anew", file=sys.stderr)
            return None
        if damage := self.damage(artifact):
            aside = self.set_aside(manifest["content"])
            for line in damage:
                print(f"{artifact.folder}: {line}", file=sys.stderr)
            print(f"moved to {aside}; it is made anew", file=sys.stderr)
            return None
        if self.dropped.of(artifact.content):
            return None
        self.note_use(artifact)
        return artifact

    def damage(self, artifact: Artifact, *, read_all: bool = False) -> list[str]:
        """A line for each file that is not what the manifest says; one that was dropped has none.

        Args:
            artifact: One of this store.
            read_all: Hash every file; otherwise only those that may have changed since they were.
        """
        dropped = self.dropped.of(artifact.content)

        def look(name: str) -> str | None:
            path, entry = artifact.folder / name, artifact.files[name]
            if not path.is_file():
                return None if name in dropped else f"{name}: missing"
            known = None if read_all else self.known.get(path)
            before = path.stat()
            sha256 = digest_file(path) if known is None else known.sha256
            if sha256 != entry["sha256"]:
                return f"{name}: expected {entry['sha256']}, found {sha256}"
            if known is None and unchanged(before, path.stat()):
                self.known.remember(path, _file_digest(artifact, name))
            return None

        return [line for line in in_parallel(look, artifact.files) if line is not None]

    def set_aside(self, content: str) -> Path:
        """Move an entry that is not what its name says out of the way, and return where it is.

        No record says any more that some recipe gave it.
        """
        place = self.place(content)
        aside = self.folder / "damaged" / f"{place.name[:16]}-{uuid4().hex[:8]}"
        aside.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            place.chmod(0o755)
            place.rename(aside)
        for record, manifest in self.manifests():
            if manifest["content"] == content:
                record.unlink(missing_ok=True)
        return aside

    def manifests(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Every record that can be read, with its file."""
        for path in sorted(self.records.glob("*.json")):
            manifest = find_manifest(path)
            if manifest is not None:
                yield path, manifest

    # Writing

    @contextlib.contextmanager
    def claim(self, recipe: str, *, stage: str) -> Generator[Path]:
        """A folder to work in, named by the recipe, that no other process has at the same time.

        What stays in it when the block ends is there again the next time.
        """
        name = hex_digits(recipe)
        waiting = f"{stage}: another process makes the same; waiting for it"
        with exclusive(self.folder / "locks" / f"{name}.lock", waiting=waiting) as alone:
            # Where nothing can be locked a folder of its own: made twice at worst, never wrong.
            folder = self.folder / "work" / (name if alone else f"{name}-{uuid4().hex[:8]}")
            folder.mkdir(parents=True, exist_ok=True)
            try:
                yield folder
            finally:
                # Only if nothing is kept in it.
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def tidy(self, recipe: str) -> None:
        """Remove what is half made of a recipe whose artifact is there: a run was killed just then.

        Left alone if another process works there.
        """
        name = hex_digits(recipe)
        if (self.folder / "work" / name).is_dir() and not held(self.folder / f"locks/{name}.lock"):
            with self.claim(recipe, stage="tidying up") as folder:
                self.known.remove(folder)

    def commit(self, folder: Path, manifest: dict[str, Any], written: Collection[str]) -> Artifact:
        """Add a finished folder, and the record of the recipe that gave it.

        Args:
            folder: On the store's file system; it moves.
            manifest: Its manifest.
            written: Names of the files that are new and nobody else's: they become read-only. A
                link of somebody's source keeps its mode, for it is the same file.

        Raises:
            ScionError: A file is not any more what it was when it was hashed.
        """
        if damage := self.damage(Artifact(folder, manifest)):
            raise ScionError(
                "a file changed while the artifact was made",
                where=folder,
                expected="files that nobody writes to",
                found="; ".join(damage),
                hint="run again, and leave the source alone meanwhile: its files are hard-linked",
            )
        artifact = Artifact(self.place(manifest["content"]), manifest)
        for name in written:
            (folder / name).chmod(_READ_ONLY)
        for path in (*(folder / name for name in written), *_folders(folder)):
            sync(path)
        # The recipe's lease does not say yet which content it stands for.
        with self.leases.lease([manifest["content"]]):
            self._enter(folder, artifact, written)
            write_json(self.record(manifest["recipe"]), manifest)
        return artifact

    def _enter(self, folder: Path, artifact: Artifact, written: Collection[str]) -> None:
        """Make a finished folder an entry, unless there is a sound one of the same content."""
        self.artifacts.mkdir(exist_ok=True)
        if self.holds(artifact.content) and self.damage(artifact):
            self.set_aside(artifact.content)
        try:
            folder.rename(artifact.folder)
            self.dropped.note(artifact.content).unlink(missing_ok=True)
            # Read-only now, which their status tells.
            for name in written:
                self.known.remember(artifact.folder / name, _file_digest(artifact, name))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Another recipe gave the same bytes, or their weights were dropped since.
            for name in self.dropped.complete(artifact.content, folder, artifact.folder):
                self.known.remember(artifact.folder / name, _file_digest(artifact, name))
            self.known.remove(folder)
        # Another user's, who gave the same bytes before, are so already.
        with contextlib.suppress(PermissionError):
            for path in _folders(artifact.folder):
                path.chmod(0o555)
        sync(self.artifacts)

    def _pull(self, remote: Remote, manifest: dict[str, Any]) -> Artifact:
        """Bring an artifact here from a store elsewhere, unless its bytes are here already."""
        artifact = Artifact(self.place(manifest["content"]), manifest)
        with self.leases.lease([manifest["content"]]):
            if self.is_whole(artifact):
                write_json(self.record(manifest["recipe"]), manifest)
                return artifact
        print(f"{manifest['stage']}: {remote.url} has it", file=sys.stderr)
        with self.claim(manifest["content"], stage=f"pull of {manifest['stage']}") as work:
            pulled = remote.pull(manifest, work / "pulled", self.known, self._files_here())
            return self.commit(work / "pulled", manifest, pulled)

    def _files_here(self) -> Mapping[str, Path]:
        """A file of the store by hex SHA-256, for those that several artifacts share."""
        files: dict[str, Path] = {}
        for _, manifest in self.manifests():
            folder = self.place(manifest["content"])
            for name, entry in manifest["files"].items():
                if (folder / name).is_file():
                    files.setdefault(entry["sha256"], folder / name)
        return files

    def share(self, artifact: Artifact) -> None:
        """Give an artifact to every store elsewhere that lacks it.

        Raises:
            ScionError: One can't be reached or written to; the artifact stays here.
        """
        for remote in self.remotes:
            remote.push(artifact)


def _wait_for(pointer: Path) -> None:
    """Two runs at once: Snakemake removes what a job is to write, though the other run reads it."""
    end = time.monotonic() + _POINTER_SECONDS
    while pointer.parent.name == POINTERS and not pointer.exists() and time.monotonic() < end:
        time.sleep(0.05)


def _file_digest(artifact: Artifact, name: str) -> FileDigest:
    """What a manifest and its tensor table say of a file."""
    entry = artifact.files[name]
    rows: Mapping[str, Any] = (
        artifact.tensors() if name.endswith(".safetensors") and TENSORS in artifact.files else {}
    )
    tensors = {tensor: row["sha256"] for tensor, row in rows.items() if row["file"] == name}
    return FileDigest(entry["size"], entry["sha256"], tensors)


def _folders(folder: Path) -> list[Path]:
    """A folder and all below it."""
    return [folder, *(path for path in folder.rglob("*") if path.is_dir())]


def _require_new(folder: Path, mark: Path) -> None:
    """A store is not begun among files of something else."""
    # What a plan remembers of files before any run is nothing else.
    if os.path.lexists(folder) and not folder.is_dir():
        raise ScionError(
            "a store is a folder",
            where=folder,
            expected="a new folder, or one with " + MARK,
            found="a link that leads nowhere"
            if not folder.exists()
            else kind_of(folder.stat().st_mode),
            hint="name another folder under `store` in the config, or move this away",
        )
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = sorted(name for name in names if not name.startswith(".") and name != "known")
    # Looked for again: another process may have begun it just now.
    if found and not mark.exists():
        raise ScionError(
            "the folder holds something else than a store",
            where=folder,
            expected=f"a new folder, or one with {MARK}",
            found=", ".join(found[:4]),
            hint="name another folder under `store` in the config",
        )


def unusable(where: object, error: OSError) -> ScionError:
    """The error for a store that can't be written; a `NoRoomError` if it is full."""
    full = error.errno in _FULL
    hints = {
        errno.EROFS: "name a folder that can be written under `store` in the config",
        errno.EACCES: "it is another user's: ask for the right to write, or name another folder "
        "under `store` in the config",
    }
    free = shutil.disk_usage(os.path.dirname(str(where)) or ".").free if full else 0
    return (NoRoomError if full else ScionError)(
        "the store can't be written",
        where=error.filename or where,
        expected="room on the disk" if full else "a folder that this user may write to",
        found=f"{error.strerror}" + (f"; {free / 1e9:.2f} GB are free" if full else ""),
        hint="free some space (scion store prune --dry-run says what may go), and run again"
        if full
        else hints.get(error.errno or 0, "see what the system says, and run again"),
    )
