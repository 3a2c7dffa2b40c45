"""The whole flake, where a Nix from 2.18 on and the trees of its inputs are at hand."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import evaluate_flake
from evaluate_flake import EvaluationError, evaluate, store_inputs
from project_copy import ProjectCopy

INPUTS = os.environ.get(evaluate_flake.VARIABLE)
with_inputs = pytest.mark.skipif(
    not INPUTS, reason=f"no trees of the flake's inputs ({evaluate_flake.VARIABLE})"
)


@pytest.fixture(scope="module")
def evaluated() -> dict[str, Any]:
    assert INPUTS
    return evaluate(Path(INPUTS))


@with_inputs
def test_every_output_evaluates(evaluated: dict[str, Any]) -> None:
    paths = [
        path
        for kind in ("packages", "devShells", "checks")
        for path in evaluated["outputs"][kind].values()
    ]
    assert len(paths) == 14
    assert all(path.startswith("/nix/store/") and path.endswith(".drv") for path in paths)
    assert set(evaluated["template"]) == {"default", "plan", "pin", "summary", "config", "audit"}


@with_inputs
def test_the_realised_wheel_is_the_one_that_the_flake_expects(evaluated: dict[str, Any]) -> None:
    realised = evaluated["realised"]
    assert realised["found"] == realised["expected"]
    assert Path(realised["found"]).name.endswith(realised["file"])


@with_inputs
def test_the_code_of_another_day_is_another_pipeline_in_the_same_environments(
    evaluated: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ProjectCopy.make(tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "--all"], cwd=tmp_path, check=True)
    stage = tmp_path / "workflow/scion/stages/fix_keys.py"
    stage.write_text(stage.read_text() + "# another day\n")
    monkeypatch.setattr(evaluate_flake, "ROOT", tmp_path)
    assert INPUTS
    flake = evaluate_flake.copy_flake(tmp_path / "copy", store_inputs(Path(INPUTS)))
    expression = evaluate_flake.OUTPUTS.replace("FLAKE", flake)
    outputs = evaluate_flake.evaluate_expression(expression)
    before = evaluated["outputs"]
    assert outputs["packages"]["environments"] == before["packages"]["environments"]
    assert outputs["packages"]["pipeline"] != before["packages"]["pipeline"]
    for shell in ("default", "serve", "serve-cpu"):
        assert outputs["devShells"][shell] == before["devShells"][shell]


def test_a_tree_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "nixpkgs").mkdir()
    with pytest.raises(EvaluationError, match="no tree of pyproject-build-systems, pyproject-nix"):
        store_inputs(tmp_path)
