"""Pinning: every hub repository in a configuration file gets its full commit hash, and a lock.

The lock lies beside the file and holds size and SHA-256 of every file of these repositories
(`scion.checkpoint.hub.lock`); the workflow takes nothing else for them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scion.checkpoint.hub.client import resolve_revision
from scion.checkpoint.hub.location import SCHEME, HubRepository, parse_location
from scion.checkpoint.hub.lock import LockedFiles, lock_of, read_lock, write_lock
from scion.checkpoint.hub.lock_check import locked_files
from scion.common.errors import ScionError
from scion.common.files import atomic_file, read_regular
from scion.common.text import printable, size
from scion.config.families import RELEASES

# A configuration has some kilobytes.
_MAX_BYTES = 1 << 22


@dataclass(frozen=True)
class Pin:
    """One change of a configuration file.

    Attributes:
        line: Line number, from 1.
        old: The location as it was written.
        new: The same repository at its commit.
    """

    line: int
    old: str
    new: str


def pin_config(path: Path, *, report: Callable[[str], None] = print) -> list[Pin]:
    """Replace each unpinned `hf://…` value of a YAML file by the commit that it stands for now.

    Only those values change: comments, quotes and layout stay. The lock beside the file gets what
    it lacks, and loses what the file no longer names. All repositories are looked up before
    either is replaced.

    Args:
        path: The configuration file.
        report: Takes a line of text for each change.

    Returns:
        The changes, in the order of the file; none if everything was pinned.

    Raises:
        ScionError: The file or its lock can't be read, a location is not understood, or the hub
            refuses.
    """
    target = _target(path)
    text = _read(target, path)
    named: dict[str, HubRepository] = {}
    commits: dict[HubRepository, str] = {}
    pins: list[Pin] = []
    parts: list[str] = []
    done = 0
    for node in _locations(text, path):
        repository = _repository(node, path)
        if repository.is_pinned:
            named[str(repository)] = repository
            continue
        if repository not in commits:
            commits[repository] = resolve_revision(repository)
        pinned = repository.at(commits[repository])
        named[str(pinned)] = pinned
        pin = Pin(
            line=node.start_mark.line + 1,
            old=node.value,
            new=str(pinned),
        )
        start, end = node.start_mark.index, node.end_mark.index
        parts += [text[done:start], _replaced(text[start:end], pin, path)]
        done = end
        pins.append(pin)
    lock = lock_of(target)
    before = read_lock(lock) if lock.exists() else {}
    after = {name: before.get(name) or locked_files(each) for name, each in named.items()}
    if pins:
        with atomic_file(target) as file:
            file.write("".join([*parts, text[done:]]).encode())
    for pin in pins:
        report(printable(f"{path}:{pin.line}: {pin.old} -> {pin.new}"))
    if after != before:
        write_lock(lock, after)
        report(printable(f"{lock_of(path)}: {_count(after)}"))
    return pins


def _count(lock: Mapping[str, LockedFiles]) -> str:
    files = [file for each in lock.values() for file in each.values()]
    total = size(sum(file.size for file in files))
    return f"locked {len(files)} files, {total}, of {len(lock)} repositories"


def pin_all(path: Path, *, report: Callable[[str], None] = print) -> list[Pin]:
    """`pin_config` of a configuration, and of the files of releases that it names."""
    return [
        pin for each in (path, *_release_files(path)) for pin in pin_config(each, report=report)
    ]


def _release_files(path: Path) -> list[Path]:
    """The files that stand in a family's list of releases."""
    root = _composed(_read(_target(path), path), path)
    keys = root.value if isinstance(root, yaml.MappingNode) else []
    listed = [value for key, value in keys if key.value == RELEASES]
    entries = [
        entry for value in listed if isinstance(value, yaml.SequenceNode) for entry in value.value
    ]
    return [Path(entry.value) for entry in entries if isinstance(entry, yaml.ScalarNode)]


def _target(path: Path) -> Path:
    """The file itself: a link to it must stay one."""
    try:
        return path.resolve(strict=True)
    # A ring of links is a RuntimeError up to Python 3.12.
    except (OSError, RuntimeError) as error:
        raise _unreadable(path, error) from error


def _read(target: Path, path: Path) -> str:
    try:
        # Not read_text(): it would change line ends.
        return read_regular(target, limit=_MAX_BYTES).decode()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: object) -> ScionError:
    return ScionError(
        "the configuration can't be read",
        where=path,
        expected="a YAML file",
        found=error.strerror if isinstance(error, OSError) else error,
        hint="start from a copy of config/default.yaml",
    )


def _locations(text: str, path: Path) -> list[Any]:
    """The scalar nodes of a YAML text that begin with `hf://`, in its order, aliases once."""
    root = _composed(text, path)
    nodes = {node.start_mark.index: node for node in _scalars(root, set())}
    return [nodes[index] for index in sorted(nodes) if nodes[index].value.startswith(SCHEME)]


def _composed(text: str, path: Path) -> Any:
    """The root node of a YAML text; aliases are not expanded."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _unreadable(path, error) from error
    except RecursionError:
        raise _unreadable(path, "nested too deeply") from None


def _scalars(node: Any, seen: set[int]) -> Iterator[Any]:
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item, seen)
    else:
        for _, value in node.value:
            yield from _scalars(value, seen)


def _repository(node: Any, path: Path) -> HubRepository:
    try:
        location = parse_location(node.value)
    except ScionError as error:
        error.where = f"{path}, line {node.start_mark.line + 1}: {error.where}"
        raise
    assert isinstance(location, HubRepository), "it begins with hf://"
    return location


def _replaced(scalar: str, pin: Pin, path: Path) -> str:
    """The text of a YAML scalar, quotes and all, with the new location in place of the old."""
    if scalar.count(pin.old) != 1:
        raise ScionError(
            "a location is written so that it can't be replaced in place",
            where=f"{path}, line {pin.line}",
            expected=f"{pin.old} on one line, without escapes",
            found=scalar,
            hint=f"write {pin.new} there yourself",
        )
    return scalar.replace(pin.old, pin.new)
