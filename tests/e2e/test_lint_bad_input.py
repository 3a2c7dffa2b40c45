"""What can't be used, through `scion lint` itself: the finding, the exit code, time and memory."""

import json
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hostile import HOSTILE_HEADERS, HOSTILE_JSON, as_nobody, measured, write_shard
from hub_server import NO_PROXY, HubServer
from scion.checkpoint.hub import http as hub_http
from scion.cli import main as cli

PROJECT = Path(__file__).parents[2]
PICO = PROJECT / "resources/pico/pico-base"
SCION = str(Path(sys.executable).with_name("scion"))
SHARD = "model-00002-of-00003.safetensors"
FOUND, UNUSABLE = 1, 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(PICO, tmp_path / "model")


@dataclass(frozen=True)
class Linted:
    status: int
    findings: list[dict[str, Any]]


def lint(path: Path) -> Linted:
    """Run `scion lint`, and hold it to the bounds that no input may break."""
    report = path.with_name("report.json")
    done = measured([SCION, "lint", str(path), "--format", "json", "--output", str(report)])
    assert done.seconds < 30
    assert done.peak_mb < 1000
    assert done.errors == ""
    assert report.stat().st_size < 20_000
    return Linted(done.status, findings_of(report.read_text()))


def findings_of(report: str) -> list[dict[str, Any]]:
    (checkpoint,) = json.loads(report)["checkpoints"]
    return checkpoint["findings"]


def check(done: Linted, *texts: str, status: int = FOUND) -> None:
    """The findings of severity error are this fault alone, with these texts in them."""
    assert done.status == status, done
    faults = [finding for finding in done.findings if finding["severity"] == "error"]
    assert {fault["code"] for fault in faults} == {"F126" if status == FOUND else "F127"}
    told = [
        fault[key] for fault in faults for key in ("file", "subject", "expected", "found", "repair")
    ]
    for text in texts:
        assert text in " ".join(map(str, told)), told


# No checkpoint


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    check(
        lint(tmp_path), "not a checkpoint", "config.json at its top", "notes.txt", status=UNUSABLE
    )


def test_an_empty_folder(tmp_path: Path) -> None:
    check(lint(tmp_path), "not a checkpoint", "no file", status=UNUSABLE)


def test_no_such_folder(tmp_path: Path) -> None:
    check(lint(tmp_path / "absent"), "no such folder", str(tmp_path / "absent"), status=UNUSABLE)


def test_weights_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    check(lint(folder), "not a checkpoint", "config.json at its top", status=UNUSABLE)


def test_a_config_without_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    check(lint(folder), "not a checkpoint", "*.safetensors at its top", status=UNUSABLE)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "can't be read"),
        (b"{", "can't be read"),
        (b"\xff\xfe", "can't be read"),
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
    ],
)
def test_json_that_is_none(folder: Path, name: str, content: bytes, problem: str) -> None:
    (folder / name).write_bytes(content)
    check(lint(folder), f"{name} {problem}")


