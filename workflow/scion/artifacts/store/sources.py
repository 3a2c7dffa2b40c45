"""Local checkpoints as a plan knows them: by how their files look, for they are too large to read.

How a file looks is its name, size, inode and modification time. Files that look otherwise but turn
out to have the same content, touched or replaced by equal ones, are called what the first such
files were called: so the plan is what it was. Files whose content changed though they look the same
are noticed when they are read.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scion.checkpoint.shards import read_object
from scion.common.digest import digest_json
from scion.common.errors import ScionError
from scion.common.files import write_json


class Sources:
    """What is known of local checkpoints: a small file for each way that one looked.

    Args:
        folder: Where these are, or will be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self, stage: str, paths: Iterable[Path]) -> str:
        """What a plan calls the files that a stage is to take; none of them is read."""
        looks = _looks(stage, paths)
        entry = self._entry(looks)
        return looks if entry is None else entry["name"]

    def note(self, stage: str, paths: Iterable[Path], *, planned: str | None, content: str) -> None:
        """Note what files gave, once a stage has read them.

        Args:
            stage: The stage.
            paths: The files.
            planned: What the plan of this run called them; None without a plan.
            content: Digest of the artifact that they gave.

        Raises:
            ScionError: They changed since the run was planned, so its names are not theirs.
        """
        paths = list(paths)
        looks = _looks(stage, paths)
        entry = self._entry(looks)
        changed = entry is not None and entry["content"] != content
        moved = planned not in (None, looks, self.name(stage, paths))
        same = self._entry(digest_json([stage, content]))
        name = same["name"] if same else digest_json([looks, content]) if changed else looks
        for key in (looks, digest_json([stage, content])):
            write_json(self._place(key), {"name": name, "content": content})
        if changed or moved:
            raise ScionError(
                "the checkpoint's files changed while the workflow ran",
                where=next(iter(paths)).parent,
                expected="the files that were there when the run was planned",
                found="other content under the same size and time"
                if changed
                else "other sizes, times or inodes",
                hint="run again: the new files are taken, and all that depends on them made anew",
            )

    def _entry(self, key: str) -> dict[str, Any] | None:
        with contextlib.suppress(ScionError):
            return read_object(self._place(key))
        return None

    def _place(self, key: str) -> Path:
        return self.folder / f"{key.removeprefix('sha256:')}.json"


def _looks(stage: str, paths: Iterable[Path]) -> str:
    files = [(path.name, path.stat()) for path in paths]
    return digest_json(
        [stage, sorted([name, s.st_ino, s.st_size, s.st_mtime_ns] for name, s in files)]
    )
