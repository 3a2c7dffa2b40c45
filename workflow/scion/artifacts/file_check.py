"""Files held against a table of them: what is missing, changed, not listed, or no file."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from scion.artifacts.file_tree import FileTree
from scion.checkpoint.safetensors_file import Header, digest_tensors
from scion.common.digest import hashed_aside, in_parallel, taken_aside
from scion.common.errors import ScionError, UnreachableError
from scion.common.progress import Progress, counted, progress
from scion.common.text import printable

Watch = Callable[[str, int, bytes], None]
"""Sees bytes of a file: its name, where they stand in it, and they."""


@dataclass
class FileCheck:
    """What was found.

    Attributes:
        problems: A line for each thing that is not as the table says; it begins with the path.
        headers: The header of each safetensors file that could be read, by its name.
        tensors: SHA-256 by name of the tensors of each of them.
        altered: The same of those that are sound files, and others than the table says.
    """

    problems: list[str] = field(default_factory=list[str])
    headers: dict[str, Header] = field(default_factory=dict[str, Header])
    tensors: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    altered: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])


def check_files(
    tree: FileTree,
    files: Mapping[str, Mapping[str, Any]],
    *,
    besides: str | None = None,
    watch: Watch | None = None,
) -> FileCheck:
    """Read every file, and compare it with the table.

    Args:
        tree: Where they lie.
        files: `size` and `sha256` by name.
        besides: The name of a file that may lie there without being listed.
        watch: Sees every chunk that is read, those of a file in order and by one thread.

    Raises:
        ScionError: The hub refuses a file, or can't be reached any more.
    """
    check = FileCheck()
    for name, what in sorted(tree.others.items()):
        told = what if name in files else f"{what}, not in the manifest"
        check.problems.append(f"{printable(name)}: {told}")
    for name in sorted(tree.files.keys() - files.keys() - {besides}):
        check.problems.append(f"{printable(name)}: not in the manifest")
    found = _read_all(tree, files, watch)
    for name, entry in files.items():
        if name in tree.others:
            continue
        read = found.get(name, "missing")
        if isinstance(read, str):
            check.problems.append(f"{printable(name)}: {printable(read)}")
        elif read.sha256 != entry["sha256"]:
            told = f"expected {entry['sha256']}, found {read.sha256}"
            check.problems.append(f"{printable(name)}: {told}")
            check.altered[name] = read.tensors
        elif read.unsound is not None:
            check.problems.append(f"{printable(name)}: {printable(read.unsound)}")
        elif read.header is not None:
            check.headers[name] = read.header
            check.tensors[name] = read.tensors
    return check


@dataclass(frozen=True)
class _Read:
    """A file that was read to its end.

    Attributes:
        sha256: Of all of it.
        header: Of a sound safetensors file.
        tensors: SHA-256 of its tensors by name.
        unsound: Why a file of that name is no sound safetensors file.
    """

    sha256: str
    header: Header | None
    tensors: dict[str, str]
    unsound: str | None


def _read_all(
    tree: FileTree, files: Mapping[str, Mapping[str, Any]], watch: Watch | None
) -> dict[str, _Read | str]:
    """Every listed file that is there: what was read, or in words why it was not."""
    found: dict[str, _Read | str] = {}
    right: list[str] = []
    for name, entry in files.items():
        size = tree.files.get(name)
        if size == entry["size"]:
            right.append(name)
        elif size is not None:
            # It need not be read; a hole of terabytes would take hours.
            found[name] = f"expected {entry['size']} bytes, found {size}"
    stop = threading.Event()
    total = sum(tree.files[name] for name in right)
    with progress("checking", total, unit="B") as told:
        reading = _Reading(tree, told, stop, watch)
        # The largest first, so that none of them is left to a single thread at the end.
        largest_first = sorted(right, key=lambda name: -tree.files[name])
        read = in_parallel(reading.read, largest_first, threads=tree.threads, stop=stop)
    return found | dict(zip(largest_first, read, strict=True))


@dataclass(frozen=True)
class _Reading:
    """Reads files of a tree, and stops between two chunks if it shall."""

    tree: FileTree
    told: Progress
    stop: threading.Event
    watch: Watch | None

    def read(self, name: str) -> _Read | str:
        size, where = self.tree.files[name], self.tree.place(name)
        header, tensors, unsound = None, dict[str, str](), None
        try:
            with (
                self._watched(name) as (watched, finish),
                hashed_aside(watched) as (chunks, digest),
            ):
                if name.endswith(".safetensors"):
                    try:
                        header, tensors = digest_tensors(chunks, size=size, where=where)
                    except UnreachableError:
                        raise
                    except ScionError as error:
                        unsound = f"{error.problem}: expected {error.expected}, found {error.found}"
                sha256 = digest()
                finish()
                return _Read(sha256, header, tensors, unsound)
        except (OSError, EOFError) as error:
            return f"can't be read: {error}"

    def _watched(
        self, name: str
    ) -> AbstractContextManager[tuple[Iterator[bytes], Callable[[], None]]]:
        """The chunks of a file, which a thread shows to whoever watches; and what ends that."""
        watch, offset = self.watch, 0
        chunks = counted(self.tree.chunks(name), self.told, self.stop)
        if watch is None:
            return nullcontext((chunks, lambda: None))

        def show(chunk: bytes) -> None:
            nonlocal offset
            watch(name, offset, chunk)
            offset += len(chunk)

        return taken_aside(chunks, show)
