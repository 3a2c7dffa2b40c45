"""Roots: what the folders of results show, noted in the store, so that it is not removed.

    roots/<name>.json           {"host": …, "folder": …, "contents": {pointer file: content}}

A folder that lies beside the store, or below that, is named from there, so that both may move
together; any other by its whole path, which means something on its own host only.
"""

import hashlib
import os
import reprlib
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.artifacts.manifest import find_manifest
from scion.artifacts.store.store import POINTERS
from scion.checkpoint.shards import read_object
from scion.common.errors import ScionError
from scion.common.files import to_json, write_json

_SHOW_AGAIN = "remove the file, and run the workflow once in each folder that uses the store"


@dataclass(frozen=True)
class Root:
    """A folder of results that shows artifacts of a store.

    Attributes:
        path: The file in the store that says so; None if the folder was found without one.
        host: Where it was noted.
        folder: The folder as it is found from here.
        contents: What it shows, by the name of the pointer.
    """

    path: Path | None
    host: str
    folder: Path
    contents: dict[str, str]

    @property
    def alive(self) -> bool:
        """Whether the folder is there."""
        return _there(self.folder)

    @property
    def lasting(self) -> bool:
        """Whether it counts: the folder is there, or was noted on a host that alone can tell."""
        return self.alive or self.host != socket.gethostname()

    def pointers(self) -> Iterator[tuple[Path, str]]:
        """Each pointer of the folder, shown or of an older configuration, with its content."""
        for path in sorted((self.folder / POINTERS).glob("*.json")):
            manifest = find_manifest(path)
            if manifest is not None:
                yield path, manifest["content"]


def register(folder: Path, store: Path) -> None:
    """Note in a store that the artifacts that a folder of results shows are in use.

    Args:
        folder: `results/<release>`.
        store: The folder of the store.
    """
    own, place = store.resolve().parent, folder.resolve()
    entry: dict[str, Any] = {
        "host": socket.gethostname(),
        # Beside the store by its name alone, so that both may move together.
        "folder": os.path.relpath(place, own) if place.is_relative_to(own) else str(place),
        "contents": shown(folder),
    }
    name = hashlib.sha256(f"{entry['host']} {entry['folder']}".encode()).hexdigest()[:16]
    path = store / "roots" / f"{name}.json"
    if not path.is_file() or path.read_bytes() != to_json(entry):
        write_json(path, entry)


def shown(folder: Path) -> dict[str, str]:
    """The contents that a folder's links show, by the links' names."""
    manifests = {path.name: find_manifest(path) for path in sorted(folder.glob("*.json"))}
    return {name: found["content"] for name, found in manifests.items() if found is not None}


def read_roots(store: Path, *, but: Collection[Path] = ()) -> list[Root]:
    """The roots of a store.

    A folder that is there is asked for what it shows now. Folders beside the store are roots though
    nobody noted them: such a one was renamed since.

    Args:
        store: Its folder.
        but: Resolved folders that are left out.

    Raises:
        ScionError: A root's file can't be read: nobody can tell what it keeps.
    """
    roots: dict[Path, Root] = {}
    own = store.resolve().parent
    for path in sorted((store / "roots").glob("[!.]*.json")):
        root = _read_root(path, own, but)
        if root is not None:
            roots[root.folder if root.alive else path] = root
    for folder in sorted(path.parent for path in own.glob(f"*/{POINTERS}")):
        if folder not in roots and folder not in but:
            roots[folder] = Root(None, socket.gethostname(), folder, shown(folder))
    return list(roots.values())


def _read_root(path: Path, own: Path, but: Collection[Path]) -> Root | None:
    """The root of a file; None for one of the folders that are left out."""
    entry = read_object(path, hint=_SHOW_AGAIN)
    named, host, contents = entry.get("folder"), entry.get("host"), entry.get("contents")
    noted: dict[str, Any] = contents if isinstance(contents, dict) else {"contents": None}
    texts = (named, host, *noted.values())
    if not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise ScionError(
            "a root of the store can't be read",
            where=path,
            expected="folder and host as text, and contents, which by name are digests",
            found=reprlib.repr(entry),
            hint=_SHOW_AGAIN,
        )
    folder = own / str(named)
    if folder.resolve() in but:
        return None
    if _there(folder):
        # What is there and can't be read, another user's for example, shows what was noted.
        noted = {name: noted[name] for name in noted if _there(folder / name)} | shown(folder)
    return Root(path, str(host), folder, noted)


def _there(path: Path) -> bool:
    """Whether something is there, or may be: only a plain no of the system counts as none."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
