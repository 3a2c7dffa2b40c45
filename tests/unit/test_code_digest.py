import shutil
from pathlib import Path

import pytest

from scion.artifacts import code_digest as provenance
from scion.artifacts.code_digest import code_digest, module_files

TABLE = {"table/__init__.py", "table/rows/first.py"}


def names(module: str) -> set[str]:
    return {str(path.relative_to(provenance._PACKAGE)) for path in module_files(module)}


def test_imports_are_followed_to_the_end() -> None:
    found = names("scion.stages.graft_mtp")
    # Imported by the stage, by shards.py below it, and by safetensors_file.py below that.
    assert {
        "stages/graft_mtp.py",
        "checkpoint/shards.py",
        "checkpoint/safetensors_file.py",
        "common/digest.py",
    } <= found
    assert "stages/quantize_nvfp4.py" not in found
    assert not any(name.endswith("__init__.py") for name in found)


def test_a_module_and_a_name_in_it_are_both_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "scion"
    (package / "engines").mkdir(parents=True)
    (package / "a.py").write_text("import os\nfrom scion import b\nimport scion.engines.c\n")
    (package / "b.py").write_text("def late():\n    from scion.d import thing\n")
    (package / "engines/c.py").write_text("from scion.a import *\n")
    (package / "d.py").write_text("thing = 1\n")
    (package / "unused.py").write_text("")
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    assert names("scion.a") == {"a.py", "b.py", "engines/c.py", "d.py"}
    assert names("scion.d") == {"d.py"}
    assert module_files("scion.nothing") == []


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose `shapes` has a face, and whose `table` has code in its `__init__.py`."""
    package = tmp_path / "scion"
    (package / "shapes").mkdir(parents=True)
    (package / "table/rows").mkdir(parents=True)
    (package / "shapes/__init__.py").write_text(
        '"""Shapes."""\n\n'
        "from scion.shapes.circle import Circle as Round\n"
        "from scion.shapes.square import Square\n\n"
        '__all__ = ["Round", "Square"]\n'
    )
    (package / "shapes/circle.py").write_text("from scion.numbers import PI\n")
    (package / "shapes/square.py").write_text("SIDES = 4\n")
    (package / "numbers.py").write_text("PI = 3\n")
    (package / "table/__init__.py").write_text(
        "from scion.table.rows import first\nROWS = [first]\n"
    )
    (package / "table/rows/__init__.py").write_text('"""Rows."""\n')
    (package / "table/rows/first.py").write_text("NAME = 1\n")
    (package / "table/reader.py").write_text("")
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    return package


@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("from scion.shapes import Square", {"shapes/square.py"}),
        ("from scion.shapes import Round", {"shapes/circle.py", "numbers.py"}),
        ("from scion.shapes import square", {"shapes/square.py"}),
        (
            "from scion.shapes import *",
            {"shapes/circle.py", "shapes/square.py", "numbers.py"},
        ),
        ("import scion.shapes", {"shapes/circle.py", "shapes/square.py", "numbers.py"}),
        ("from scion import shapes", {"shapes/circle.py", "shapes/square.py", "numbers.py"}),
        # What lies below a package with code runs that code.
        ("from scion.table.reader import x", {*TABLE, "table/reader.py"}),
        ("from scion.table import ROWS", TABLE),
        ("from scion.table.rows import first", TABLE),
    ],
)
def test_what_a_packages_face_hands_on_is_followed(
    package: Path, statement: str, files: set[str]
) -> None:
    (package / "user.py").write_text(statement + "\n")
    assert names("scion.user") == files | {"user.py"}


def test_a_face_that_hands_on_another_thing_changes_the_digest_and_its_text_does_not(
    package: Path,
) -> None:
    (package / "user.py").write_text("from scion.shapes import Square\n")
    before = code_digest("scion.user")
    face = package / "shapes/__init__.py"
    face.write_text(face.read_text().replace("Shapes.", "Plain shapes."))
    assert code_digest("scion.user") == before
    face.write_text(face.read_text().replace("scion.shapes.square", "scion.shapes.circle"))
    assert code_digest("scion.user") != before


@pytest.mark.parametrize(
    ("module", "changes"),
    [
        ("stages/fix_keys.py", True),
        ("common/files.py", True),
        ("stages/graft_mtp.py", False),
        ("checkpoint/hub/client.py", False),
    ],
)
def test_editing_a_module_changes_the_digest_of_what_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, changes: bool
) -> None:
    before = code_digest("scion.stages.fix_keys")
    package = tmp_path / "scion"
    shutil.copytree(provenance._PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    # The digest says nothing of where the package lies.
    assert code_digest("scion.stages.fix_keys") == before
    with (package / module).open("a") as file:
        file.write("\n# edited\n")
    assert (code_digest("scion.stages.fix_keys") != before) is changes
