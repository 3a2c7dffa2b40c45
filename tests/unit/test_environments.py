"""Where a run's environments are, and what manifests call them."""

from pathlib import Path

import pytest

from scion.artifacts import environments
from scion.artifacts.environments import identity, interpreter, locks_of, not_installed, prefix

LOCKS = f"sha256:{'0' * 64}"
NAME = "0123456789abcdfghijklmnpqrsvwxyz-scion-root"


def test_uv_installs_beside_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environments.VARIABLE, raising=False)
    assert prefix("envs/evaluate") == Path("envs/evaluate/.venv")
    assert interpreter("envs/evaluate") == Path("envs/evaluate/.venv/bin/python")


def test_what_is_not_installed_is_said_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environments.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    for folder, line in (
        ("envs/serve-cuda", "make SERVING=serve-cuda setup"),
        ("envs/evaluate", "make setup"),
    ):
        lacking = not_installed(folder)
        assert lacking is not None
        assert (lacking.where, line in lacking.hint) == (f"{folder}/.venv/bin/python", True)
        interpreter(folder).parent.mkdir(parents=True)
        interpreter(folder).touch()
        assert not_installed(folder) is None


def test_nix_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environments.VARIABLE, "/nix/store/x-scion-environments")
    built = Path("/nix/store/x-scion-environments/evaluate")
    assert prefix("envs/evaluate") == built
    assert interpreter("envs/evaluate") == built / "bin/python"


def test_without_nix_the_locks_are_the_identity(tmp_path: Path) -> None:
    assert identity(LOCKS, [tmp_path / ".venv", Path("envs/evaluate/.venv")]) == LOCKS


def test_under_nix_the_store_path_is_and_the_locks_are_named_beside_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    built = store / NAME
    built.mkdir(parents=True)
    # As linkFarm makes it: a folder of links to the environments.
    farm = tmp_path / "farm"
    farm.mkdir()
    (farm / "serve-cpu").symlink_to(built)
    name = identity(LOCKS, [built, farm / "serve-cpu"])
    assert name == f"{built} {built} {LOCKS}"
    assert locks_of(name) == locks_of(LOCKS) == LOCKS


@pytest.mark.parametrize("name", ["store/plain", f"elsewhere/{NAME}", "store/short-scion-root"])
def test_a_folder_that_only_looks_like_the_store_is_none(name: str, tmp_path: Path) -> None:
    assert identity(LOCKS, [tmp_path / name]) == LOCKS
