"""The manifest of an artifact: its form, and the three digests that it has of itself.

Manifests come out of folders that others wrote: a store that is shared, a release that was
downloaded. So the form is checked before anything in it is used: names in it become paths, digests
addresses. docs/store.md describes it.
"""

import contextlib
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from scion.checkpoint.shards import read_object
from scion.common.digest import digest_json
from scion.common.errors import ScionError

FORMAT = "scion-manifest/2"
MANIFEST = "manifest.json"
DOWNLOAD_ANEW = (
    "download the release again, or make it again; one of another format is checked by the "
    "version of Scion that sealed it"
)
"""What to do about a release whose manifest can't be used."""
_MAKE_ANEW = "remove the file and run the workflow again: it makes the artifact anew"
# What a recipe is the digest of.
REQUEST = ("stage", "made_from", "settings", "code", "environment")
_HEX_DIGITS = re.compile(r"[0-9a-f]{64}")
# What names an input: a plain file, or an artifact by its facts or by all that made it.
_INPUTS = ({"file", "sha256"}, {"stage", "content", "facts"}, {"stage", "content", "root"})


def read_manifest(path: Path, *, hint: str = _MAKE_ANEW) -> dict[str, Any]:
    """Read a manifest, whether a pointer, a record or a release holds it.

    Args:
        path: The file.
        hint: What to do if it can't be used.

    Raises:
        ScionError: The file can't be read, has another form, or one of its digests is wrong.
    """
    return check_manifest(read_object(path, hint=hint), where=path, hint=hint)


def find_manifest(path: Path) -> dict[str, Any] | None:
    """As `read_manifest`; None where that raises."""
    with contextlib.suppress(ScionError):
        return read_manifest(path)
    return None


def check_manifest(manifest: dict[str, Any], *, where: object, hint: str) -> dict[str, Any]:
    """Return a manifest whose form is that of docs/store.md, and whose digests are right.

    Args:
        manifest: What was read.
        where: Where, for the error.
        hint: What to do if it is wrong.

    Raises:
        ScionError: It has another format or form, or one of its digests is wrong.
    """
    if manifest.get("format") != FORMAT:
        raise ScionError(
            "the file is no manifest of this format",
            where=where,
            expected=FORMAT,
            found=reprlib.repr(manifest.get("format", "no format")),
            hint=hint,
        )
    check_form(manifest, where=where, hint=hint)
    for name, wanted in manifest_digests(manifest).items():
        if manifest.get(name) != wanted:
            raise ScionError(
                f"the manifest's {name} digest is not that of its content",
                where=where,
                expected=wanted,
                found=reprlib.repr(manifest.get(name, "none")),
                hint=hint,
            )
    return manifest


def check_form(manifest: Mapping[str, Any], *, where: object, hint: str) -> None:
    """Refuse a manifest that holds something else than docs/store.md says; no digest is compared.

    Raises:
        ScionError: A key is missing or of another kind, or a file lies outside of the artifact.
    """
    for key, (sound, expected) in _FORM.items():
        value = manifest.get(key)
        if key not in manifest or not sound(value):
            raise ScionError(
                f"the manifest's {key} are not of their form",
                where=where,
                expected=f"{key}: {expected}",
                found=reprlib.repr(value) if key in manifest else f"no {key}",
                hint=hint,
            )
    for name, entry in bad_files(manifest["files"]):
        raise ScionError(
            "the manifest names what can't be a file of an artifact",
            where=where,
            expected="names of files in the artifact's folder, each with size and SHA-256",
            found=f"{reprlib.repr(name)}: {reprlib.repr(entry)}",
            hint=hint,
        )
    with contextlib.suppress(UnicodeEncodeError, RecursionError):
        digest_json(manifest)
        return
    raise ScionError(
        "the manifest holds what has no digest",
        where=where,
        expected="text in UTF-8, and at most some hundred levels",
        found="half of a surrogate pair, or deeper levels",
        hint=hint,
    )


def manifest_digests(manifest: Mapping[str, Any]) -> dict[str, str]:
    """`recipe`, `content` and `root` as a manifest of this content has them."""
    return {
        "recipe": digest_json({key: manifest.get(key) for key in REQUEST}),
        "content": digest_json(manifest.get("files")),
        "root": digest_json({key: value for key, value in manifest.items() if key != "root"}),
    }


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _are_inputs(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_input, value.values()))


def _is_input(entry: object) -> bool:
    return (
        isinstance(entry, dict) and entry.keys() in _INPUTS and all(map(_is_text, entry.values()))
    )


_FORM: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "stage": (_is_text, "the name of a stage"),
    "made_from": (_are_inputs, "by name, an object of stage, content, facts or root, or of a file"),
    "settings": (_is_object, "an object"),
    "code": (_is_text, "a digest"),
    "environment": (_is_text, "a digest"),
    "facts": (_is_object, "an object"),
    "files": (_is_object, "by name, an object of size and sha256"),
}


def bad_files(files: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The entries that are none, or whose name leads elsewhere than below the artifact's folder."""
    for name, entry in files.items():
        # A name that is another one's folder can't be a file either.
        folders = PurePosixPath(name).parents
        if (
            not _is_entry(entry)
            or not _is_inside(name)
            or any(str(folder) in files for folder in folders)
        ):
            yield name, entry


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
        return False
    size, sha256 = entry["size"], entry["sha256"]
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return whole and isinstance(sha256, str) and _HEX_DIGITS.fullmatch(sha256) is not None


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in a folder, spelt as it is made."""
    path = PurePosixPath(name)
    plain = str(path) == name and name.isprintable() and "\\" not in name
    return plain and name != "." and not path.is_absolute() and ".." not in path.parts
