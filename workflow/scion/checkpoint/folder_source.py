"""Where a checkpoint to be judged is read from: a folder of this machine, or a hub repository."""

import os
import stat
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from scion.checkpoint.hub.location import SCHEME, HubRepository, LocalFolder, parse_location
from scion.checkpoint.lfs import refuse_pointer
from scion.checkpoint.safetensors_file import Header, Tensor, read_open_header
from scion.common.digest import read_chunks, read_into
from scion.common.errors import ScionError
from scion.common.extras import extras_told

if TYPE_CHECKING:
    from scion.checkpoint.source import Source

MAX_FILE_BYTES = 64 << 20
"""The largest file that is read whole; a tokenizer.json of a quarter million tokens has 20 MB."""


def open_source(text: str, *, revision: str | None = None) -> "Source":
    """Open what a user names.

    Args:
        text: A folder, a file in it, `hf://owner/name[@revision]`, or `owner/name` alone where no
            such path is here.
        revision: Branch, tag or commit of a repository that is named without one.

    Raises:
        ScionError: It is neither, or can't be read.
    """
    if _is_here(text):
        if revision is not None:
            raise _revision_error(text, "no revision for a path of this machine", revision)
        return FolderSource(Path(text))
    repository = _at_revision(_repository(text), revision)
    # The hub's client takes half a second to import, which a folder should not cost.
    try:
        with extras_told():
            from scion.checkpoint.hub.source import HubSource
        return HubSource(repository)
    except ScionError as error:
        if text.startswith(SCHEME):
            raise
        raise ScionError(
            f"there is no such path here, and of the repository: {error.problem}",
            where=f"{text}, taken for {repository}",
            expected=error.expected,
            found=error.found,
            hint=f"check the path; or, for the repository: {error.hint}",
        ) from error


def _is_here(text: str) -> bool:
    with _told(text):
        try:
            os.lstat(text)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def _repository(text: str) -> HubRepository:
    if "://" in text:
        location = parse_location(text)
    else:
        try:
            location = parse_location(f"{SCHEME}{text}")
        except ScionError:
            location = LocalFolder(Path(text))
    if isinstance(location, LocalFolder):
        raise ScionError(
            "there is no such folder",
            where=text,
            expected="a folder, a file in it, hf://owner/name or owner/name",
            found="nothing of that name, and no repository can have such a name",
            hint="check the path; it is taken from the folder that the command runs in",
        )
    return location


def _at_revision(repository: HubRepository, revision: str | None) -> HubRepository:
    repository.require_model()
    if revision is None:
        return repository
    if repository.revision not in (None, revision):
        raise _revision_error(repository, "one revision", f"{revision} beside it")
    return repository.at(revision)


def _revision_error(where: object, expected: str, found: str) -> ScionError:
    return ScionError(
        "a revision is given that does not go with the location",
        where=where,
        expected=expected,
        found=found,
        hint="leave out --revision, or name a repository without one",
    )


