"""Which Scion runs: of a checkout, of a checkout in something else, installed, or made by Nix."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lock
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.plan import Plan
from scion.artifacts.software import VARIABLE, Software, is_outdated, public_address, this_software
from scion.artifacts.store.store import Store
from scion.cli.main import command_parser
from scion.common.errors import ScionError

PYPROJECT = """\
[project]
name = "scion"
version = "1.2.3"
[build-system]
requires = ["uv_build>=0.9"]
build-backend = "uv_build"
[tool.uv.build-backend]
module-name = "scion"
module-root = "workflow"
"""
URLS = """\
[project.urls]
Documentation = "https://example.org/docs"
Homepage = "https://example.org"
"Source Code" = "https://example.org/code.git"
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's git settings, and no commit of a flake's."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))
    this_software.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a little of Scion, in no repository."""
    root = tmp_path / "checkout"
    (root / "workflow/scion").mkdir(parents=True)
    (root / "workflow/scion/__init__.py").write_text('"""Scion."""\n')
    (root / "README.md").write_text("Scion\n")
    (root / "pyproject.toml").write_text(PYPROJECT)
    return root


@pytest.fixture
def repository(root: Path) -> Path:
    """The same with a commit."""
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "All of it")
    return root


def found(root: Path) -> Software:
    this_software.cache_clear()
    return this_software(root / "workflow/scion")


def test_a_checkout_names_version_and_commit(repository: Path) -> None:
    assert found(repository) == Software("1.2.3", git(repository, "rev-parse", "HEAD"))


def test_changes_of_the_code_are_told_and_others_are_not(repository: Path) -> None:
    (repository / "README.md").write_text("Other\n")
    (repository / "config.yaml").write_text("release: mine\n")
    assert not found(repository).modified
    (repository / "workflow/scion/new.py").touch()
    assert found(repository).modified
    git(repository, "add", "--all")
    assert found(repository).modified
    git(repository, "commit", "--quiet", "--message", "More")
    assert not found(repository).modified
    (repository / "workflow/scion/__init__.py").write_text('"""Other."""\n')
    assert found(repository).modified


def test_a_terminal_is_told_version_and_commit(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert str(found(repository)) == f"1.2.3, commit {commit}"
    (repository / "workflow/scion/new.py").touch()
    assert str(found(repository)).endswith(f"{commit} with changes that are not committed")
    assert str(Software("1.2.3")) == "1.2.3"
    with pytest.raises(SystemExit, match=r"^0$"):
        command_parser().parse_args(["--version"])
    assert capsys.readouterr().out == f"scion {this_software()}\n"


def test_a_hook_s_repository_is_not_taken_for_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    assert found(repository).commit is not None


def test_a_copy_without_a_repository_has_no_commit(root: Path) -> None:
    assert found(root) == Software("1.2.3")
    git(root, "init", "--quiet")
    assert found(root) == Software("1.2.3")


def test_a_copy_in_a_repository_of_something_else_has_no_commit(root: Path) -> None:
    git(root.parent, "init", "--quiet")
    git(root.parent, "add", "--all")
    git(root.parent, "commit", "--quiet", "--message", "Something else")
    assert found(root) == Software("1.2.3")


def test_without_git_there_is_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert found(repository) == Software("1.2.3")


def test_the_address_is_the_declared_one_or_else_the_remote_s(repository: Path) -> None:
    assert found(repository).url is None
    git(repository, "remote", "add", "origin", "git@github.com:owner/scion.git")
    assert found(repository).url == "https://github.com/owner/scion"
    (repository / "pyproject.toml").write_text(PYPROJECT + URLS)
    assert found(repository).url == "https://example.org/code"


ADDRESSES = {
    "https://github.com/owner/scion.git": "https://github.com/owner/scion",
    "https://github.com/owner/scion/": "https://github.com/owner/scion",
    "https://user:secret@example.org:8443/scion": "https://example.org:8443/scion",
    "git@github.com:owner/scion.git": "https://github.com/owner/scion",
    "ssh://git@gitlab.com/owner/scion": "https://gitlab.com/owner/scion",
    # What may not be there for everybody, or is a place on this machine.
    "git@example.org:owner/scion.git": None,
    "http://example.org/scion": None,
    "/home/someone/scion": None,
    "file:///home/someone/scion": None,
    "../scion": None,
    'https://example.org/a"; rm': None,
    "https://": None,
    "": None,
}


@pytest.mark.parametrize(("remote", "address"), ADDRESSES.items())
def test_an_address_is_one_for_everybody(remote: str, address: str | None) -> None:
    assert public_address(remote) == address


def test_what_was_installed_from_a_repository_names_its_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "pyproject.toml").write_text(PYPROJECT + URLS)
    git(repository, "commit", "--all", "--quiet", "--message", "An address")
    site = tmp_path / "site"
    uv = [str(lock.TOOLS / "bin/uv"), "pip", "install", "--quiet", "--no-deps"]
    wanted = ["--python", sys.executable, "--target", str(site)]
    subprocess.run([*uv, *wanted, f"scion @ git+{repository.as_uri()}"], check=True)
    monkeypatch.syspath_prepend(site)
    head = git(repository, "rev-parse", "HEAD")
    assert this_software(site / "scion") == Software("1.2.3", head, url="https://example.org/code")


def installed(site: Path, direct_url: dict[str, Any] | None) -> Path:
    """A package with the metadata that installers write."""
    (site / "scion").mkdir(parents=True)
    metadata = site / "scion-1.2.3.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: scion\nVersion: 1.2.3\n")
    if direct_url is not None:
        (metadata / "direct_url.json").write_text(json.dumps(direct_url))
    return site / "scion"


@pytest.mark.parametrize(
    ("direct_url", "software"),
    [
        (None, Software("1.2.3")),
        # https://packaging.python.org/en/latest/specifications/direct-url-data-structure/
        ({"url": "https://example.org/scion.whl", "archive_info": {}}, Software("1.2.3")),
        (
            {
                "url": "https://github.com/owner/scion.git",
                "vcs_info": {"vcs": "git", "commit_id": COMMIT, "requested_revision": "main"},
            },
            Software("1.2.3", COMMIT, url="https://github.com/owner/scion"),
        ),
    ],
)
def test_what_was_installed_names_what_its_installer_wrote(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    direct_url: dict[str, Any] | None,
    software: Software,
) -> None:
    package = installed(tmp_path / "site", direct_url)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert this_software(package) == software


def test_another_one_that_is_installed_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "site", None)
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "elsewhere/scion").mkdir(parents=True)
    assert this_software(tmp_path / "elsewhere/scion") == Software("unknown")


@pytest.mark.parametrize(
    ("named", "software"),
    [
        (COMMIT, Software("1.2.3", COMMIT)),
        (f"{COMMIT}-dirty", Software("1.2.3", COMMIT, modified=True)),
        ("", Software("1.2.3")),
        ("dirty", Software("1.2.3")),
    ],
)
def test_the_flake_names_the_commit_where_there_is_no_repository(
    root: Path, monkeypatch: pytest.MonkeyPatch, named: str, software: Software
) -> None:
    monkeypatch.setenv(VARIABLE, named)
    assert found(root) == software


def test_a_repository_counts_before_what_a_shell_names(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, COMMIT)
    assert found(repository).commit == git(repository, "rev-parse", "HEAD")


def test_a_record_is_read_as_it_was_written() -> None:
    software = Software("1.2.3", COMMIT, modified=True, url="https://example.org/code")
    assert Software.read(json.dumps(software.record())) == software
    for text in ("[]", "no JSON", '{"other": 1}', "null"):
        with pytest.raises(ScionError, match="which Scion this is"):
            Software.read(text)


def test_the_page_of_the_commit_is_shown_where_hosts_are_known_to_have_one() -> None:
    ours = Software("1", COMMIT, url="https://github.com/owner/scion")
    assert ours.page == f"https://github.com/owner/scion/tree/{COMMIT}"
    assert Software("1", COMMIT, url="https://example.org/code").page == "https://example.org/code"
    assert Software("1", url="https://github.com/owner/scion").page == ours.url
    assert Software("1", COMMIT).page is None


@pytest.mark.parametrize(
    ("facts", "now", "outdated"),
    [
        ({"made_by": {"modified": True}}, Software("1", COMMIT), True),
        ({"made_by": {"modified": True}}, Software("1", COMMIT, modified=True), False),
        ({"made_by": {"modified": True}}, Software("1"), False),
        ({"made_by": {"modified": False}}, Software("1", COMMIT), False),
        ({"made_by": []}, Software("1", COMMIT), False),
        ({}, Software("1", COMMIT), False),
    ],
)
def test_what_was_made_of_changes_is_outdated_by_a_commit(
    facts: dict[str, Any], now: Software, outdated: bool
) -> None:
    assert is_outdated({"facts": facts}, now) is outdated


def test_a_plan_has_another_pointer_for_what_is_outdated(tmp_path: Path) -> None:
    store = Store.open([str(tmp_path / "store")])

    def planned(now: Software) -> Path:
        plan = Plan(tmp_path / "results", store)
        return plan.add(
            "render_card",
            settings={},
            environment="sha256:tests",
            is_outdated=lambda manifest: is_outdated(manifest, now),
        ).pointer

    def make(pointer: Path, now: Software) -> None:
        def build(draft: Draft) -> None:
            (draft.folder / "README.md").write_text(str(now))
            draft.facts["made_by"] = now.record()

        remake(
            Output(pointer, store),
            stage="render_card",
            inputs={},
            settings={},
            environment="sha256:tests",
            build=build,
            is_outdated=lambda manifest: is_outdated(manifest, now),
        )

    changed, committed = Software("1", COMMIT, modified=True), Software("1", COMMIT)
    first = planned(changed)
    make(first, changed)
    assert planned(changed) == planned(Software("1")) == first
    second = planned(committed)
    assert second == first.with_name(f"{first.stem}-2.json")
    make(second, committed)
    # From here on that is the one, whatever is changed later.
    assert planned(committed) == planned(changed) == second
    assert Artifact.open(tmp_path / "results/render_card").facts["made_by"] == committed.record()
