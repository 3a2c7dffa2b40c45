"""Local checkpoints as a plan knows them: by how their files look, for they are too large to read.

How a file looks is its name, size, inode and modification time. Files that look otherwise but turn
out to have the same content, touched or replaced by equal ones, are called what the first such
files were called: so the plan is what it was. Files that look as before, but whose status changed
since they were read (`KnownFiles`), get a name of their own, and are read again.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scion.artifacts.store.known_files import KnownFiles
from scion.checkpoint.shards import read_object
from scion.common.digest import digest_json, hex_digits
from scion.common.errors import ScionError
from scion.common.files import write_json


class Sources:
    """What is known of local checkpoints: a small file for each way that one looked.

    Args:
        folder: Where these are, or will be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self, stage: str, paths: Iterable[Path], known: KnownFiles) -> str:
        """What a plan calls the files that a stage is to take; none of them is read.

        Args:
            stage: The stage.
            paths: The files.
            known: What the store knows of files that it holds or has read.
        """
        paths = list(paths)
        looks = appearance(stage, paths)
        entry = self._entry(looks)
        if entry is None:
            return looks
        if all(known.get(path) is not None for path in paths) or not entry["read"]:
            return entry["name"]
        return digest_json([looks, [path.stat().st_ctime_ns for path in paths]])

    def note(
        self,
        stage: str,
        paths: Iterable[Path],
        *,
        planned: tuple[str, str] | None,
        content: str,
        read: bool,
    ) -> None:
        """Note what files gave, once a stage has taken them.

        Args:
            stage: The stage.
            paths: The files.
            planned: What the plan of this run called them, and how they looked; None without one.
            content: Digest of the artifact that they gave.
            read: They were read whole, so that `KnownFiles` tells of a change of any.

        Raises:
            ScionError: They changed since the run was planned, so its names are not theirs.
        """
        paths = list(paths)
        looks = appearance(stage, paths)
        name, seen = planned or (looks, looks)
        entry, same = self._entry(looks), self._entry(digest_json([stage, content]))
        # The plan took them for what they were, and they were not.
        changed = entry is not None and entry["content"] != content and entry["name"] == name
        name = same["name"] if same else digest_json([looks, content]) if changed else name
        for key in (looks, digest_json([stage, content])):
            write_json(self._place(key), {"name": name, "content": content, "read": read})
        if changed or seen != looks:
            raise ScionError(
                "the checkpoint's files changed since the run was planned",
                where=paths[0].parent,
                expected="the files that were there then",
                found="other content under the same size and time"
                if changed
                else "other sizes, times or inodes",
                hint="run again: the new files are taken, and all that depends on them made anew",
            )

    def _entry(self, key: str) -> dict[str, Any] | None:
        with contextlib.suppress(ScionError):
            entry = read_object(self._place(key))
            if all(isinstance(entry.get(part), str) for part in ("name", "content")):
                return {"read": False, **entry}
        return None

    def _place(self, key: str) -> Path:
        return self.folder / f"{hex_digits(key)}.json"


def appearance(stage: str, paths: Iterable[Path]) -> str:
    """How the files that a stage takes look: a digest."""
    files = [(path.name, path.stat()) for path in paths]
    return digest_json(
        [stage, sorted([name, s.st_ino, s.st_size, s.st_mtime_ns] for name, s in files)]
    )
