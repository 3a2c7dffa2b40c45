"""Locks that die with their process, and leases on what a running stage or workflow must find.

They are `flock`s: the kernel lets go of them however the process ends, SIGKILL included, so none
has ever to be freed by hand. The files themselves stay, empty or stale, and mean nothing unlocked.
"""

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from uuid import uuid4

from scion.checkpoint.shards import read_json
from scion.common.errors import ScionError
from scion.common.progress import doing

# What a file system says that has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def exclusive(path: Path, *, waiting: str) -> Generator[bool]:
    """Hold a lock while the block lasts; wait for whoever has it.

    Args:
        path: The lock's file.
        waiting: Printed once if another process has it.

    Yields:
        False on a file system without locks, where nobody can be kept out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path, waiting)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(path: Path, waiting: str) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(waiting, file=sys.stderr, flush=True)
                doing(waiting)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                return None
            raise
        except BaseException:
            os.close(descriptor)
            raise
        # Whoever tidied up may have removed the file while this process waited for it.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        os.close(descriptor)


def held(path: Path) -> bool:
    """Whether a living process holds the lock of a file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            # Another user's: better taken for held than removed.
            return True
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in _NO_LOCKS:
            # Nobody can tell: better taken for held, too.
            return True
        raise
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def unheld(path: Path) -> Generator[bool]:
    """Take a lock for the block if nobody holds it; never wait.

    Yields:
        Whether it was taken. False as well if that can't be told.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        yield False
        return
    try:
        taken = False
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Otherwise somebody else has removed the file since it was opened.
            taken = os.fstat(descriptor).st_ino == path.stat().st_ino
        yield taken
    finally:
        os.close(descriptor)


class Leases:
    """What running processes need, so that nobody removes it meanwhile: a file for each of them.

    Args:
        folder: Where the files are, or will be made.
        gate: A lock that `Leases.closed` holds while somebody decides what may go.
    """

    def __init__(self, folder: Path, gate: Path) -> None:
        self.folder = folder
        self._gate = gate
        self._own: set[Path] = set()

    @contextlib.contextmanager
    def lease(self, names: Iterable[str]) -> Generator[None]:
        """Keep what the names stand for, contents or paths of pointers, while the block lasts."""
        descriptor = self.take(names)
        try:
            yield
        finally:
            os.close(descriptor)

    def take(self, names: Iterable[str]) -> int:
        """As `lease`, until the returned descriptor is closed or the process ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.closed():
            path = self.folder / f"{os.getpid()}-{uuid4().hex[:8]}.json"
            self._own.add(path)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            # Whoever asks whether it is held has it for a moment.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, json.dumps(sorted(names)).encode())
        return descriptor

    def leased(self, *, by_others: bool = False) -> set[str]:
        """What living processes need.

        Args:
            by_others: Leave out what was taken by this object.
        """
        names: set[str] = set()
        for path in sorted(self.folder.glob("*.json")):
            if held(path) and not (by_others and path in self._own):
                with contextlib.suppress(ScionError):
                    names.update(_names(read_json(path)))
        return names

    def stale(self) -> list[Path]:
        """The files that dead processes left. Trust it only while `closed` lasts."""
        return [path for path in sorted(self.folder.glob("*.json")) if not held(path)]

    def closed(self) -> contextlib.AbstractContextManager[bool]:
        """No lease begins while the block lasts."""
        return exclusive(
            self._gate, waiting="waiting until the store has removed what nobody needs"
        )


def _names(value: object) -> Sequence[str]:
    return [str(name) for name in value] if isinstance(value, list) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
