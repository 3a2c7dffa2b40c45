"""An artifact: the folder of files that a stage made, and the manifest that proves it.

The manifest names every file with size and SHA-256, what the artifact was made from, the settings,
the code and the locked environment that made it, and three digests: *content* over the files alone,
*recipe* over all that was asked for, and *root* over the whole manifest. Artifacts with weights
hold `tensors.json` among their files: for each tensor dtype, shape, file, byte range and the
SHA-256 of the raw bytes; in a release its origin too (`scion.artifacts.origins`). The form of a
manifest is described in docs/store.md.

An artifact's files lie in a store (`scion.artifacts.store`), and its manifest in the pointer that a
rule declares; a sealed release is a folder that holds both.
"""

import importlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scion.artifacts.manifest import (
    DOWNLOAD_ANEW,
    FORMAT,
    MANIFEST,
    manifest_digests,
    read_manifest,
)
from scion.artifacts.release_layout import TENSORS
from scion.artifacts.store.known_files import KnownFiles
from scion.checkpoint.safetensors_file import FileDigest, Header, read_header
from scion.checkpoint.shards import read_json
from scion.common.digest import digest_bytes, in_parallel
from scion.common.errors import ScionError
from scion.common.files import kind_of, read_regular, reflink_or_link, sync, write_json


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "Artifact":
        """Open what lies in a folder of results, or a release; no file of it is hashed.

        Args:
            path: A release folder or its manifest.json; or an artifact `results/<release>/<stage>`,
                with or without `.json` at its end.

        Raises:
            ScionError: There is no manifest, or one whose digests are not those of its content.
        """
        if os.path.lexists(path / MANIFEST):
            return cls(path, read_manifest(path / MANIFEST, hint=DOWNLOAD_ANEW))
        if path.name == MANIFEST and path.is_file():
            return cls(path.parent, read_manifest(path, hint=DOWNLOAD_ANEW))
        # `.` has no name.
        named = path if path.name else Path(os.path.abspath(path))
        folder = named.parent / named.name.removesuffix(".json")
        pointer = folder.parent / f"{folder.name}.json"
        if not pointer.is_file():
            raise ScionError(
                "there is no artifact",
                where=path,
                expected=f"a release with {MANIFEST}, or results/<release>/<stage>",
                found=_what_is(path, pointer),
                hint="name the folder of a release; that of a run of the workflow is in "
                "results/<release>/release when it has ended",
            )
        return cls(folder, read_manifest(pointer))

    @property
    def stage(self) -> str:
        """Name of the stage that made it."""
        return self.manifest["stage"]

    @property
    def content(self) -> str:
        """The digest of the files alone: equal bytes have one, whoever made them."""
        return self.manifest["content"]

    @property
    def recipe(self) -> str:
        """The digest of what was asked for."""
        return self.manifest["recipe"]

    @property
    def root(self) -> str:
        """The digest that stands for the artifact and for all that made it."""
        return self.manifest["root"]

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """`size` and `sha256` by file name."""
        return self.manifest["files"]

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage found out and later stages or the card quote."""
        return self.manifest["facts"]

    def tensors(self) -> dict[str, dict[str, Any]]:
        """The tensor table: `dtype`, `shape`, `file`, `range`, `sha256` by tensor name."""
        return self._table

    def read_json(self, name: str) -> Any:
        """Parse a JSON file of it that is the one which the manifest lists.

        Raises:
            ScionError: It is missing, another one, or no JSON.
        """
        path = self.folder / name
        try:
            digest = digest_bytes(read_regular(path, limit=self.files[name]["size"]))
        except (OSError, ValueError) as error:
            digest = f"no file that can be read: {error}"
        if digest != self.files[name]["sha256"]:
            raise ScionError(
                "a file of the release is not the one that was sealed",
                where=path,
                expected=self.files[name]["sha256"],
                found=digest,
                hint=f"see what else changed: scion check {self.folder}",
            )
        return read_json(path, hint=DOWNLOAD_ANEW)

    @cached_property
    def _table(self) -> dict[str, dict[str, Any]]:
        """Parsed once: `Draft.link` asks for it shard by shard."""
        return read_json(self.folder / TENSORS) if TENSORS in self.files else {}

    def check(self) -> list[str]:
        """Read every file; a line for each that is missing, changed, not listed, or no file."""
        # By name: what reads an artifact makes none, so its code must not count as a stage's.
        trees = importlib.import_module("scion.artifacts.file_tree")
        reading = importlib.import_module("scion.artifacts.file_check")
        tree = trees.FolderTree(self.folder)
        return reading.check_files(tree, self.files, besides=MANIFEST).problems


def tensor_rows(header: Header, name: str, digests: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The rows of tensors.json for one shard: by tensor, with its bytes' place in the file.

    Args:
        header: That of the shard.
        name: The shard's name.
        digests: SHA-256 of each tensor's bytes, by name.
    """
    return {
        tensor.name: {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "file": name,
            "range": [header.data_start + tensor.begin, header.data_start + tensor.end],
            "sha256": digests[tensor.name],
        }
        for tensor in header.tensors.values()
    }


