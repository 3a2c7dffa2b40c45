"""Tables of files that strangers wrote, looked at before anything of them is written.

A record's digests only say that it agrees with itself. Its names become paths here and its digests
become addresses elsewhere, so both have to be what they should be.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from scion.common.errors import ScionError

_HEX_DIGITS = re.compile(r"[0-9a-f]{64}")


def check_files(manifest: Mapping[str, Any], where: object) -> None:
    """Refuse a table of files that would write elsewhere than in the artifact's folder.

    Raises:
        ScionError: It names no files, a place outside of the folder, or no digest.
    """
    files = manifest.get("files")
    table: dict[object, object] = files if isinstance(files, dict) else {"files": files}
    if not isinstance(manifest.get("facts"), dict):
        raise _hostile(where, "facts", manifest.get("facts"))
    for name, entry in table.items():
        if not isinstance(entry, dict) or not _sound(entry):
            raise _hostile(where, name, entry)
        # A name that is another one's folder can't be written either.
        folders = PurePosixPath(str(name)).parents
        if not _inside(str(name)) or any(str(folder) in table for folder in folders):
            raise _hostile(where, name, entry)


def _sound(entry: Mapping[str, Any]) -> bool:
    size, sha256 = entry.get("size"), entry.get("sha256")
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return whole and isinstance(sha256, str) and _HEX_DIGITS.fullmatch(sha256) is not None


def _inside(name: str) -> bool:
    """Whether a name is that of a file in a folder, spelt as it is made."""
    path = PurePosixPath(name)
    plain = str(path) == name and name.isprintable() and "\\" not in name
    return plain and name != "." and not path.is_absolute() and ".." not in path.parts


def _hostile(where: object, name: object, entry: object) -> ScionError:
    return ScionError(
        "a record in a store elsewhere names what can't be a file of an artifact",
        where=where,
        expected="names of files in the artifact's folder, each with size and SHA-256",
        found=f"{name!r}: {entry!r}"[:200],
        hint="nothing was written: find out who made the record, and remove it",
    )
