"""`scion store verify`: reads all that a store holds and tells what is not as it should be.

An entry is sound if the digest of the table of its files, names, sizes and SHA-256, is its name. So
even an artifact that no record names can be judged.
"""

import contextlib
import os
import re
import stat
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from scion.artifacts.manifest import read_manifest
from scion.artifacts.store.roots import read_roots
from scion.artifacts.store.store import MARK, Store, unusable
from scion.artifacts.store.survey import HEX, TRASH, inside
from scion.common.digest import digest_chunks, digest_json, in_parallel, read_chunks
from scion.common.errors import ScionError
from scion.common.progress import counted, progress

# The names that each folder of the format may hold; a dot begins those of half-written files.
_NAMES = {
    "artifacts": r"[0-9a-f]{64}",
    "records": r"[0-9a-f]{64}\.json|\..*",
    "work": r"[0-9a-f]{64}(-[0-9a-f]{8})?",
    "known": r"\d+\.json|\..*",
    "sources": r"[0-9a-f]{64}\.json|\..*",
    "roots": r"[0-9a-f]{16}\.json|\..*",
    "leases": r"\d+-[0-9a-f]{8}\.json",
    "locks": r"([0-9a-f]{64}|leases|prune|shown-[0-9a-f]{16})\.lock",
    "damaged": r".*",
    "dropped": r"[0-9a-f]{64}\.json|\..*",
}


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not as it should be.

    Attributes:
        where: The file or folder.
        text: What is wrong with it.
        content: The artifact that is damaged, which a repair sets aside.
        record: The record, or the note of what was dropped, that means nothing, which a repair
            removes.
    """

    where: Path
    text: str
    content: str | None = None
    record: Path | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass(frozen=True)
class Audit:
    """What was read, and what was found."""

    problems: list[Problem]
    artifacts: int
    records: int
    size: int


def verify(store: Store) -> Audit:
    """Hash every file of every artifact again, and read every record; nothing is changed."""
    folders = [path for path in inside(store.artifacts) if HEX.fullmatch(path.name)]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            # Nothing of it is removed meanwhile. A store that can't be written is not pruned.
            stack.enter_context(store.leases.lease(f"sha256:{path.name}" for path in folders))
        files = {folder: _files(folder) for folder in folders}
        sums = _hash(path for table in files.values() for path in table.values())
        records, problems = _records(store)
        by_content = {manifest["content"]: manifest for manifest in records.values()}
        for folder in folders:
            manifest = by_content.get(f"sha256:{folder.name}")
            problems += _entry(store, folder, files[folder], sums, manifest)
        problems += _strangers(store)
        sizes = {info.st_ino: info.st_size for info, _ in sums.values()}
        return Audit(problems, len(folders), len(records), sum(sizes.values()))


def repair(store: Store, audit: Audit) -> list[str]:
    """Set damaged entries aside, so that the next run makes them anew; remove idle records.

    Returns:
        A line for each thing that was done.

    Raises:
        ScionError: The store can't be written.
    """
    try:
        return list(_repaired(store, audit))
    except OSError as error:
        raise unusable(store.folder, error) from error


def _repaired(store: Store, audit: Audit) -> list[str]:
    lines: list[str] = []
    damaged = {problem.content for problem in audit.problems if problem.content}
    for content in sorted(damaged):
        lines.append(f"{store.place(content)}: moved to {store.set_aside(content)}")
    idle = {problem.record for problem in audit.problems if problem.record}
    for path in sorted(idle):
        aside = store.folder / "damaged" / f"{path.name}-{uuid4().hex[:8]}"
        aside.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
            lines.append(f"{path}: moved to {aside}")
    return lines


def _files(folder: Path) -> dict[str, Path]:
    """What lies below a folder by name; folders only if nothing is in them."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): path
        for path in paths
        if path.is_symlink() or not path.is_dir() or not inside(path)
    }


_Sums = dict[Path, tuple[os.stat_result, str]]


