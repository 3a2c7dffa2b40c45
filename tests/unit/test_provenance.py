import shutil
from pathlib import Path

import pytest

from scion.artifacts import code_digest as provenance
from scion.artifacts.code_digest import code_digest, module_files


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
