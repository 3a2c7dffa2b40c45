"""The lock beside a configuration: size and digest of every file of its repositories.

    config/releases/X.yaml         source: hf://owner/name@COMMIT
    config/releases/X.lock.json    {"version": 1, "repositories": {"hf://owner/name@COMMIT":
                                     {"config.json": {"size": …, "sha256": …, "git_blob": …}, …}}}

A commit says which files there were, if the hub is believed. The lock says which bytes there have
to be: whoever commits it beside the configuration notices a hub, a mirror or a proxy that answers
for the same commit with other files. `scion pin` writes it; `scion.checkpoint.hub.lock_check` holds
the hub to it. Nothing here reaches the network.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from scion.checkpoint.shards import parse_object
from scion.common.bounded_json import MAX_TEXT_BYTES
from scion.common.errors import ScionError
from scion.common.files import read_regular, write_json

VERSION = 1
_SUFFIX = ".lock.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LockedFile:
    """A file as it was when its repository was pinned.

    Attributes:
        size: Bytes.
        sha256: Hex digest of the content.
        git_blob: Hex hash of git's blob object; None of a file that is kept apart from git.
    """

    size: int
    sha256: str
    git_blob: str | None


LockedFiles = Mapping[str, LockedFile]


def lock_of(config: Path) -> Path:
    """Where the lock of a configuration file lies: beside the file itself, if that is a link."""
    target = config.resolve()
    return target.with_name(target.stem + _SUFFIX)


def read_lock(path: Path) -> dict[str, LockedFiles]:
    """The locked files by repository, `hf://owner/name@commit`.

    Raises:
        ScionError: It can't be read, or is no lock.
    """
    config = path.with_name(path.name.removesuffix(_SUFFIX) + ".yaml")
    hint = f"restore it from your version control, or remove it and: scion pin {config}"
    try:
        raw = read_regular(path, limit=MAX_TEXT_BYTES)
    except (OSError, ValueError) as error:
        found = error.strerror if isinstance(error, OSError) else error
        raise _no_lock(path, found, hint) from error
    content = parse_object(raw, where=str(path), hint=hint)
    if content.get("version") != VERSION:
        raise _no_lock(path, f"version {content.get('version')!r}", hint)
    try:
        return {
            location: {_name(name): _entry(entry) for name, entry in files.items()}
            for location, files in cast(dict[str, Any], content["repositories"]).items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise _no_lock(path, repr(error), hint) from error


def locked_in(locks: Iterable[Path], location: str) -> LockedFiles | None:
    """What the first lock that has a repository says of it; None where there is no lock at all.

    Args:
        locks: Files of locks.
        location: The repository, `hf://owner/name@commit`.

    Raises:
        ScionError: None of the locks has it, or one is no lock.
    """
    read = {path: read_lock(path) for path in locks}
    for repositories in read.values():
        if location in repositories:
            return repositories[location]
    if not read:
        return None
    config = next(iter(read)).name.removesuffix(_SUFFIX) + ".yaml"
    raise ScionError(
        "no lock has the repository, so nothing says what it has to hold",
        where=", ".join(map(str, read)),
        expected=location,
        found=", ".join(sorted({name for each in read.values() for name in each})) or "none",
        hint=f"scion pin {next(iter(read)).with_name(config)}",
    )


def _name(name: str) -> str:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise TypeError(f"a name outside of its repository: {name!r:.100}")
    return name


def _entry(entry: dict[str, Any]) -> LockedFile:
    kinds = {"size": int, "sha256": str, "git_blob": str | None}
    sound = all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
    if not sound or not _SHA256.fullmatch(entry["sha256"]):
        raise TypeError(f"{entry!r:.100}")
    return LockedFile(**entry)


def write_lock(path: Path, repositories: Mapping[str, LockedFiles]) -> None:
    """Write a lock, repositories and names in order."""
    told = {
        location: {name: vars(file) for name, file in sorted(files.items())}
        for location, files in sorted(repositories.items())
    }
    write_json(path, {"version": VERSION, "repositories": told})


def _no_lock(path: Path, found: object, hint: str) -> ScionError:
    return ScionError(
        "the lock of a configuration can't be used",
        where=path,
        expected=f"version {VERSION}, with repositories and the size and SHA-256 of their files",
        found=found,
        hint=hint,
    )
