"""The code of a stage: the source files that its module runs, and one digest of what they mean.

Files are found by import statements, and count by their meaning (`scion.artifacts.code_meaning`):
an edit of a comment or a docstring is no other code.

A package's `__init__.py` is one of two things. A *face* holds a docstring, imports and `__all__`,
and hands on what other modules define: importing a name from it means the module that the name
comes from, and the face itself, a text for readers, does not count. Any other one holds code: it
counts, and all that it imports, wherever something below it is imported, for Python then runs it.

Some code runs without being imported, in a process that the stage starts:

- A driver, run as a file or by `-m`. The module that starts it imports it, for its name or its
  `__file__`, so it is found like others.
- A folder that another environment has installed, such as vLLM's plugin. The module that starts
  the process names it at its top level:

      ALSO_RUNS = ("vllm_plugin/scion_vllm_plugin",)

  a tuple of folders, relative to the one that holds this package. All their Python files count
  wherever that module does; what they import themselves is not followed.

What is imported by a computed name does not count, on purpose where `importlib.import_module` is
called for it. Nor do data files: a stage is handed those as inputs.
"""

import ast
import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scion.artifacts.code_meaning import meaningful, statements, written
from scion.common.digest import digest_json
from scion.common.errors import ScionError

_PACKAGE = Path(__file__).parents[1]
_DECLARATION = "ALSO_RUNS"


@dataclass(frozen=True)
class _Import:
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
class _Source:
    """What a source file says.

    Attributes:
        meaning: Digest of what counts of it.
        imports: What it imports, wherever in the file.
        also_runs: The folders that it declares to run.
        is_face: Whether it does nothing but import.
    """

    meaning: str
    imports: tuple[_Import, ...]
    also_runs: tuple[str, ...]
    is_face: bool


_Reader = Callable[[Path], _Source]


def module_files(module: str) -> list[Path]:
    """The source files that a module of this package runs, its own among them.

    Those that it imports from here, and those of folders that it or one of them declares. Nothing
    is run to find them. A package's face is looked through.

    Args:
        module: A dotted name such as `scion.stages.fix_keys`.

    Raises:
        ScionError: A declared folder is not there.
    """
    return sorted(_sources(module))


def code_digest(module: str) -> str:
    """One digest over what the files that `module_files` names mean, with their names."""
    home = _PACKAGE.parent
    sources = _sources(module)
    return digest_json(
        {path.relative_to(home).as_posix(): sources[path].meaning for path in sources}
    )


def _sources(module: str) -> dict[Path, _Source]:
    """What the files that `module_files` names say; each is read once."""
    read = functools.cache(_read)
    files: dict[Path, _Source] = {}
    seen: set[_Import] = set()
    waiting = [_Import(module, None, None)]
    while waiting:
        imported = waiting.pop()
        if imported in seen or imported.module.split(".")[0] != _PACKAGE.name:
            continue
        seen.add(imported)
        path = _file(imported.module)
        for run in (*_packages_with_code(imported.module, read), *([path] if path else [])):
            source = read(run)
            files[run] = source
            files |= {declared: read(declared) for declared in _declared(run, source)}
            waiting += source.imports
        if path is None:
            waiting += _handed_on(imported, read)
    return files


def _declared(path: Path, source: _Source) -> Iterator[Path]:
    """The Python files of the folders that a module declares."""
    for name in source.also_runs:
        files = sorted((_PACKAGE.parent / name).rglob("*.py"))
        if not files:
            raise ScionError(
                "code that a stage runs is not there",
                where=_PACKAGE.parent / name,
                expected=f"Python files, which {_DECLARATION} of {path} names",
                found="none",
                hint="run Scion from a whole checkout",
            )
        yield from files


def _handed_on(imported: _Import, read: _Reader) -> Iterator[_Import]:
    """What importing from a package means, beside the code of its `__init__.py`."""
    if imported.name is not None:
        member = f"{imported.module}.{imported.name}"
        if _file(member) is not None or _place(member).is_dir():
            yield _Import(member, None, None)
            return
    init = _init(imported.module)
    source = read(init) if init is not None else None
    for handed in source.imports if source is not None and source.is_face else ():
        if imported.name is None or handed.binding in (imported.name, None):
            yield handed


def _packages_with_code(module: str, read: _Reader) -> Iterator[Path]:
    """The `__init__.py` of a module and of all packages above it, where they are no faces."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        path = _init(".".join(parts[:length]))
        if path is not None and not read(path).is_face:
            yield path


def _file(module: str) -> Path | None:
    path = _place(module).with_suffix(".py")
    return path if path.is_file() else None


def _init(package: str) -> Path | None:
    path = _place(package) / "__init__.py"
    return path if path.is_file() else None


def _place(module: str) -> Path:
    return _PACKAGE.joinpath(*module.split(".")[1:])


def _read(path: Path) -> _Source:
    return _parse(path.read_bytes())


@functools.lru_cache(maxsize=1024)
def _parse(text: bytes) -> _Source:
    """Cached by content: the stages of a workflow run much of the same code."""
    tree = meaningful(text)
    imports: list[_Import] = []
    for node in statements(tree):
        if isinstance(node, ast.Import):
            imports += [_Import(alias.name, None, alias.asname) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                name = None if alias.name == "*" else alias.name
                imports.append(_Import(node.module, name, name and (alias.asname or name)))
    return _Source(
        meaning=hashlib.sha256(written(tree).encode()).hexdigest(),
        imports=tuple(imports),
        also_runs=tuple(_declarations(tree)),
        is_face=all(_says_nothing(statement) for statement in tree.body),
    )


def _declarations(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == _DECLARATION:
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
