"""Rows of a data set of the hub, out of files that are held to a lock, or to the hub's own listing.

`datasets` says which files make a split, and reads all but JSON lines. It is not let near the hub:
it sees a folder with the repository's names, its card (README.md) and, of the files of the split,
those that the rows come from, each of them checked by size and digest before it is read. So neither
a card nor a data file of other bytes decides about a sample.

The files of a split are taken in their order, and no more of them than the rows need. They stay in
the user's cache of the hub, below `assets/scion/datasets` (`HF_ASSETS_CACHE`), and are checked
again whenever they are read.
"""

import itertools
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from huggingface_hub import cached_assets_path, constants

from scion.artifacts.store.locks import exclusive
from scion.checkpoint.hub.client import RemoteFile, download_files
from scion.checkpoint.hub.location import HubRepository
from scion.checkpoint.hub.lock_check import held_files
from scion.common.digest import digest_file
from scion.common.progress import progress
from scion.quantization.calibration.rows import READABLE, Rows, read_lines, unusable
from scion.quantization.config import CalibrationSet

# What tells `datasets` which files make which split of which subset.
_CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")
_LINES = (".jsonl", ".ndjson")
# Of a configuration of `datasets`: where its files lie, not how they are read.
_PLACES = frozenset({"name", "version", "data_dir", "data_files", "description"})
_UNREADABLE = (
    *(OSError, ValueError, TypeError, LookupError, NotImplementedError, RecursionError),
    *(yaml.YAMLError, zipfile.BadZipFile),
)


@dataclass(frozen=True)
class _Split:
    """What a split is made of.

    Attributes:
        reader: The name of what `datasets` reads it with, such as `parquet`.
        names: Files in the repository, in their order.
        options: How the data set's card wants them read.
    """

    reader: str
    names: tuple[str, ...]
    options: Mapping[str, Any]


class HubData:
    """Reads data sets of the hub.

    Args:
        locks: Files of locks; without one, files are held to what the hub lists.

    Attributes:
        read: By location, the hex SHA-256 of every file that was read, the card among them.
    """

    def __init__(self, locks: Sequence[Path] = ()) -> None:
        self.locks = locks
        self.read: dict[str, dict[str, str]] = {}
        self._listings: dict[str, Mapping[str, RemoteFile]] = {}

    def rows(self, location: HubRepository, wanted: CalibrationSet) -> Rows:
        """The first rows of a set, `wanted.samples` of them or all that its split has.

        Raises:
            ScionError: The repository or a file of it is not what was locked or listed, no lock has
                it, the hub refuses, or `datasets` can't read it.
        """
        split = self._split(location, wanted)
        rows: Rows = []
        for name in split.names:
            if len(rows) == wanted.samples:
                break
            path = self._file(location, name)
            where, left = f"{wanted.dataset}: {name}", wanted.samples - len(rows)
            if split.reader == "json" and name.endswith(_LINES):
                rows += read_lines(path, left, name=where)
            else:
                rows += _read_table(path, split, left, where=where)
        return rows

    def _split(self, location: HubRepository, wanted: CalibrationSet) -> _Split:
        # Here, because it takes a second to import.
        from datasets import load_dataset_builder
        from datasets.exceptions import DatasetsError

        listing = self._listing(location)
        with tempfile.TemporaryDirectory(prefix="scion-data-") as temporary:
            folder = Path(temporary).resolve() / "data"
            for name in listing:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
            for name in filter(listing.__contains__, _CARDS):
                (folder / name).write_bytes(self._file(location, name).read_bytes())
            try:
                builder = load_dataset_builder(
                    str(folder), wanted.subset, cache_dir=str(folder.with_name("cache"))
                )
            except (*_UNREADABLE, DatasetsError) as error:
                found = str(error).replace(str(folder), str(location))
                raise unusable(wanted.dataset, READABLE, found) from error
            splits = cast(Mapping[str, Sequence[str]], builder.config.data_files or {})
            if wanted.split not in splits:
                expected = f"one of its splits: {', '.join(splits)}"
                raise unusable(wanted.dataset, expected, f"split {wanted.split}")
            return _Split(
                reader=str(builder.name),
                names=tuple(
                    Path(file).relative_to(folder).as_posix() for file in splits[wanted.split]
                ),
                options={
                    key: value for key, value in vars(builder.config).items() if key not in _PLACES
                },
            )

    def _listing(self, location: HubRepository) -> Mapping[str, RemoteFile]:
        """What every file of the repository has to be."""
        if str(location) not in self._listings:
            self._listings[str(location)] = held_files(location, self.locks)
        return self._listings[str(location)]

    def _file(self, location: HubRepository, name: str) -> Path:
        """A file of the repository on this machine, as it has to be."""
        listing = self._listing(location)
        folder = cached_assets_path(
            "scion",
            "datasets",
            f"{location.name}@{location.require_pinned()}",
            assets_dir=constants.HF_ASSETS_CACHE,
        )
        with (
            # Of two jobs that want the same one, the second finds it.
            exclusive(folder / ".lock", waiting=f"another process fetches {location}"),
            progress(f"download of {location.name}", listing[name].size, unit="B") as told,
        ):

            def advance(_name: str, size: int) -> None:
                told.advance(amount=size)

            download_files(location, [name], folder, listing=listing, progress=advance)
        path = folder / name
        # It was held to that just now; without a lock a hub lists none of small files.
        digest = listing[name].sha256 or digest_file(path)
        self.read.setdefault(str(location), {})[name] = digest
        return path


def _read_table(path: Path, split: _Split, samples: int, *, where: str) -> Rows:
    """The first rows of a file that `datasets` reads."""
    from datasets import load_dataset  # pyright: ignore[reportUnknownVariableType]
    from datasets.exceptions import DatasetsError

    with tempfile.TemporaryDirectory(prefix="scion-data-") as temporary:
        try:
            rows: Any = load_dataset(
                split.reader,
                data_files=[str(path)],
                split="train",
                # Row by row: no more of the file than is asked for, and no copy of it.
                streaming=True,
                cache_dir=temporary,
                **split.options,
            )
            return [without_nulls(row) for row in itertools.islice(rows, samples)]
        except (*_UNREADABLE, DatasetsError) as error:
            raise unusable(where, READABLE, error) from error


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table without what the table alone has put into it.

    A table has one schema for all rows, so each tool gets every parameter of every other tool, as
    null, and each message every key of the others; the chat template would print them. A message's
    content stays, which the chat format has as null.
    """
    cut = {key: _cut(value) for key, value in row.items() if value is not None}
    messages = row.get("messages")
    if isinstance(messages, list):
        for before, after in zip(cast(list[Any], messages), cut["messages"], strict=True):
            if isinstance(before, dict) and "content" in before:
                after.setdefault("content", None)
    return cut


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        entries = cast(dict[str, Any], value)
        return {key: _cut(each) for key, each in entries.items() if each is not None}
    if isinstance(value, list):
        return [_cut(each) for each in cast(list[Any], value)]
    return value
