"""The hub held to the lock of a configuration (`scion.checkpoint.hub.lock`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import is_offline_mode

from scion.checkpoint.hub.client import RangeReader, RemoteFile, list_files
from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.checkpoint.hub.lock import LockedFile, LockedFiles, locked_in
from scion.common.digest import digest_bytes, git_blob
from scion.common.errors import ScionError

_COMPARE = (
    "somebody changed what the hub answers for this commit, or the lock; compare them with their "
    "owners before you pin again"
)


def locked_files(repository: HubRepository) -> LockedFiles:
    """What a lock says of a pinned repository.

    Large files are believed to have the digest that the hub lists; the others are read.

    Raises:
        ScionError: One of the hub's refusals, or a file that is not what the hub lists.
    """
    reader, locked = RangeReader(repository), dict[str, LockedFile]()
    for name, file in sorted(reader.files.items()):
        sha256 = file.sha256
        if sha256 is None:
            content = reader.read(name, 0, file.size)
            sha256 = digest_bytes(content)
            if (found := git_blob(len(content), [content])) != file.git_blob:
                raise ScionError(
                    "a file of the hub is not what the hub lists; nothing was locked",
                    where=f"{repository}: {name}",
                    expected=f"git blob {file.git_blob}",
                    found=found,
                    hint="run the same command again; if it stays so, the server or a proxy alters "
                    "files",
                )
        locked[name] = LockedFile(file.size, sha256, file.git_blob)
    return locked


def require_locked(repository: HubRepository, locked: LockedFiles) -> None:
    """Refuse a repository whose listing is no longer that of its lock.

    Raises:
        ScionError: Names the first file that differs; or one of the hub's refusals.
    """
    there = list_files(repository)
    for name in sorted(there.keys() | locked.keys()):
        expected, found = locked.get(name), there.get(name)
        if expected is None or found is None or _differs(expected, found):
            raise ScionError(
                "a pinned repository is not what it was",
                where=f"{repository}: {name}",
                expected=_told(expected),
                found=_told(found),
                hint=_COMPARE,
            )


def held_files(repository: HubRepository, locks: Sequence[Path]) -> dict[str, RemoteFile]:
    """What every file of a pinned repository has to be.

    With a lock it is what the lock says, and the hub is held to that first, unless HF_HUB_OFFLINE
    keeps it from being asked; without one it is what the hub lists.

    Args:
        repository: Where from.
        locks: Files of locks; none: nobody has locked it.

    Raises:
        ScionError: As `require_locked` and `locked_in`.
    """
    locked = locked_in(locks, str(repository))
    if locked is None:
        return list_files(repository)
    if not is_offline_mode():
        require_locked(repository, locked)
    return {
        name: RemoteFile(name, file.size, file.sha256, file.git_blob)
        for name, file in locked.items()
    }


def require_bytes(repository: HubRepository, name: str, found: str, locked: LockedFiles) -> None:
    """Refuse a file that was fetched and has another digest than its lock.

    Args:
        repository: Where it came from.
        name: Its name.
        found: Hex SHA-256 of what arrived.
        locked: The lock's entries of the repository.
    """
    expected = locked.get(name)
    if expected is None or expected.sha256 != found:
        raise ScionError(
            "a fetched file is not the one that was pinned",
            where=f"{repository}: {name}",
            expected="a file of the lock" if expected is None else f"SHA-256 {expected.sha256}",
            found=f"SHA-256 {found}",
            hint=_COMPARE,
        )


def require_read(read: Mapping[str, Mapping[str, str]], locks: Sequence[Path]) -> None:
    """Refuse what was made of files that are not those of the locks.

    Args:
        read: By location of a pinned repository, the hex SHA-256 of each file that was read.
        locks: Files of locks; none: nothing is refused.

    Raises:
        ScionError: Names the first file that differs, or a repository that no lock has.
    """
    for location, files in read.items():
        repository, locked = parse_location(location), locked_in(locks, location)
        if locked is not None and isinstance(repository, HubRepository):
            for name, found in files.items():
                require_bytes(repository, name, found, locked)


def _differs(locked: LockedFile, there: RemoteFile) -> bool:
    known = (
        (locked.size, there.size),
        (locked.sha256, there.sha256 or locked.sha256),
        (locked.git_blob, there.git_blob),
    )
    return any(expected != found for expected, found in known)


def _told(file: LockedFile | RemoteFile | None) -> str:
    if file is None:
        return "no such file"
    return f"{file.size} bytes, {file.sha256 or file.git_blob}"