def _hash(paths: Iterable[Path]) -> _Sums:
    """SHA-256 of regular files, each inode read once; "" for one that can't be read."""
    found = {path: path.lstat() for path in paths}
    regular = {path: info for path, info in found.items() if stat.S_ISREG(info.st_mode)}
    by_inode = {info.st_ino: path for path, info in regular.items()}
    total = sum(regular[path].st_size for path in by_inode.values())
    stop = threading.Event()
    with progress("hashing", total, unit="B") as told:

        def sha256(path: Path) -> str:
            try:
                return digest_chunks(counted(read_chunks(path), told, stop))
            except (OSError, EOFError):
                return ""

        sums = in_parallel(sha256, by_inode.values(), stop=stop)
    by_sum = dict(zip(by_inode, sums, strict=True))
    return {path: (info, by_sum[info.st_ino]) for path, info in regular.items()}


def _records(store: Store) -> tuple[dict[Path, dict[str, Any]], list[Problem]]:
    """The records that can be read, and what is wrong with any."""
    records: dict[Path, dict[str, Any]] = {}
    problems: list[Problem] = []
    for path in sorted(store.records.glob("[!.]*.json")):
        try:
            manifest = read_manifest(path)
        except ScionError as error:
            text = f"{error.problem}: expected {error.expected}, found {error.found}"
            problems.append(Problem(path, text, record=path))
            continue
        if path != store.record(manifest["recipe"]):
            text = f"wrong name: it is the record of {manifest['recipe']}"
            problems.append(Problem(path, text, record=path))
        elif not store.holds(manifest["content"]):
            text = f"its artifact is gone: {manifest['content']} ({manifest['stage']})"
            problems.append(Problem(path, text, record=path))
        else:
            records[path] = manifest
    return records, problems


def _entry(
    store: Store,
    folder: Path,
    files: dict[str, Path],
    sums: _Sums,
    manifest: dict[str, Any] | None,
) -> list[Problem]:
    """What is wrong with an artifact; of one whose weights were dropped, with the rest of it."""
    content = f"sha256:{folder.name}"
    try:
        dropped = store.dropped.of(content)
    except ScionError as error:
        note = store.dropped.note(content)
        return [Problem(note, f"{error.problem}: {error.found}", record=note)]
    table: dict[str, Any] = {name: entry for name, entry in dropped.items() if name not in files}
    there = {
        name: {"size": sums[path][0].st_size, "sha256": sums[path][1]}
        for name, path in files.items()
        if path in sums
    }
    table |= there
    sound = len(there) == len(files) and digest_json(table) == content
    if sound and manifest is None:
        return [Problem(folder, "no record names it; if no root does, prune removes it")]
    if sound:
        return []
    if manifest is None:
        text = f"its files are another content ({digest_json(table)}), and no record names it"
        return [Problem(folder, text, content)]
    recorded = manifest["files"]
    problems = [
        Problem(folder / name, _difference(recorded[name], table.get(name)), content)
        for name in recorded
        if recorded[name] != table.get(name)
    ]
    extra = sorted(files.keys() - recorded.keys())
    return problems + [Problem(folder / name, "not in the manifest", content) for name in extra]


def _difference(recorded: dict[str, Any], found: dict[str, Any] | None) -> str:
    if found is None:
        return "missing"
    if not found["sha256"]:
        return "can't be read"
    told = f"expected {recorded['sha256']}, found {found['sha256']}"
    sizes = (recorded["size"], found["size"])
    return told if sizes[0] == sizes[1] else f"{told} ({sizes[0]} bytes, found {sizes[1]})"


def _strangers(store: Store) -> list[Problem]:
    """What the format does not know, and roots that can't be read."""
    problems: list[Problem] = []
    for path in inside(store.folder):
        known = path.name in (MARK, *_NAMES) or path.name.startswith((TRASH, "."))
        if not known:
            problems.append(Problem(path, "not known to the format of the store"))
    for name, pattern in _NAMES.items():
        for path in inside(store.folder / name):
            right_kind = path.is_dir() == (name in ("artifacts", "work")) or name == "damaged"
            if not (right_kind and re.fullmatch(pattern, path.name)):
                problems.append(Problem(path, "not known to the format of the store"))
    try:
        read_roots(store.folder)
    except ScionError as error:
        problems.append(Problem(Path(error.where), f"{error.problem}: {error.found}"))
    return problems