@pytest.mark.parametrize("made", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_a_config_that_is_a_bomb(folder: Path, made: Callable[[], bytes]) -> None:
    (folder / "config.json").write_bytes(made())
    check(lint(folder), "config.json can't be read")


def test_a_config_of_gigabytes(folder: Path) -> None:
    os.truncate(folder / "config.json", 1 << 33)
    check(lint(folder), "config.json is too large", str(1 << 33))


# Shards


@pytest.mark.parametrize("made", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_a_hostile_header(folder: Path, made: Callable[[], bytes]) -> None:
    write_shard(folder / SHARD, made())
    check(lint(folder), SHARD)


@pytest.mark.parametrize("length", [2**31, 2**63, 2**64 - 1])
def test_a_header_length_beyond_the_file(folder: Path, length: int) -> None:
    with (folder / SHARD).open("r+b") as file:
        file.write(struct.pack("<Q", length))
    check(lint(folder), "runs past the end", SHARD, str(length))


def test_a_header_length_beyond_the_bound_in_a_file_that_is_as_long(folder: Path) -> None:
    with (folder / SHARD).open("r+b") as file:
        file.write(struct.pack("<Q", 2**40))
        file.truncate(2**41)
    check(lint(folder), "at most 100000000 bytes", SHARD, str(2**40))


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_shard(folder: Path, size: int) -> None:
    os.truncate(folder / SHARD, size if size >= 0 else (folder / SHARD).stat().st_size - 1)
    check(lint(folder), SHARD, "fetch it again")


def test_a_git_lfs_pointer(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4211840\n"
    (folder / SHARD).write_text(pointer)
    check(lint(folder), "Git LFS pointer", SHARD, "git lfs pull")


# Links and permissions


def test_a_link_that_leaves_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / SHARD).rename(tmp_path / "elsewhere")
    (folder / SHARD).symlink_to(tmp_path / "elsewhere")
    target = f"a link to {tmp_path / 'elsewhere'}"
    check(lint(folder), "leaves the checkpoint's folder", SHARD, target, status=UNUSABLE)


def test_a_ring_of_links(folder: Path) -> None:
    (folder / "a.json").symlink_to("b.json")
    (folder / "b.json").symlink_to("a.json")
    check(lint(folder), "leads nowhere", "a.json", status=UNUSABLE)


def test_a_pipe_is_no_shard(folder: Path) -> None:
    (folder / SHARD).unlink()
    os.mkfifo(folder / SHARD)
    assert lint(folder).status == FOUND


# Called inside this process, where root's right to read everything can be given up, and the waits
# between tries can be shortened.


@pytest.fixture
def lint_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scion", "lint", *arguments])
        status = cli.main()
        out, errors = capsys.readouterr()
        return status, out, errors

    return call


LintHere = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("denied", ["", "config.json", SHARD])
def test_a_denied_permission(denied: str, lint_here: LintHere) -> None:
    # The folders of pytest are closed to others.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        moved = shutil.copytree(PICO, Path(name) / "model")
        # It also imports what nobody might not be allowed to.
        assert lint_here(str(moved), "--ignore", "T")[0] == 0
        os.chmod(moved / denied, 0)
        with as_nobody():
            status, out, errors = lint_here(str(moved), "--format", "json", "--ignore", "T")
        os.chmod(moved / denied, 0o755)
    assert errors == ""
    expected = FOUND if denied else UNUSABLE
    check(Linted(status, findings_of(out)), "permission denied", status=expected)


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(hub_http, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.chdir(tmp_path)
    with HubServer({"owner/model": folder}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def test_a_repository_is_judged_without_its_weights(hub: HubServer, lint_here: LintHere) -> None:
    status, out, errors = lint_here("owner/model", "--format", "json")
    assert (status, errors) == (0, "")
    assert hub.location("owner/model") in out
    assert json.loads(out)
    assert sum(request.sent for request in hub.requests) < 1_000_000


@pytest.mark.parametrize(
    ("match", "fault", "texts"),
    [
        ("/api/models", {"status": 401}, ("refuses the token", "hf auth login")),
        ("/api/models", {"status": 404}, ("does not have what was asked for",)),
        ("/api/models", {"status": 429}, ("limits how often", "hf auth login")),
        ("/api/models", {"status": 503}, ("failed to answer", "status 503")),
        ("/api/models", {"cut_after": 20}, ("can't be reached",)),
        ("/api/models", {"body": b"<html>"}, ("answer can't be used", "proxy")),
        ("config.json", {"status": 404}, ("does not have what was asked for", "config.json")),
        ("config.json", {"status": 503}, ("failed to answer", "config.json")),
        (SHARD, {"status": 403}, ("refuses the token", SHARD)),
        (SHARD, {"status": 500}, ("failed to answer", SHARD)),
        ("signature", {"cut_after": 0}, ("can't be reached", ".safetensors")),
        ("signature", {"ignore_range": True}, ("did not send the range", ".safetensors")),
        ("signature", {"shift_range": True}, ("did not send the range", ".safetensors")),
        ("signature", {"wrong_bytes": True}, ("runs past the end", ".safetensors")),
    ],
)
def test_a_lasting_fault_of_the_hub(
    match: str,
    fault: dict[str, object],
    texts: tuple[str, ...],
    hub: HubServer,
    lint_here: LintHere,
) -> None:
    hub.fail(match, times=999, **fault)
    status, out, _ = lint_here("hf://owner/model", "--format", "json")
    # An answer that came, but is no safetensors header, is a fault of the file.
    expected = FOUND if fault == {"wrong_bytes": True} else UNUSABLE
    check(Linted(status, findings_of(out)), *texts, status=expected)


@pytest.mark.parametrize("match", ["/api/models", "config.json", "signature"])
@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"cut_after": 20}])
def test_a_passing_fault_of_the_hub(
    match: str, fault: dict[str, int], hub: HubServer, lint_here: LintHere
) -> None:
    hub.fail(match, times=2, **fault)
    status, _, errors = lint_here("hf://owner/model")
    assert (status, errors) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("owner/absent",), ("no such path here, and of the repository", "hf auth login")),
        (("hf://owner/absent",), ("does not exist", "a model named owner/absent")),
        (("hf://owner/model@v9",), ("no such revision", "revision v9")),
        (("hf://owner/model", "--revision", "v9"), ("no such revision", "revision v9")),
        (("hf://owner",), ("not understood",)),
    ],
)
def test_a_repository_that_is_not_there(
    arguments: tuple[str, ...], texts: tuple[str, ...], hub: HubServer, lint_here: LintHere
) -> None:
    status, out, _ = lint_here(*arguments, "--format", "json")
    check(Linted(status, findings_of(out)), *texts, status=UNUSABLE)


def test_a_repository_that_needs_another_token(hub: HubServer, lint_here: LintHere) -> None:
    hub.repositories["owner/model"].token = "hf_another"
    hub.repositories["owner/model"].gated = True
    status, out, _ = lint_here("hf://owner/model", "--format", "json")
    check(Linted(status, findings_of(out)), "gated", "hf auth login", status=UNUSABLE)


def test_a_hostile_header_on_the_hub(hub: HubServer, lint_here: LintHere) -> None:
    hub.repositories["owner/model"].files[SHARD] = struct.pack("<Q", 2**63) + b"{}"
    status, out, _ = lint_here("hf://owner/model", "--format", "json")
    check(Linted(status, findings_of(out)), "runs past the end", SHARD)