class FolderSource:
    """A folder of this machine; nothing outside it is read.

    A link may lead to another file of the folder. The one exception is a snapshot of the hub's
    cache (`models--…/snapshots/<commit>`), whose files are links to its `models--…/blobs`.

    Attributes:
        name: The folder, as the user wrote it.
        folder: The same.
        files: Size in bytes by name of the regular files at its top.
        traffic: None: nothing is moved.
    """

    def __init__(self, path: Path) -> None:
        """List the folder.

        Args:
            path: The folder, or a file in it.

        Raises:
            ScionError: It can't be read, or holds a link that leaves it.
        """
        self.traffic = None
        with _told(path):
            self.folder = path if path.is_dir() else path.parent
            self.name = str(self.folder)
            self.files: dict[str, int] = {}
            self._paths: dict[str, Path] = {}
            self._headers: dict[str, Header] = {}
            for name in sorted(os.listdir(self.folder)):
                self._add(name)

    def _add(self, name: str) -> None:
        path = self.folder / name
        if not _is_text(name):
            raise ScionError(
                "a file has a name that is no text",
                where=self.folder,
                expected="names in UTF-8",
                found=repr(name),
                hint="rename the file, or move it out of the folder",
            )
        with _told(path):
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                path, status = self._follow(path)
            # Folders are not read; opening a pipe or a device could wait forever.
            if stat.S_ISREG(status.st_mode):
                self._paths[name] = path
                self.files[name] = status.st_size

    def _follow(self, link: Path) -> tuple[Path, os.stat_result]:
        try:
            target = link.resolve(strict=True)
            status = target.stat()
        # A ring of links is a RuntimeError up to Python 3.12.
        except (FileNotFoundError, NotADirectoryError, RuntimeError) as error:
            raise _link_error("a link leads nowhere", link, os.readlink(link)) from error
        inside = any(map(target.is_relative_to, homes(self.folder.resolve())))
        if stat.S_ISREG(status.st_mode) and not inside:
            raise _link_error("a link leaves the checkpoint's folder", link, str(target))
        return target, status

    def read(self, name: str) -> bytes | None:
        """A whole file; None where it is larger than `MAX_FILE_BYTES`."""
        if self.files.get(name, 0) > MAX_FILE_BYTES:
            return None
        with self._open(name) as file:
            raw = file.read(self.files[name])
        refuse_pointer(raw, where=self.folder / name)
        return raw

    def headers(self, shards: Sequence[str]) -> dict[str, Header]:
        """The checked header of each shard."""
        for shard in shards:
            if shard not in self._headers:
                with self._open(shard) as file:
                    self._headers[shard] = read_open_header(file, where=self.folder / shard)
        return {shard: self._headers[shard] for shard in shards}

    def small(self, tensors: Mapping[str, Sequence[Tensor]]) -> dict[str, bytes]:
        """The bytes of small tensors by name; `tensors` lists them by shard."""
        data: dict[str, bytes] = {}
        for shard, shard_tensors in tensors.items():
            start = self.headers([shard])[shard].data_start
            with self._open(shard) as file:
                # They may lie gigabytes apart, and reading ahead of each would fetch megabytes.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                for tensor in shard_tensors:
                    offset = start + tensor.begin
                    data[tensor.name] = os.pread(file.fileno(), tensor.size, offset)
        return data

    def stream(self, name: str, begin: int, size: int) -> Iterator[bytes]:
        """The bytes [begin, begin + size) of a file, in chunks."""
        with _told(self.folder / name):
            yield from read_chunks(self._path(name), offset=begin, size=size)

    def fill(self, name: str, begin: int, buffer: memoryview) -> None:
        """Read the bytes of a file from `begin` on into a buffer, as many as it holds."""
        with _told(self.folder / name):
            read_into(self._path(name), buffer, offset=begin)

    def _path(self, name: str) -> Path:
        if name not in self._paths:
            raise FileNotFoundError("no regular file of that name")
        # The link was followed once; what it leads to by now is not asked again.
        return self._paths[name]

    @contextmanager
    def _open(self, name: str) -> Generator[BinaryIO]:
        path = self.folder / name
        with _told(path), self._path(name).open("rb") as file:
            yield file


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def homes(folder: Path) -> list[Path]:
    """The folders that a checkpoint's links may lead into."""
    # https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    cached = folder.parent.parent
    if folder.parent.name == "snapshots" and cached.name.startswith("models--"):
        # A file that came by Xet lies in a store that all repositories of the cache share.
        return [folder, cached / "blobs", cached.parent / "blobs"]
    return [folder]


def _link_error(problem: str, link: Path, target: str) -> ScionError:
    return ScionError(
        problem,
        where=link,
        expected="a file of the same folder (or of the hub cache that the folder is part of)",
        found=f"a link to {target}",
        hint="name the folder that holds the files themselves, or replace the link by the file",
    )


@contextmanager
def _told(path: Path | str) -> Generator[None]:
    """Tell an error of the file system as a `ScionError`."""
    try:
        yield
    except OSError as error:
        raise ScionError(
            "permission denied" if isinstance(error, PermissionError) else "a file can't be read",
            where=error.filename or path,
            expected="a folder and files that this user may read",
            found=error.strerror or error,
            hint="check owner and mode (ls -la), and that the disk is sound",
        ) from error
