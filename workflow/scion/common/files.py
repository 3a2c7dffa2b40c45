"""Writing files so that nobody ever sees half of one, and copying without touching the bytes."""

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

# Linux's ioctl number of FICLONE (linux/fs.h): share the extents instead of copying them.
_FICLONE = 0x40049409
_COPY_WINDOW = 64 << 20


@contextlib.contextmanager
def atomic_file(path: Path) -> Generator[IO[bytes]]:
    """Open a sibling of `path` for writing that replaces it only if the block ends well.

    The data is synced before the rename; on any exception, an interrupt too, the sibling is
    removed and an earlier file at `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        copy_file(source, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file by reflink where the file system can, else inside the kernel."""
    with source.open("rb") as reader, target.open("wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            size = os.fstat(reader.fileno()).st_size
            copy_range(reader, writer, offset=0, size=size)


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
