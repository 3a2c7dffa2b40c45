"""What a source file says: the digest of its meaning, its imports, the folders that it runs.

To parse all that a stage runs takes a quarter of a second, as long as a short stage. So what was
found is kept in a file beside Python's own byte code, by the SHA-256 of the source, for the readers
that this module and `code_meaning` are now; where no byte code is written, neither is this. Whoever
edits a source has another digest, and what can't be read or written is parsed again.
"""

import ast
import contextlib
import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from scion.artifacts import code_meaning
from scion.artifacts.code_meaning import meaningful, statements, written

DECLARATION = "ALSO_RUNS"
"""The tuple that names folders of code that a module runs without importing them."""

_KEPT = Path(cache_from_source(__file__)).with_name(f"sources.{sys.implementation.cache_tag}.json")
# Of a checkout that is worked on; one has a third of that.
_MOST = 1000


@dataclass(frozen=True)
class ImportedName:
    """An imported name.

    Attributes:
        module: Dotted name of what it is imported from.
        name: The name there; None for the module itself, or `*`.
        binding: What the importing module calls it.
    """

    module: str
    name: str | None
    binding: str | None


@dataclass(frozen=True)
class SourceFile:
    """What a source file says.

    Attributes:
        meaning: Digest of what counts of it.
        imports: What it imports, wherever in the file.
        also_runs: The folders that it declares to run.
        is_face: Whether it does nothing but import.
    """

    meaning: str
    imports: tuple[ImportedName, ...]
    also_runs: tuple[str, ...]
    is_face: bool


def read_source(path: Path) -> SourceFile:
    """What a file says now."""
    text = path.read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    known = _known()
    if digest not in known:
        known[digest] = _parse(text)
        _new.append(digest)
    return known[digest]


_new: list[str] = []


def keep() -> None:
    """Keep what was parsed in this process for those that come after it."""
    if not _new or sys.dont_write_bytecode:
        return
    known = _known()
    kept = list(known)[-_MOST:]
    content = {"reader": _reader(), "sources": {digest: _row(known[digest]) for digest in kept}}
    with contextlib.suppress(OSError):
        _KEPT.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=_KEPT.parent, prefix=f".{_KEPT.name}.")
        with os.fdopen(descriptor, "w") as file:
            # Python's byte code, too, is for whoever may read the source.
            os.fchmod(descriptor, 0o644)
            json.dump(content, file)
        os.replace(name, _KEPT)
    _new.clear()


@functools.cache
def _known() -> dict[str, SourceFile]:
    """By digest what is known of sources; what an earlier process has kept, to begin with."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        content = json.loads(_KEPT.read_bytes())
        if content["reader"] == _reader():
            return {digest: _source(row) for digest, row in content["sources"].items()}
    return {}


@functools.cache
def _reader() -> str:
    """Digest of the code that reads sources: another one may find something else."""
    own = (Path(__file__), Path(code_meaning.__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in own)).hexdigest()


def _row(source: SourceFile) -> list[Any]:
    imports = [[each.module, each.name, each.binding] for each in source.imports]
    return [source.meaning, imports, list(source.also_runs), source.is_face]


def _source(row: list[Any]) -> SourceFile:
    meaning, imports, also_runs, is_face = row
    return SourceFile(
        meaning, tuple(ImportedName(*each) for each in imports), tuple(also_runs), is_face
    )


def _parse(text: bytes) -> SourceFile:
    tree = meaningful(text)
    imports: list[ImportedName] = []
    for node in statements(tree):
        if isinstance(node, ast.Import):
            imports += [ImportedName(alias.name, None, alias.asname) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                name = None if alias.name == "*" else alias.name
                imports.append(ImportedName(node.module, name, name and (alias.asname or name)))
    return SourceFile(
        meaning=hashlib.sha256(written(tree).encode()).hexdigest(),
        imports=tuple(imports),
        also_runs=tuple(_declarations(tree)),
        is_face=all(_says_nothing(statement) for statement in tree.body),
    )


def _declarations(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == DECLARATION:
                yield from ast.literal_eval(value)
            case _:
                pass


def _says_nothing(statement: ast.stmt) -> bool:
    """Whether a statement of a face defines nothing: an import, or `__all__`."""
    match statement:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case _:
            return False
