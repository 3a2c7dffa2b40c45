"""Writing files so that nobody ever sees half of one, and copying without touching the bytes."""

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

# Linux's ioctl number of FICLONE (linux/fs.h): share the extents instead of copying them.
_FICLONE = 0x40049409
_COPY_WINDOW = 64 << 20
# What a file system says that has no hard links, or none to this file.
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file, or a link to one, for reading; never waits, as opening a pipe may.

    Raises:
        OSError: It can't be opened, or is a folder, a pipe, a socket or a device.
    """
    # A pipe without a writer is opened at once then, and found out.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"no regular file, but {kind_of(kind)}", str(path))
    return os.fdopen(descriptor, "rb")


def kind_of(mode: int) -> str:
    """What a path is, by the mode that `lstat` gives, in words."""
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_regular(path: Path, *, limit: int | None = None) -> bytes:
    """The bytes of a regular file, or of a link to one; never waits.

    Raises:
        OSError: As `open_regular`.
        ValueError: It has more than `limit` bytes; none of them is read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise ValueError(f"{size} bytes, more than the {limit} that are read")
        return file.read()


@contextlib.contextmanager
def atomic_file(path: Path) -> Generator[IO[bytes]]:
    """Open a sibling of `path` for writing that replaces it only if the block ends well.

    The data is synced before the rename, and the folder after it; on any exception, an interrupt
    too, the sibling is removed and an earlier file at `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    descriptor, name = _sibling(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # Before the file is closed, which unlocks it.
            os.replace(name, path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _remove_stale(path: Path) -> None:
    """Remove what writers of a file have left that were killed: nobody has it locked."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        with contextlib.suppress(OSError), stale.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stale.unlink()


def _sibling(path: Path) -> tuple[int, str]:
    """A new file beside `path`, open for writing, with the mode that this process gives its files.

    It is locked, which tells whoever writes the same file that this process is alive. `tempfile`
    makes files that only their owner may read; and to ask for the process's mask is to set it, for
    all threads.
    """
    while True:
        name = str(path.with_name(f".{path.name}.{secrets.token_hex(4)}"))
        with contextlib.suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o666)
            # Where nothing can be locked, nothing is taken for stale either.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return descriptor, name
            # Another writer took it for stale before it was locked.
            os.close(descriptor)


def to_json(value: Any) -> bytes:
    """`value` as JSON for people: indented, keys in their own order, a newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON."""
    with atomic_file(path) as file:
        file.write(to_json(value))


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` by hard link, or a copy where links can't cross.

    A symbolic link (a Hugging Face cache holds those) is followed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _say_once(f"{target.parent}: no hard links here ({error.strerror}); files are copied")
        copy_file(source, target)


def reflink_or_link(source: Path, target: Path) -> None:
    """Give `target` the bytes of `source` without moving them: a clone, a hard link, or a copy.

    A clone (reflink) shares nothing that an edit of either could change; a hard link is the same
    file, so whoever edits `source` edits `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not _cloned(source.resolve(), target):
        link_or_copy(source, target)


def symlink_or_copy(source: Path, target: Path) -> None:
    """Make `target` a symbolic link to `source`, or a copy of it; for a folder that is soon gone.

    Unlike a hard link it changes nothing of `source`, its times included.
    """
    try:
        target.symlink_to(source.resolve())
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        copy_file(source, target)


def replace_link(target: str | Path, link: Path) -> None:
    """Make `link` a symbolic link to `target` in one step, in place of a link or a file.

    Whoever looks meanwhile sees the earlier link or this one, also where several do it at once.

    Raises:
        OSError: There are no symbolic links here, or a folder lies there.
    """
    # Of one name for one target: whoever is killed here leaves what the next one moves.
    digest = hashlib.sha256(str(target).encode()).hexdigest()
    fresh = link.with_name(f".{link.name}.{digest[:8]}")
    with contextlib.suppress(FileExistsError):
        fresh.symlink_to(target)
    try:
        fresh.replace(link)
    except FileNotFoundError:
        # Whoever makes the same link at the same time has moved it.
        return
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def copy_file(source: Path, target: Path) -> None:
    """Copy a file by reflink where the file system can, else inside the kernel."""
    if not _cloned(source, target):
        with source.open("rb") as reader, target.open("wb") as writer:
            size = os.fstat(reader.fileno()).st_size
            copy_range(reader, writer, offset=0, size=size)


def _cloned(source: Path, target: Path) -> bool:
    """Whether `target` could be made a clone of `source`; otherwise there is no `target`."""
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            target.unlink()
            return False
    return True


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def sync(path: Path) -> None:
    """Return when a file's bytes, or a folder's names, would outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_range(reader: IO[bytes], writer: IO[bytes], *, offset: int, size: int) -> None:
    """Append `size` bytes of `reader`, from `offset` on, to `writer`, through the kernel.

    The caller's own buffered writes are flushed first, so calls and `writer.write` may alternate.
    """
    writer.flush()
    end = offset + size
    position = writer.tell()
    while offset < end:
        window = min(_COPY_WINDOW, end - offset)
        try:
            copied = os.copy_file_range(reader.fileno(), writer.fileno(), window, offset, position)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            copied = os.pwrite(writer.fileno(), os.pread(reader.fileno(), window, offset), position)
        if copied == 0:
            raise EOFError(f"{reader.name} ended {end - offset} bytes early")
        offset += copied
        position += copied
    writer.seek(position)
