"""The script of `nix run`, on real environments and a copy of the code, which stays as it is."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from project_copy import PROJECT, ProjectCopy
from scion.artifacts.artifact import Artifact
from scion.artifacts.environments import VARIABLE, locks_of, prefix
from scion.common.digest import digest_file, digest_json

SCRIPT = PROJECT / "envs/nix/pipeline.sh"


@dataclass(frozen=True)
class User:
    """Somebody with a folder for results, and the code and environments elsewhere."""

    folder: Path
    code: Path
    environments: Path
    programs: Path
    """bin/ of an environment that holds what Scion imports, and not Scion."""

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """What the app does; `writeShellScriptBin` puts the variables before the script."""
        variables = {
            "SCION_CODE": str(self.code),
            VARIABLE: str(self.environments),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
        }
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            ["bash", str(SCRIPT), *options],
            cwd=self.folder,
            env={**kept, **variables},
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ProjectCopy.make(tmp_path_factory.mktemp("code")).folder


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Nix builds it, of the packages that are installed here."""
    store = tmp_path_factory.mktemp("nix") / "store"
    environment = store / f"{'0123456789abcdfg' * 2}-scion-root"
    venv.create(environment, symlinks=True)
    here = Path(sysconfig.get_path("purelib"))
    site = environment / here.relative_to(sys.prefix)
    for package in here.iterdir():
        if package.name != "scion.pth" and not package.match("scion-*.dist-info"):
            (site / package.name).symlink_to(package)
    snakemake = environment / "bin/snakemake"
    text = Path(sys.prefix, "bin/snakemake").read_text()
    snakemake.write_text(text.replace(sys.prefix, str(environment)))
    snakemake.chmod(0o755)
    lacking = [str(environment / "bin/python"), "-c", "import torch, scion"]
    done = subprocess.run(lacking, capture_output=True, text=True, cwd=environment)
    assert "No module named 'scion'" in done.stderr
    return environment / "bin"


@pytest.fixture
def user(code: Path, programs: Path, tmp_path: Path) -> User:
    environments = tmp_path / "environments"
    environments.mkdir()
    for name in ("serve-cpu", "evaluate"):
        (environments / name).symlink_to(PROJECT / prefix(f"envs/{name}"))
    folder = tmp_path / "user"
    folder.mkdir()
    return User(folder, code, environments, programs)


def contents(folder: Path) -> dict[str, int]:
    """Every file with its date, less Python's caches."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    kept = (path for path in paths if "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in kept}


@pytest.mark.slow
def test_results_are_made_where_it_is_started_and_the_code_stays(user: User) -> None:
    before = contents(user.code)
    done = user.run("--until", "extract_text")
    assert done.returncode == 0, done.stdout + done.stderr
    made = Artifact.open(next(user.folder.glob("results/*/extract_text")))
    # As in a checkout: no path of the code's copy is in what a digest covers.
    source = Artifact.open(made.folder.parent / "fetch_source")
    assert source.manifest["settings"] == {"location": "resources/pico/pico-agent"}
    assert str(user.code) not in json.dumps(made.manifest)
    # The environment is named by its place in the store, and by the locks, as uv's are.
    locks = digest_json({"uv.lock.neutral": digest_file(PROJECT / "uv.lock.neutral")})
    assert made.manifest["environment"] == f"{user.programs.parent} {locks}"
    assert locks_of(made.manifest["environment"]) == locks
    assert contents(user.code) == before
    assert {path.name for path in user.folder.iterdir()} == {
        ".snakemake",
        "benchmarks",
        "logs",
        "resources",
        "results",
    }
    again = user.run("--until", "extract_text")
    assert again.stdout.startswith("nothing to do: ")


def test_the_environments_are_those_that_are_named(user: User) -> None:
    planned = user.run("--dry-run", "--printshellcmds")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    commands = planned.stdout + planned.stderr
    assert f"--python {user.environments}/serve-cpu/bin/python" in commands
    assert f"--evaluator-python {user.environments}/evaluate/bin/python" in commands
    assert ".venv/bin/python" not in commands


def test_the_template_s_release_is_planned(user: User) -> None:
    shutil.copy(PROJECT / "envs/nix/template/release.yaml", user.folder)
    planned = user.run("--configfile", "release.yaml", "--dry-run")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert " for results/my-agent-27b-nvfp4-text-mtp:\n" in planned.stdout
    assert re.search(r"^  seal_release +not made yet$", planned.stdout, re.MULTILINE)
    refused = user.run("--configfile", "release.yaml")
    assert refused.returncode != 0
    assert "is not pinned to a commit" in refused.stdout + refused.stderr


def test_a_folder_of_the_user_s_own_is_left_alone(user: User) -> None:
    (user.folder / "resources").mkdir()
    (user.folder / "resources/mine.txt").write_text("mine")
    user.run("--dry-run")
    assert (user.folder / "resources/mine.txt").read_text() == "mine"
    assert not (user.folder / "resources").is_symlink()