def _what_is(path: Path, pointer: Path) -> str:
    """In words what lies where no artifact does."""
    if not os.path.lexists(path):
        return "nothing of that name"
    if not path.exists():
        return "a link that leads nowhere"
    if not path.is_dir():
        return f"{kind_of(path.stat().st_mode)}, no folder"
    return f"a folder without {MANIFEST}, and no {pointer.name} beside it"


@dataclass
class Draft:
    """An artifact in the making: write files into `folder`, link unchanged ones, note facts.

    Attributes:
        folder: Where the files go.
        work: A folder for what should be there again if the stage is stopped, such as finished
            layers; it goes when the artifact is there.
        recipe: Digest of all that the artifact is made from.
        known: Digests of files that need not be read again.
        facts: What later stages or the card quote.
        known_tensors: SHA-256 of tensors by name whose writer hashed them: their bytes are not
            hashed a second time.
        origins: By tensor, what its row of tensors.json says as `origin`; others say nothing.
    """

    folder: Path
    work: Path
    recipe: str
    known: KnownFiles
    facts: dict[str, Any] = field(default_factory=dict)
    known_tensors: dict[str, str] = field(default_factory=dict)
    origins: dict[str, dict[str, str]] = field(default_factory=dict)
    _files: dict[str, dict[str, Any]] = field(default_factory=dict)
    _linked: set[str] = field(default_factory=set)
    _tensors: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """`size` and `sha256` by name, of all that is hashed or linked so far."""
        return self._files

    def link(self, artifact: Artifact, name: str, new_name: str | None = None) -> None:
        """Take a file of another artifact over by hard link, with its digests; no byte is read."""
        target = new_name or name
        self.known.place(artifact.folder / name, self.folder / target)
        self._note_link(artifact.folder / name, target)
        self._files[target] = artifact.files[name]
        if name.endswith(".safetensors"):
            rows = artifact.tensors().items()
            self._tensors |= {
                tensor: {**row, "file": target} for tensor, row in rows if row["file"] == name
            }

    def link_all(self, artifact: Artifact, *, but: set[str] | None = None) -> None:
        """Take over every file of another artifact except `but` and its tensor table."""
        for name in artifact.files:
            if name != TENSORS and name not in (but or set()):
                self.link(artifact, name)

    def take(self, path: Path, name: str) -> None:
        """Take over a file of somebody's: a clone of it, a hard link, or a copy.

        A link is the same file, so it keeps its mode; an edit of it is noticed by its times.
        """
        self.known.place(path, self.folder / name, reflink_or_link)
        self._note_link(path, name)

    def _note_link(self, source: Path, name: str) -> None:
        if (self.folder / name).stat().st_ino == source.stat().st_ino:
            self._linked.add(name)

    @property
    def written(self) -> list[str]:
        """The files that are new here and nobody else's."""
        return [name for name in self._files if name not in self._linked]

    def hash_files(self) -> None:
        """Hash what was written since the last call, tensors too, on all cores."""
        written = sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and str(path.relative_to(self.folder)) not in self._files
        )

        # To the disk while they are hashed: a power cut must not take what an artifact names.
        with ThreadPoolExecutor(max_workers=1) as disk:
            synced = [disk.submit(sync, self.folder / name) for name in written]
            digests = in_parallel(self._digest, written)
            for each in synced:
                each.result()
        for name, digest in zip(written, digests, strict=True):
            self._files[name] = {"size": digest.size, "sha256": digest.sha256}
            if name.endswith(".safetensors"):
                header = read_header(self.folder / name)
                self._tensors |= tensor_rows(header, name, digest.tensors)

    def _digest(self, name: str) -> FileDigest:
        """What is written is read; what was taken from somebody is often known."""
        return self.known.digest(self.folder / name, tensors=self.known_tensors)

    def tensor_table(self) -> dict[str, dict[str, Any]]:
        """The rows of `tensors.json` for all that is hashed or linked so far."""
        return {
            name: {**row, "origin": self.origins[name]} if name in self.origins else row
            for name, row in sorted(self._tensors.items())
        }

    def finish(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Hash what is new, write the tensor table, and return the manifest."""
        self.hash_files()
        if self._tensors:
            write_json(self.folder / TENSORS, self.tensor_table())
            self.hash_files()
        manifest: dict[str, Any] = {
            "format": FORMAT,
            **request,
            "facts": self.facts,
            "files": dict(sorted(self._files.items())),
        }
        manifest |= {key: manifest_digests(manifest)[key] for key in ("recipe", "content")}
        return {"root": manifest_digests(manifest)["root"], **manifest}
