"""Weights that a store dropped: an artifact's record and small files stay, its shards are gone.

    dropped/<content>.json      {"files": {name: {"size": …, "sha256": …}}}

Such an artifact still answers what is asked of its record, such as where each tensor came from. A
plan in which its weights are read has it made again; its shards come back then, and the note goes.
"""

import reprlib
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from scion.artifacts.manifest import bad_files
from scion.artifacts.store.known_files import KnownFiles
from scion.checkpoint.shards import read_object
from scion.common.digest import hex_digits
from scion.common.errors import ScionError
from scion.common.files import write_json

READ_RECORDS = frozenset(
    {"render_card", "render_family", "render_verdict", "judge_release", "seal_release"}
)
"""Stages that read no weights of what they are made from, but for those of the release itself."""


@dataclass(frozen=True)
class DroppedWeights:
    """What a store dropped.

    Attributes:
        folder: Where the notes are, or will be.
    """

    folder: Path

    def of(self, content: str) -> Mapping[str, Mapping[str, Any]]:
        """`size` and `sha256` by name of the files that an artifact was dropped of; empty if none.

        Raises:
            ScionError: The note can't be read.
        """
        path = self.note(content)
        if not path.is_file():
            return {}
        hint = "scion store verify --repair moves it away; the artifact is made anew then"
        files = read_object(path, hint=hint).get("files")
        if not isinstance(files, dict) or any(bad_files(cast(dict[str, object], files))):
            raise ScionError(
                "a note of what was dropped can't be read",
                where=path,
                expected="files, with size and sha256 by name",
                found=reprlib.repr(files),
                hint=hint,
            )
        return cast(dict[str, dict[str, Any]], files)

    def note(self, content: str) -> Path:
        """The file that says so, whether or not it is there."""
        return self.folder / f"{hex_digits(content)}.json"

    def drop(
        self, content: str, folder: Path, files: Mapping[str, Mapping[str, Any]], known: KnownFiles
    ) -> None:
        """Remove files of an artifact. Trust it only while nobody can begin to need them.

        Its folders can be written from then on, in a store that users share by the group as well,
        so that whoever makes the files again can put them back.

        Args:
            content: Its digest.
            folder: Where it is in the store; this user's.
            files: What its manifest says of those files.
            known: What is known of the store's files.
        """
        self.folder.mkdir(exist_ok=True)
        noted = {**self.of(content), **files}
        # First: whoever is killed here leaves a note of more than is gone, and what is there is
        # made again. On a full disk there is no room for it before.
        with suppress(OSError):
            write_json(self.note(content), {"files": noted})
        mode = 0o755 | folder.parent.stat().st_mode & stat.S_IWGRP
        try:
            for parent in {(folder / name).parent for name in files}:
                parent.chmod(mode)
            for name in files:
                known.unlink(folder / name)
        finally:
            gone = {name: entry for name, entry in noted.items() if not (folder / name).exists()}
            if gone:
                write_json(self.note(content), {"files": gone})
            else:
                self.note(content).unlink(missing_ok=True)

    def complete(self, content: str, made: Path, folder: Path) -> list[str]:
        """Let what was dropped of an artifact come back, now that it was made again.

        Args:
            content: Its digest.
            made: Where it was made, on the same file system.
            folder: Where it is in the store.

        Returns:
            The names of the files.
        """
        names = list(self.of(content))
        for name in names:
            (made / name).replace(folder / name)
        self.note(content).unlink(missing_ok=True)
        return names
