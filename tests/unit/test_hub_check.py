"""`scion check hf://…`: a sealed release on a hub, through real HTTP, as it is and altered."""

import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from commands import check_refusal
from conversion import Pico
from hub_server import NO_PROXY, HubServer
from scion.artifacts.hub_tree import HubTree
from scion.artifacts.manifest import MANIFEST
from scion.artifacts.release_check import check_release
from scion.artifacts.release_layout import table_file
from scion.checkpoint.hub import http as hub_http
from scion.checkpoint.hub.location import HubRepository
from scion.cli.main import main
from scion.common.errors import ScionError
from tampering import (
    GRAFT,
    HEAD,
    SHARD,
    Change,
    added,
    copied,
    flipped,
    in_json,
    rehash,
    removed,
    replaced,
    reroot,
    told,
)

REPOSITORY = "owner/release"


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


@pytest.fixture
def scion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command `scion` in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["scion", *map(str, arguments)])
        status = main()
        told = capsys.readouterr()
        return Ran(status, told.out, told.err)

    return run


Serve = Callable[[Path], HubServer]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Serve]:
    """Serve a folder as `owner/release`."""
    servers: list[HubServer] = []

    def start(folder: Path) -> HubServer:
        server = HubServer({REPOSITORY: folder, "datasets/owner/data": folder}).__enter__()
        servers.append(server)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        return server

    monkeypatch.setattr(hub_http, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def folder(sealed_release: Path, tmp_path: Path) -> Path:
    """A copy of the release, as its publisher has it."""
    return shutil.copytree(sealed_release, tmp_path / "release")


@pytest.fixture
def hub(serve: Serve, sealed_release: Path) -> HubServer:
    return serve(sealed_release)


def flip(hub: HubServer, name: str) -> None:
    """Another last byte in a file of the repository; the hub's own record is of that."""
    files = hub.repositories[REPOSITORY].files
    content = files[name]
    files[name] = content[0 : len(content) - 1] + b"\0"


# A sound one


def test_a_release_is_read_once_and_not_kept(
    scion, serve: Serve, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    before = set(tmp_path.rglob("*"))
    hub = serve(folder)
    ran = scion("check", hub.location(REPOSITORY))
    assert (ran.status, ran.err) == (0, "")
    first, beside, weights, root = ran.out.splitlines()
    assert first.startswith(f"{hub.location(REPOSITORY)}: ")
    assert "files are what the manifests say" in first
    assert beside == "beside them, not read: .gitattributes"
    assert weights.startswith("weights: sha256:")
    assert root.startswith("root:    sha256:")
    assert set(tmp_path.rglob("*")) == before
    for path in folder.rglob("*"):
        if path.is_file():
            size = 0 if path.name == ".gitattributes" else path.stat().st_size
            name = str(path.relative_to(folder))
            # From the host of the large files, or by the hub's own address of the others.
            answered = [
                request.sent
                for request in hub.requests
                if f"/{name}" in request.path.split("?")[0] and request.sent
            ]
            assert answered == [size] * (size > 0), name


@pytest.mark.parametrize("revision", ["", "@main", "@v1"])
def test_the_commit_that_was_read_is_named(scion, hub: HubServer, revision: str) -> None:
    hub.repositories[REPOSITORY].revisions["v1"] = hub.commit(REPOSITORY)
    ran = scion("check", f"hf://{REPOSITORY}{revision}")
    assert ran.status == 0
    assert ran.out.startswith(f"{hub.location(REPOSITORY)}: ")


def test_a_folder_says_the_same(scion, hub: HubServer, sealed_release: Path) -> None:
    there, here = (scion("check", place) for place in (f"hf://{REPOSITORY}", sealed_release))
    assert there.out.replace(hub.location(REPOSITORY), str(sealed_release)) == here.out


def test_a_private_release_opens_to_its_token_which_stays_with_the_hub(
    scion, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[REPOSITORY].token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert scion("check", f"hf://{REPOSITORY}").status == 0
    assert {r.authorization for r in hub.requests if r.server == "hub"} == {"Bearer hf_secret"}
    assert {r.authorization for r in hub.requests if r.server == "cdn"} == {None}


def test_what_the_hubs_own_client_has_downloaded_is_sound(
    scion, serve: Serve, folder: Path, tmp_path: Path
) -> None:
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    hub = serve(folder)
    download = functools.partial(snapshot_download, REPOSITORY, endpoint=hub.endpoint, token=False)
    local = Path(download(local_dir=tmp_path / "local"))
    cached = Path(download(cache_dir=tmp_path / "cache"))
    assert (cached / SHARD).is_symlink()
    for place, beside in (
        (local, ".cache/huggingface/, .gitattributes"),
        (cached, ".gitattributes"),
    ):
        ran = scion("check", place)
        assert ran.status == 0, ran.err
        assert f"\nbeside them, not read: {beside}\n" in ran.out
    flipped(local / SHARD, -1, 0)
    ran = scion("check", local)
    assert ran.status == 1
    assert f"{SHARD}: expected " in ran.err


# An altered one


@pytest.mark.parametrize("name", [SHARD, HEAD, "README.md", "tokenizer.json", GRAFT, "SHA256SUMS"])
def test_a_byte_that_was_altered_on_the_hub_is_found(scion, hub: HubServer, name: str) -> None:
    flip(hub, name)
    ran = scion("check", f"hf://{REPOSITORY}")
    assert ran.status == 1
    check_refusal(ran.err, f"{name}: expected ", "the repository is not what its manifests say")
    assert str(hub.commit(REPOSITORY)) in ran.err


def test_a_byte_that_was_altered_on_its_way_is_found(scion, hub: HubServer) -> None:
    hub.fail(f"/{SHARD}/", wrong_bytes=True)
    ran = scion("check", f"hf://{REPOSITORY}")
    assert ran.status == 1
    assert f"{SHARD}: expected " in ran.err


@pytest.mark.parametrize("name", [SHARD, "README.md", GRAFT])
def test_a_file_that_is_missing_is_named(scion, hub: HubServer, name: str) -> None:
    del hub.repositories[REPOSITORY].files[name]
    ran = scion("check", f"hf://{REPOSITORY}")
    assert ran.status == 1
    assert f"{name}: missing" in ran.err


def test_a_file_of_another_size_is_not_moved(scion, hub: HubServer) -> None:
    files = hub.repositories[REPOSITORY].files
    size = len(files[SHARD])
    files[SHARD] = files[SHARD][0 : size - 1]
    ran = scion("check", f"hf://{REPOSITORY}")
    assert f"{SHARD}: expected {size} bytes, found {size - 1}" in ran.err
    assert hub.sent(f"/{SHARD}") == 0


ALTERED: dict[str, Change] = {
    "a command of the card": replaced("README.md", "vllm serve", "vllm  serve"),
    "one file more": added("pictures/more.svg"),
    "no shard": removed(SHARD),
    "a shard for another": copied(HEAD, SHARD),
    "no safetensors": added(SHARD, b"x" * 99),
    "one bit of the head": lambda folder: flipped(folder / HEAD, -1, 0),
    "the index": replaced("model.safetensors.index.json", SHARD, HEAD),
    "an index that is none": added("model.safetensors.index.json", b"{}"),
    "a tensor table that is none": added("tensors.json", b"[]"),
    "a table on the way": added(table_file("extract_text"), b"{}"),
    "the tokenizer": in_json("tokenizer.json", lambda value: {**value, "a": 1}),
}


# What is no text any more can't be mended further.
REROOTED = {
    **ALTERED,
    "a card in other bytes": added("README.md", b"\xff\xfe"),
    "a manifest that is none": added(GRAFT, b"{}"),
}


def told_of_hub(server: HubServer, folder: Path) -> list[str]:
    """What the check says of a folder's repository, in the words that it has for the folder."""
    tree = HubTree(HubRepository("model", REPOSITORY, None))
    assert tree.name == server.location(REPOSITORY)
    return [line.replace(tree.name, str(folder)) for line in check_release(tree)[1]]


@pytest.mark.parametrize("altered", REROOTED)
def test_what_is_found_in_a_folder_is_found_on_the_hub(
    altered: str, serve: Serve, folder: Path
) -> None:
    REROOTED[altered](folder)
    reroot(folder)
    found = told_of_hub(serve(folder), folder)
    assert found == told(folder)
    assert found


@pytest.mark.parametrize("altered", ALTERED)
def test_and_so_it_is_where_all_digests_were_written_anew(
    altered: str, serve: Serve, folder: Path
) -> None:
    ALTERED[altered](folder)
    rehash(folder)
    assert told_of_hub(serve(folder), folder) == told(folder)


def test_an_edited_manifest_is_refused(scion, serve: Serve, folder: Path) -> None:
    replaced(MANIFEST, '"stage": "', '"stage": "x')(folder)
    hub = serve(folder)
    ran = scion("check", f"hf://{REPOSITORY}")
    assert ran.status == 1
    check_refusal(ran.err, "digest is not that of its content", f"{hub.location(REPOSITORY)}/")


# What can't be read


def test_a_cut_connection_is_taken_up_where_it_ended(scion, hub: HubServer) -> None:
    hub.fail(f"/{SHARD}/", times=2, cut_after=1000)
    assert scion("check", f"hf://{REPOSITORY}").status == 0
    assert hub.sent(f"/{SHARD}/") == len(hub.repositories[REPOSITORY].files[SHARD])


def test_a_connection_that_is_cut_for_good_ends_the_check(scion, hub: HubServer) -> None:
    hub.fail(f"/{SHARD}/", times=1000, cut_after=0)
    ran = scion("check", f"hf://{REPOSITORY}")
    assert ran.status == 1
    check_refusal(ran.err, "the hub can't be reached", SHARD)
    assert ran.out == ""


def test_a_file_that_the_hub_lists_and_does_not_have_ends_the_check(scion, hub: HubServer) -> None:
    hub.fail(f"/resolve/{hub.commit(REPOSITORY)}/{SHARD}", times=1000, status=404)
    ran = scion("check", f"hf://{REPOSITORY}")
    assert ran.status == 1
    check_refusal(ran.err, SHARD)


def test_a_private_release_asks_for_a_login(scion, hub: HubServer) -> None:
    hub.repositories[REPOSITORY].token = "hf_secret"
    ran = scion("check", f"hf://{REPOSITORY}")
    assert ran.status == 1
    check_refusal(ran.err, f"hf://{REPOSITORY}", "hf auth login")


def test_a_repository_that_holds_no_release_is_told(scion, serve: Serve, pico: Pico) -> None:
    serve(pico.agent)
    ran = scion("check", f"hf://{REPOSITORY}")
    assert ran.status == 1
    check_refusal(ran.err, "no release that Scion has sealed", "manifest.json", "scion lint hf://")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hf://datasets/owner/data", "a data set"),
        ("hf://owner", "a location is not understood"),
        ("https://example.org/owner/name", "a location is not understood"),
        ("hf://owner/nobody", "hf auth login"),
        (f"hf://{REPOSITORY}@v9", "no such revision"),
    ],
)
def test_what_names_no_release_is_refused(scion, hub: HubServer, text: str, problem: str) -> None:
    ran = scion("check", text)
    assert ran.status == 1
    check_refusal(ran.err, problem)


def test_a_broken_listing_is_refused(hub: HubServer) -> None:
    hub.fail("/api/models/", body=b"{}")
    with pytest.raises(ScionError):
        HubTree(HubRepository("model", REPOSITORY, hub.commit(REPOSITORY)))
