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

import functools
from collections.abc import Iterator
from pathlib import Path

from scion.artifacts.code_source import DECLARATION, ImportedName, SourceFile, keep, read_source
from scion.common.digest import digest_json
from scion.common.errors import ScionError

_PACKAGE = Path(__file__).parents[1]


class _Walk:
    """The files of one walk along imports, each looked at once."""

    def __init__(self) -> None:
        self.read = functools.cache(read_source)
        self.file = functools.cache(_file)
        self.init = functools.cache(_init)
        self.packages_with_code = functools.cache(self._packages_with_code)

    def _packages_with_code(self, module: str) -> tuple[Path, ...]:
        """The `__init__.py` of a module and of all packages above it, where they are no faces."""
        package, _, _ = module.rpartition(".")
        above = self.packages_with_code(package) if package else ()
        path = self.init(module)
        return above if path is None or self.read(path).is_face else (*above, path)


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


def _sources(module: str) -> dict[Path, SourceFile]:
    """What the files that `module_files` names say; each is read once."""
    walk = _Walk()
    files: dict[Path, SourceFile] = {}
    walked: set[Path] = set()
    seen: set[ImportedName] = set()
    waiting = [ImportedName(module, None, None)]
    while waiting:
        imported = waiting.pop()
        if imported in seen or imported.module.split(".")[0] != _PACKAGE.name:
            continue
        seen.add(imported)
        path = walk.file(imported.module)
        for run in (*walk.packages_with_code(imported.module), *([path] if path else [])):
            if run in walked:
                continue
            walked.add(run)
            source = walk.read(run)
            files[run] = source
            files |= {declared: walk.read(declared) for declared in _declared(run, source)}
            waiting += source.imports
        if path is None:
            waiting += _handed_on(imported, walk)
    keep()
    return files


def _declared(path: Path, source: SourceFile) -> Iterator[Path]:
    """The Python files of the folders that a module declares."""
    for name in source.also_runs:
        files = sorted((_PACKAGE.parent / name).rglob("*.py"))
        if not files:
            raise ScionError(
                "code that a stage runs is not there",
                where=_PACKAGE.parent / name,
                expected=f"Python files, which {DECLARATION} of {path} names",
                found="none",
                hint="run Scion from a whole checkout",
            )
        yield from files


def _handed_on(imported: ImportedName, walk: _Walk) -> Iterator[ImportedName]:
    """What importing from a package means, beside the code of its `__init__.py`."""
    if imported.name is not None:
        member = f"{imported.module}.{imported.name}"
        if walk.file(member) is not None or _place(member).is_dir():
            yield ImportedName(member, None, None)
            return
    init = walk.init(imported.module)
    source = walk.read(init) if init is not None else None
    for handed in source.imports if source is not None and source.is_face else ():
        if imported.name is None or handed.binding in (imported.name, None):
            yield handed


def _file(module: str) -> Path | None:
    path = _place(module).with_suffix(".py")
    return path if path.is_file() else None


def _init(package: str) -> Path | None:
    path = _place(package) / "__init__.py"
    return path if path.is_file() else None


def _place(module: str) -> Path:
    return _PACKAGE.joinpath(*module.split(".")[1:])
