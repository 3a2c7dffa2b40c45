"""The order of the house: layers, docstrings that teach and stay true, one name for one thing."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "workflow/scion"
CONTRACTS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]
LAYERS: list[str] = CONTRACTS["contracts"][0]["layers"][::-1]
"""From the lowest to the highest."""
PACKAGES = [layer for layer in LAYERS if (PACKAGE / layer).is_dir()]
MODULES = sorted(PACKAGE.rglob("*.py"))


def lint_imports(package_parent: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter with this project's contracts, over the package in another folder."""
    (folder / "pyproject.toml").write_text((PROJECT / "pyproject.toml").read_text())
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(package_parent)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, to plant things in."""
    folder = tmp_path / "workflow/scion"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_every_module_lies_in_a_layer() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    layers = {layer if layer in PACKAGES else f"{layer}.py" for layer in LAYERS}
    assert entries == layers | {"__init__.py"}
    assert len(layers) <= 15


def test_the_layers_are_kept(copy: Path, tmp_path: Path) -> None:
    done = lint_imports(copy.parent, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "statement", "broken"),
    [
        ("common/files.py", "from scion.stages import fix_keys", "scion.common.files"),
        ("lint/scan.py", "import scion.report.summary", "scion.lint.scan"),
        # Inside of a function, where cycles like to hide.
        (
            "checkpoint/lfs.py",
            "def late():\n    from scion.lint import rule",
            "scion.checkpoint.lfs",
        ),
    ],
)
def test_an_upward_import_is_refused(
    copy: Path, tmp_path: Path, module: str, statement: str, broken: str
) -> None:
    path = copy / module
    path.write_text(f"{path.read_text()}\n\n{statement}\n")
    done = lint_imports(copy.parent, tmp_path)
    assert done.returncode == 1
    assert f"{broken} -> " in done.stdout


def test_a_new_entry_has_to_find_its_layer(copy: Path, tmp_path: Path) -> None:
    (copy / "helpers.py").write_text('"""Helpers."""\n')
    done = lint_imports(copy.parent, tmp_path)
    assert done.returncode == 1
    assert "helpers" in done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_a_packages_docstring_teaches(package: str) -> None:
    text = docstring(PACKAGE / package / "__init__.py")
    assert "Begin with" in text
    assert "To extend" in text
    assert text.count("May import:") == 1
    # The layers below, all of them, as the contract has them.
    below = LAYERS[: LAYERS.index(package)]
    assert f"May import: {', '.join(below) or 'nothing of Scion'}." in " ".join(text.split())


def dotted_names() -> Iterator[tuple[str, str]]:
    """Each name of a module of Scion's that stands in a docstring, a comment or a Markdown page."""
    pages = {*PROJECT.glob("*.md"), *PROJECT.glob("bench/*.md"), *PROJECT.glob("docs/**/*.md")}
    pages.remove(PROJECT / "docs/lab-log.md")  # It tells of what is no more.
    for path in [*MODULES, *pages, *PROJECT.glob("rules/*.smk")]:
        for name in re.findall(r"\bscion((?:\.[A-Za-z_][A-Za-z_0-9]*)+)", path.read_text()):
            yield str(path.relative_to(PROJECT)), name.strip(".")


def test_every_module_that_is_named_is_there() -> None:
    gone = {(where, name) for where, name in dotted_names() if not resolves(name)}
    assert not gone


def resolves(name: str) -> bool:
    """Whether `checkpoint.shards.Checkpoint.open` and the like are there."""
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        place = PACKAGE.joinpath(*parts[:length])
        path = place.with_suffix(".py") if length else place / "__init__.py"
        path = path if path.is_file() else place / "__init__.py"
        if path.is_file():
            return defined(ast.parse(path.read_text()), parts[length:])
    return False


def defined(tree: ast.Module | ast.ClassDef, parts: list[str]) -> bool:
    """Whether a module or a class defines a name, and so on below it."""
    if not parts:
        return True
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name) if name == parts[0]:
                return defined(node, parts[1:])
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name == parts[0]:
                return True
            case ast.Assign(targets=[ast.Name(id=name)]) if name == parts[0]:
                return True
            case ast.AnnAssign(target=ast.Name(id=name)) if name == parts[0]:
                return True
            case ast.ImportFrom(names=names) if parts[0] in [each.name for each in names]:
                return True
            case _:
                pass
    return False


def test_no_two_public_classes_have_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def loaded(imports: Iterable[str]) -> set[str]:
    """The modules that a new process has after these import statements."""
    code = "\n".join([*imports, "import sys; print(*sys.modules)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_stages_of_a_release_load_nothing_heavy_before_they_know_what_is_to_be_made() -> None:
    """Whatever the store has is then there within a second."""
    stages = sorted(path.stem for path in (PACKAGE / "stages").glob("*.py"))
    stages.remove("compare_recipes")  # Not of a release.
    modules = loaded(f"import scion.stages.{stage}" for stage in stages)
    assert "scion.stages.verify_release" in modules
    assert modules & {"torch", "transformers", "modelopt", "datasets", "accelerate"} == set()


def test_planning_a_run_loads_nothing_heavy() -> None:
    rules = "".join(path.read_text() for path in sorted((PROJECT / "rules").glob("*.smk")))
    modules = loaded(re.findall(r"^from scion\S* import [\w, ]+$", rules, re.MULTILINE))
    assert "scion.artifacts.plan" in modules
    heavy = {"torch", "scipy.stats", "scipy.special", "matplotlib", "huggingface_hub", "jinja2"}
    assert modules & heavy == set()


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""
