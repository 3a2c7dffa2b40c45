"""What a configuration names, checkpoints and data: whether it is there, and can be used.

Nothing is read but small files, so that what can't work is said before gigabytes are moved.
"""

import functools
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

from scion.checkpoint.donor_head import find_head
from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.checkpoint.preview import Preview, preview
from scion.common.errors import ScionError, of_system
from scion.common.jsonl import count_json_lines

Named = tuple[str, str]
"""A key of the configuration, and the location that it has."""
Rows = tuple[str, int]
"""A key of the configuration that says how many rows are taken of data, and how many."""


def check_places(
    checkpoints: Iterable[Named],
    data: Iterable[Named],
    *,
    license: str,
    where: object,
    hub: bool,
    rows: Mapping[str, Rows] | None = None,
    judge: Callable[[Mapping[str, Preview]], None] = lambda seen: None,
) -> list[str]:
    """Look at all places, as far as that moves next to nothing.

    Args:
        checkpoints: The checkpoint that becomes the release under `source`, the one that its MTP
            head comes from under `donor`, and others.
        data: Files, and data sets of the hub.
        license: What the card says.
        where: The configuration's file, to name in errors.
        hub: Whether repositories count too: that they are pinned, and, if the hub can be reached,
            what they hold. Folders and files of this machine always do.
        rows: By key of data, the rows that a file must have.
        judge: What else is asked of the checkpoints that could be looked at, by their keys; raises
            a `ScionError`.

    Returns:
        A line for each place that could not be looked at.

    Raises:
        ScionError: Something is not there, not pinned, of an architecture that releases are not
            made of, or under another licence than the card says; a donor's folder has no whole MTP
            head; a file has too few rows.
    """
    unseen = list[str]()
    seen = dict[str, Preview]()
    for key, location in checkpoints:
        with of_key(key):
            if isinstance(place := parse_location(location), HubRepository):
                if not hub:
                    continue
                place.require_pinned(where)
                if not hub_answers():
                    unseen.append(f"{key}: {location} was not looked at: no hub can be reached")
                    continue
            seen[key] = preview(location)
            if key == "source":
                _require_license(license, seen[key])
            # Of a repository that takes the headers of its shards, which are larger.
            if key == "donor" and not isinstance(place, HubRepository):
                find_head(seen[key].source, location)
    judge(seen)
    for key, location in data:
        with of_key(key):
            if isinstance(place := parse_location(location), HubRepository):
                if hub:
                    place.require_pinned(where)
            else:
                _require_file(place.path)
                if rows and key in rows:
                    _require_rows(place.path, rows[key])
    return unseen


@contextmanager
def of_key(key: str) -> Generator[None]:
    """Say of an error which key of the configuration it is of."""
    try:
        yield
    except ScionError as error:
        error.problem = f"{key}: {error.problem}"
        raise


@functools.cache
def hub_answers() -> bool:
    """Whether the hub can be reached; asked once in a process."""
    # The hub's client takes half a second to import.
    from scion.checkpoint.hub import http

    return http.hub_answers()


def _require_license(license: str, seen: Preview) -> None:
    if seen.license not in (None, license):
        raise ScionError(
            "the card names another licence than the source",
            where=f"{seen.location}: README.md",
            expected=f"license: {license}, as card.license says",
            found=f"license: {seen.license}",
            hint="set card.license to what the source's licence allows",
        )


def _require_file(path: Path) -> None:
    if not path.is_file() or path.stat().st_size == 0:
        kind = "no regular file" if path.exists() else "nothing"
        raise ScionError(
            "the data are not there",
            where=path,
            expected="a file of JSON lines, or hf://datasets/owner/name@<40-digit commit>",
            found="an empty file" if path.is_file() else kind,
            hint="correct the path in the config; it counts from the project's folder",
        )


def _require_rows(path: Path, rows: Rows) -> None:
    key, wanted = rows
    try:
        count = count_json_lines(path, limit=wanted)
    except OSError as error:
        raise of_system(error, where=path) from error
    if count < wanted:
        raise ScionError(
            "the data have fewer rows than are asked for",
            where=path,
            expected=f"{wanted} rows, as {key} says",
            found=f"{count} rows",
            hint=f"lower {key}, or name a file with more rows",
        )
