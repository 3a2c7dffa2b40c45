"""An artifact: the folder that a stage writes, and the `manifest.json` that proves it.

The manifest names every file with size and SHA-256, the root digests of the artifacts it was made
from, the settings, the code and the locked environment that made it, and one root digest over all
of that. Artifacts with weights hold `tensors.json` beside it: for each tensor dtype, shape, file,
byte range and the SHA-256 of the raw bytes. The manifest hashes that file like any other.

`remake` guarantees that an artifact is whole or absent: a stage writes into a hidden sibling
folder which takes the artifact's place only when its manifest is written. Asked again for what is
already there, it does nothing.
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scion.artifacts.code_digest import code_digest
from scion.checkpoint.safetensors_file import digest_safetensors, read_header
from scion.checkpoint.shards import read_json, read_object
from scion.common.digest import digest_file, digest_json, in_parallel
from scion.common.errors import ScionError
from scion.common.files import link_or_copy, write_json

FORMAT = "scion-manifest/1"
MANIFEST = "manifest.json"
TENSORS = "tensors.json"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "Artifact":
        """Open an artifact by its folder or its manifest.

        Raises:
            ScionError: No manifest there, or one whose digest is not that of its content.
        """
        folder = path.parent if path.name == MANIFEST else path
        manifest = read_object(folder / MANIFEST)
        if manifest.get("root") != manifest_root(manifest):
            raise ScionError(
                "the manifest's root digest is not that of its content",
                where=folder / MANIFEST,
                expected=manifest_root(manifest),
                found=manifest.get("root"),
                hint=f"the file was edited: remove {folder} and run the workflow again",
            )
        return cls(folder, manifest)

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

    @cached_property
    def _table(self) -> dict[str, dict[str, Any]]:
        """Parsed once: `Draft.link` asks for it shard by shard."""
        return read_json(self.folder / TENSORS) if TENSORS in self.files else {}

    def complete(self) -> bool:
        """Whether every file is there with its size. Contents are not read."""
        return all(
            (self.folder / name).is_file() and (self.folder / name).stat().st_size == entry["size"]
            for name, entry in self.files.items()
        )

    def check(self) -> list[str]:
        """Hash every file again; one line for each that is missing, changed or not listed."""
        listed = {*self.files, MANIFEST}
        extra = sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and str(path.relative_to(self.folder)) not in listed
        )
        lines = [f"{name}: not in the manifest" for name in extra]

        def compare(name: str) -> str | None:
            path = self.folder / name
            if not path.is_file():
                return f"{name}: missing"
            digest = digest_file(path)
            recorded = self.files[name]["sha256"]
            return None if digest == recorded else f"{name}: expected {recorded}, found {digest}"

        return lines + [line for line in in_parallel(compare, self.files) if line is not None]


@dataclass
class Draft:
    """An artifact in the making: write files into `folder`, link unchanged ones, note facts.

    `request` is the digest of all that the artifact is made from. `known_tensors` are SHA-256 of
    tensors by name whose writer hashed them: their bytes are not hashed a second time.
    """

    folder: Path
    request: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    known_tensors: dict[str, str] = field(default_factory=dict)
    _files: dict[str, dict[str, Any]] = field(default_factory=dict)
    _tensors: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """`size` and `sha256` by name, of all that is hashed or linked so far."""
        return self._files

    def link(self, artifact: Artifact, name: str, new_name: str | None = None) -> None:
        """Take a file of another artifact over by hard link, with its digests; no byte is read."""
        target = new_name or name
        link_or_copy(artifact.folder / name, self.folder / target)
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

    def hash_files(self) -> None:
        """Hash what was written since the last call, tensors too, on all cores."""
        written = sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and str(path.relative_to(self.folder)) not in self._files
        )

        def hash_one(name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
            path = self.folder / name
            if not name.endswith(".safetensors"):
                return {"size": path.stat().st_size, "sha256": digest_file(path)}, {}
            header, digest = read_header(path), digest_safetensors(path, known=self.known_tensors)
            rows = {
                tensor.name: {
                    "dtype": tensor.dtype,
                    "shape": list(tensor.shape),
                    "file": name,
                    "range": [header.data_start + tensor.begin, header.data_start + tensor.end],
                    "sha256": digest.tensors[tensor.name],
                }
                for tensor in header.tensors.values()
            }
            return {"size": digest.size, "sha256": digest.sha256}, rows

        for name, (entry, rows) in zip(written, in_parallel(hash_one, written), strict=True):
            self._files[name] = entry
            self._tensors |= rows

    def tensor_table(self) -> dict[str, dict[str, Any]]:
        """The rows of `tensors.json` for all that is hashed or linked so far."""
        return dict(sorted(self._tensors.items()))

    def finish(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Hash what is new, write the tensor table and the manifest, and return the manifest."""
        self.hash_files()
        if self._tensors:
            write_json(self.folder / TENSORS, self.tensor_table())
            self.hash_files()
        manifest = {
            "format": FORMAT,
            **request,
            "facts": self.facts,
            "files": dict(sorted(self._files.items())),
        }
        manifest = {"root": manifest_root(manifest), **manifest}
        write_json(self.folder / MANIFEST, manifest)
        return manifest


def remake(
    output: Path,
    *,
    stage: str,
    inputs: Mapping[str, Artifact | Path],
    settings: Mapping[str, Any],
    environment: str,
    build: Callable[[Draft], None],
    volatile: bool = False,
) -> Artifact:
    """Bring the artifact at `output` up to date, by `build` if it must be made anew.

    Args:
        output: The artifact's folder.
        stage: Name of the stage and of its module in `scion.stages`.
        inputs: The artifacts, and plain files such as a template, that the stage reads.
        settings: JSON-able settings of the stage.
        environment: Identity of the locked environment, `sha256:…` of its lock.
        build: Fills a draft. If it raises, an earlier artifact stays as it was.
        volatile: The stage reads what no digest in the request covers, such as a local folder:
            what is there already may be out of date, so it is made anew.
    """
    request = {
        "stage": stage,
        "made_from": {
            name: {"stage": source.manifest["stage"], "root": source.root}
            if isinstance(source, Artifact)
            else {"file": source.name, "sha256": digest_file(source)}
            for name, source in inputs.items()
        },
        "settings": dict(settings),
        "code": code_digest(f"scion.stages.{stage}"),
        "environment": environment,
    }
    partial = output.with_name(f".{output.name}.partial")
    replaced = output.with_name(f".{output.name}.replaced")
    _recover(output, partial, replaced)
    current = None if volatile else _current(output, request)
    if current is not None:
        return current
    try:
        partial.mkdir(parents=True)
        draft = Draft(partial, digest_json(request))
        build(draft)
        manifest = draft.finish(request)
        if output.exists():
            output.rename(replaced)
        partial.rename(output)
    except BaseException:
        _recover(output, partial, replaced)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    return Artifact(output, manifest)


def _recover(output: Path, partial: Path, replaced: Path) -> None:
    """Undo what a stage that stopped has left, wherever it stopped."""
    if replaced.exists() and not output.exists():
        replaced.rename(output)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def _current(output: Path, request: Mapping[str, Any]) -> Artifact | None:
    with contextlib.suppress(ScionError):
        artifact = Artifact.open(output)
        recorded = {key: artifact.manifest.get(key) for key in request}
        if recorded == request and artifact.complete():
            return artifact
    return None


def manifest_root(manifest: Mapping[str, Any]) -> str:
    """The root digest that a manifest of this content has."""
    return digest_json({key: value for key, value in manifest.items() if key != "root"})
