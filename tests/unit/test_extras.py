"""What is said where a module of an extra is missing, and what to type then."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scion.common import errors
from scion.common.extras import MissingExtraError, extras_told, install_command

Installed = Callable[..., Path]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Let Scion be installed from somewhere, by somebody."""

    def install(origin: dict[str, Any] | None, installer: str = "pip", note: str = "") -> Path:
        # What an installer leaves, found before what this environment has.
        package = tmp_path / "modules/scion-0.1.0.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text("Metadata-Version: 2.4\nName: scion\nVersion: 0.1.0\n")
        (package / "INSTALLER").write_text(f"{installer}\n")
        if origin is not None:
            (package / "direct_url.json").write_text(json.dumps(origin))
        monkeypatch.syspath_prepend(str(package.parent))
        prefix = tmp_path / "environment"
        prefix.mkdir()
        if note:
            (prefix / note).touch()
        monkeypatch.setattr(sys, "prefix", str(prefix))
        monkeypatch.setattr(sys, "executable", str(prefix / "bin/my python"))
        return prefix

    return install


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (None, "scion[hub]"),
        ({"url": "file:///home/me/scion", "dir_info": {}}, "scion[hub] @ file:///home/me/scion"),
        (
            {"url": "file:///tmp/scion-0.1.0-py3-none-any.whl", "archive_info": {}},
            "scion[hub] @ file:///tmp/scion-0.1.0-py3-none-any.whl",
        ),
        (
            {
                "url": "https://git.example/scion.git",
                "vcs_info": {"vcs": "git", "commit_id": COMMIT, "requested_revision": "v1"},
            },
            f"scion[hub] @ git+https://git.example/scion.git@{COMMIT}",
        ),
        (
            {
                "url": "https://git.example/all.git",
                "vcs_info": {"vcs": "git", "commit_id": COMMIT},
                "subdirectory": "tools/scion",
            },
            f"scion[hub] @ git+https://git.example/all.git@{COMMIT}#subdirectory=tools/scion",
        ),
    ],
)
def test_it_is_installed_again_from_where_it_came(
    origin: dict[str, Any] | None, requirement: str, installed: Installed
) -> None:
    installed(origin, note="uv-receipt.toml")
    assert shlex.split(install_command("hub")) == ["uv", "tool", "install", requirement]


@pytest.mark.parametrize(
    ("installer", "note", "words"),
    [
        ("uv", "uv-receipt.toml", ["uv", "tool", "install"]),
        ("pip", "pipx_metadata.json", ["pipx", "install", "--force"]),
        ("uv", "", ["uv", "pip", "install", "--python", "PYTHON"]),
        ("pip", "", ["PYTHON", "-m", "pip", "install"]),
    ],
)
def test_it_is_installed_again_by_what_installed_it(
    installer: str, note: str, words: list[str], installed: Installed
) -> None:
    prefix = installed(None, installer, note)
    python = str(prefix / "bin/my python")
    wanted = [python if word == "PYTHON" else word for word in words]
    assert shlex.split(install_command("workflow")) == [*wanted, "scion[workflow]"]


def test_in_a_checkout_it_is_set_up(installed: Installed) -> None:
    installed({"url": "file:///home/me/scion", "dir_info": {"editable": True}}, "uv")
    assert install_command("workflow").startswith("make setup")


def test_a_missing_module_of_an_extra_is_told() -> None:
    with (
        pytest.raises(MissingExtraError, match="needs scion's extra `hub`") as caught,
        extras_told(),
    ):
        raise ModuleNotFoundError("No module named 'httpx'", name="httpx")
    assert caught.value.expected == "the module httpx"
    assert isinstance(caught.value, errors.ScionError)


def test_a_part_of_a_namespace_that_others_made_is_told() -> None:
    with pytest.raises(MissingExtraError, match="needs scion's extra `attest`"), extras_told():
        raise ModuleNotFoundError("No module", name="google.protobuf.json_format")


@pytest.mark.parametrize("name", ["scion.nothing", "unheard_of", "torch.nothing", None])
def test_any_other_missing_module_is_a_fault_of_the_code(name: str | None) -> None:
    with pytest.raises(ModuleNotFoundError), extras_told():
        raise ModuleNotFoundError("No module", name=name)
