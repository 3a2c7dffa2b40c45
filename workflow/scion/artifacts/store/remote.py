"""Stores elsewhere: artifacts that others may take, behind a URL that fsspec understands.

    scion-store.json            the format
    records/<recipe>.json       the manifest of what a recipe gave, written last
    files/<sha256>              each file once, however many artifacts have it

A record never names what is not there. Files and records are only ever added, and what several
processes add at once has the same bytes. Whatever comes from there is hashed before it counts; that
a recipe gave these files, and no others, is the word of whoever may write there.
"""

import contextlib
import hashlib
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact
from scion.artifacts.manifest import check_form, check_manifest
from scion.artifacts.store.known_files import KnownFiles
from scion.artifacts.store.objects import Objects
from scion.checkpoint.safetensors_file import FileDigest
from scion.checkpoint.shards import parse_object
from scion.common.digest import digest_file, hex_digits, read_chunks
from scion.common.errors import ScionError
from scion.common.files import copy_file, to_json
from scion.common.progress import Progress, progress

FORMAT = "scion-store/1"
MARK = "scion-store.json"
READ_ONLY = "readonly"


class Remote:
    """A store at a URL, such as s3://bucket/prefix; nothing is asked before it is needed.

    Whoever may read there and not write says so: with `?readonly` behind the URL nothing is added,
    and the store has to be there. Otherwise the first artifact that is added begins one. Keys and
    the service's address come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_PROFILE, AWS_ENDPOINT_URL), never from the URL.

    Args:
        url: The location, as the configuration names it.

    Attributes:
        url: The same.
        readonly: Whether nothing is added.

    Raises:
        ScionError: The URL has another option.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        address, _, option = url.partition("?")
        if option not in ("", READ_ONLY):
            raise ScionError(
                "a location of a store has an option that is not known",
                where=url,
                expected=f"?{READ_ONLY}, or none",
                found=f"?{option}",
                hint="correct it under `store` in the config; keys come from the environment",
            )
        self.readonly = option == READ_ONLY
        self._objects = Objects(address)

    def record(self, recipe: str) -> dict[str, Any] | None:
        """The manifest of what a recipe gave, or None.

        Raises:
            ScionError: The store can't be read, or the manifest is not one of this recipe.
        """
        name = f"records/{hex_digits(recipe)}.json"
        raw = self._objects.read(name) if self._begun else None
        if raw is None:
            return None
        where = self._objects.where(name)
        hint = f"remove {where}: the artifact is made anew"
        manifest = check_manifest(parse_object(raw, where=where), where=where, hint=hint)
        if manifest["recipe"] != recipe:
            raise ScionError(
                "a record in a store elsewhere is that of another recipe",
                where=where,
                expected=recipe,
                found=manifest["recipe"],
                hint=hint,
            )
        return manifest

    def pull(
        self,
        manifest: Mapping[str, Any],
        folder: Path,
        known: KnownFiles,
        here: Mapping[str, Path],
    ) -> list[str]:
        """Bring the files of an artifact into a folder.

        What an earlier call has left in the folder, or half of it beside the folder, is not moved
        again. Each file is hashed before it stands under its name.

        Args:
            manifest: What `record` gave.
            folder: Where the files go.
            known: Digests of files that need not be read again.
            here: Files of the store here by hex SHA-256: these are linked.

        Returns:
            The names of the files that are not links of files that are here.

        Raises:
            ScionError: The store can't be read, lacks a file, or has other bytes under its name.
        """
        check_form(manifest, where=self.url, hint="nothing was written: remove its record there")
        files: Mapping[str, Mapping[str, Any]] = manifest["files"]
        folder.mkdir(parents=True, exist_ok=True)
        parts = folder.with_name(f"{folder.name}.parts")
        written = [
            name
            for name, entry in files.items()
            if not _link(folder / name, entry["sha256"], known, here)
        ]
        missing = [
            name for name in written if not _is_there(folder / name, files[name]["sha256"], known)
        ]
        brought: dict[str, Path] = {}
        total = sum(files[name]["size"] for name in missing)
        with progress(f"{manifest['stage']} from {self.url}", total, unit="B") as told:
            for name in missing:
                target, entry = folder / name, files[name]
                target.parent.mkdir(parents=True, exist_ok=True)
                if entry["sha256"] in brought:
                    copy_file(brought[entry["sha256"]], target)
                else:
                    self._bring(entry, parts / f"{entry['sha256']}.part", told).replace(target)
                    brought[entry["sha256"]] = target
                known.remember(target, FileDigest(entry["size"], entry["sha256"], {}))
        known.remove(parts)
        return written

    def push(self, artifact: Artifact) -> None:
        """Give it an artifact that it lacks: the files that are missing, then the record.

        Raises:
            ScionError: The store can't be reached or written to. What has been written stays, and
                the next call goes on from there.
        """
        if self.readonly:
            return
        self._begin()
        there = self.record(artifact.recipe)
        if there is not None and there["content"] != artifact.content:
            print(
                f"{artifact.stage}: {self.url} has other files of the same recipe "
                f"({there['content']}); it keeps them",
                file=sys.stderr,
            )
            return
        names = {entry["sha256"]: name for name, entry in artifact.files.items()}
        missing = [
            name
            for sha256, name in names.items()
            # Asked of an artifact that is there too: somebody may have removed a damaged file.
            if self._objects.size(f"files/{sha256}") != artifact.files[name]["size"]
        ]
        total = sum(artifact.files[name]["size"] for name in missing)
        with progress(f"{artifact.stage} to {self.url}", total, unit="B") as told:
            for name in missing:
                sha256 = artifact.files[name]["sha256"]
                self._objects.upload(artifact.folder / name, f"files/{sha256}")
                told.advance(amount=artifact.files[name]["size"])
        if there is None:
            name = f"records/{hex_digits(artifact.recipe)}.json"
            self._objects.write(name, to_json(artifact.manifest))

    @cached_property
    def _begun(self) -> bool:
        """Whether there is a store; looked at once.

        Raises:
            ScionError: It has another format, or is only to be read and not there.
        """
        where = self._objects.where(MARK)
        raw = self._objects.read(MARK)
        if raw is None and not self.readonly:
            return False
        found = None if raw is None else parse_object(raw, where=where).get("format")
        # A store here has the same mark and keeps its files otherwise.
        here = found == FORMAT and self._objects.holds_folder("artifacts")
        if here or found != FORMAT:
            raise ScionError(
                "a location does not hold a store of this format",
                where=where,
                expected=f"{FORMAT}, as stores elsewhere are laid out",
                found="a store that is used as a folder" if here else found or "nothing",
                hint="correct the location under `store` in the config, or use the version of "
                "Scion that made this one",
            )
        return True

    def _begin(self) -> None:
        if not self._begun:
            self._objects.write(MARK, to_json({"format": FORMAT}))
            self.__dict__["_begun"] = True

    def _bring(self, entry: Mapping[str, Any], part: Path, told: Progress) -> Path:
        """Download a file; returns where it is, whole and hashed.

        Raises:
            ScionError: There are other bytes, or another number of them; none of them is kept.
        """
        sha256, size = entry["sha256"], entry["size"]
        found = self._objects.size(f"files/{sha256}")
        if found != size:
            part.unlink(missing_ok=True)
            raise self._other_bytes(entry, "no such object" if found is None else f"{found} bytes")
        resumed = part.is_file() and part.stat().st_size > 0
        digest = self._stream(entry, part, told)
        if digest != sha256 and resumed:
            # A power cut may have damaged what was here.
            part.unlink()
            digest = self._stream(entry, part, told)
        if digest != sha256:
            part.unlink()
            raise self._other_bytes(entry, f"SHA-256 {digest}")
        return part

    def _stream(self, entry: Mapping[str, Any], part: Path, told: Progress) -> str:
        """Append what is missing of a file to a part of it; returns the digest of the whole."""
        part.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with part.open("ab") as file:
            if file.tell() > entry["size"]:
                file.truncate(0)
                file.seek(0)
            start = file.tell()
            for chunk in read_chunks(part):
                digest.update(chunk)
            told.advance(amount=start)
            for chunk in self._objects.stream(f"files/{entry['sha256']}", start, entry["size"]):
                digest.update(chunk)
                file.write(chunk)
                told.advance(amount=len(chunk))
        return digest.hexdigest()

    def _other_bytes(self, entry: Mapping[str, Any], found: str) -> ScionError:
        where = self._objects.where(f"files/{entry['sha256']}")
        return ScionError(
            "an object in a store elsewhere is not what its name says; nothing of it is kept",
            where=where,
            expected=f"{entry['size']} bytes, SHA-256 {entry['sha256']}",
            found=found,
            hint=f"remove {where}, and run where the artifact was made: that adds the file again; "
            "or take the location out of `store` in the config, and the artifact is made anew",
        )


def _link(target: Path, sha256: str, known: KnownFiles, here: Mapping[str, Path]) -> bool:
    """Whether a file is here, and now linked; what turns out to be damaged is not taken."""
    source = here.get(sha256)
    # Whoever tidies up may remove it at any moment.
    with contextlib.suppress(FileNotFoundError):
        if source is not None and _has_digest(source, sha256, known):
            target.unlink(missing_ok=True)
            known.place(source, target)
            return True
    return False


def _is_there(target: Path, sha256: str, known: KnownFiles) -> bool:
    """Whether an earlier call has brought a file; what is not right, or somebody's, goes."""
    if not target.is_file():
        return False
    if target.stat().st_nlink == 1 and _has_digest(target, sha256, known):
        return True
    target.unlink()
    return False


def _has_digest(path: Path, sha256: str, known: KnownFiles) -> bool:
    found = known.get(path)
    return (digest_file(path) if found is None else found.sha256) == sha256
