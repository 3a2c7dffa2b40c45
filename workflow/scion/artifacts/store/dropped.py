"""Weights that a store dropped: an artifact's record and small files stay, its shards are gone.

    dropped/<content>.json      {"files": {name: {"size": …, "sha256": …}}}

Such an artifact still answers what is asked of its record, such as where each tensor came from. A
plan in which its weights are read has it made again; its shards come back then, and the note goes.
"""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.artifacts.store.known_files import KnownFiles
from scion.checkpoint.shards import read_object
from scion.common.digest import hex_digits
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
        return read_object(path, hint="remove the file; the artifact is made anew")["files"]

    def note(self, content: str) -> Path:
        """The file that says so, whether or not it is there."""
        return self.folder / f"{hex_digits(content)}.json"

    def drop(
        self, content: str, folder: Path, files: Mapping[str, Mapping[str, Any]], known: KnownFiles
    ) -> None:
        """Remove files of an artifact. Trust it only while nobody can begin to need them.

        Args:
            content: Its digest.
            folder: Where it is in the store.
            files: What its manifest says of those files.
            known: What is known of the store's files.
        """
        self.folder.mkdir(exist_ok=True)
        # First: whoever is killed here leaves a note of more than is gone, which is harmless.
        write_json(self.note(content), {"files": {**self.of(content), **files}})
        with _writable(folder / name for name in files):
            for name in files:
                known.unlink(folder / name)

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
        with _writable(folder / name for name in names):
            for name in names:
                (made / name).replace(folder / name)
        self.note(content).unlink(missing_ok=True)
        return names


@contextmanager
def _writable(paths: Iterable[Path]) -> Generator[None]:
    """The folders that files are in can be written while the block lasts."""
    parents = {path.parent for path in paths}
    try:
        for parent in parents:
            parent.chmod(0o755)
        yield
    finally:
        for parent in parents:
            parent.chmod(0o555)
