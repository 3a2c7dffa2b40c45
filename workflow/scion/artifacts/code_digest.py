"""What made an artifact, besides its inputs: the code of its stage and the locked environment."""

import ast
from pathlib import Path

from scion.common.digest import digest_file, digest_json

_PACKAGE = Path(__file__).parents[1]


def module_files(module: str) -> list[Path]:
    """The source files that a module of this package runs: its own and those it imports from here.

    Read from the import statements, so nothing is run. Packages' `__init__.py` hold docstrings
    alone and do not count.

    Args:
        module: A dotted name such as `scion.stages.fix_keys`.
    """
    found: dict[Path, None] = {}
    waiting = [module]
    while waiting:
        path = _source(waiting.pop())
        if path is not None and path not in found:
            found[path] = None
            waiting += _imports(path)
    return sorted(found)


def code_digest(module: str) -> str:
    """One digest over the files that `module_files` names, with their names."""
    files = module_files(module)
    return digest_json({str(path.relative_to(_PACKAGE)): digest_file(path) for path in files})


def _source(module: str) -> Path | None:
    path = _PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if path.is_file() else None


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == _PACKAGE.name]
