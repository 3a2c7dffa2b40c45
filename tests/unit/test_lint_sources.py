"""Where lint reads from: folders with their links, and the hub within a budget of bytes."""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from checkpoints import header_bytes
from hostile import as_nobody
from hub_server import NO_PROXY, HubServer
from scion.artifacts.file_tree import FolderTree
from scion.checkpoint import folder_source as sources
from scion.checkpoint.folder_source import FolderSource, open_source
from scion.checkpoint.hub import http as hub_http
from scion.checkpoint.hub import source as hub_source
from scion.checkpoint.safetensors_file import Tensor
from scion.checkpoint.source import Source
from scion.common.errors import ScionError

PROJECT = Path(__file__).parents[2]
SHARD = "model.safetensors"


def write_shard(path: Path, tensors: Mapping[str, tuple[str, bytes]], *, room: int = 0) -> None:
    """Write tensors of one dimension; `room` bytes of metadata make the header longer."""
    entries: dict[str, Any] = {"__metadata__": {"room": "x" * room}} if room else {}
    data = b""
    for name, (dtype, raw) in tensors.items():
        shape = [] if dtype == "F32" else [len(raw)]
        offsets = [len(data), len(data) + len(raw)]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += raw
    path.write_bytes(header_bytes(entries) + data)


def scale(value: float) -> tuple[str, bytes]:
    return "F32", struct.pack("<f", value)


def scalars(source: Source, shard: str = SHARD) -> dict[str, bytes]:
    return source.small({shard: scalar_tensors(source, shard)})


def scalar_tensors(source: Source, shard: str) -> list[Tensor]:
    tensors = source.headers([shard])[shard].tensors.values()
    return [tensor for tensor in tensors if tensor.dtype == "F32"]


def read_all(source: Source) -> None:
    shards = [name for name in source.files if name.endswith(".safetensors")]
    source.headers(shards)
    for name in source.files:
        source.read(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    tensors = {"a": scale(1), "b": ("U8", bytes(1000)), "c": scale(2)}
    write_shard(made / SHARD, tensors)
    return made


# Folders


def test_a_folder_lists_its_top_and_reads_what_is_asked_for(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/more.json").write_text("{}")
    os.mkfifo(folder / "pipe.safetensors")
    source = open_source(str(folder))
    assert source.name == str(folder)
    assert source.folder == folder
    assert source.traffic is None
    assert source.files == {"config.json": 2, SHARD: (folder / SHARD).stat().st_size}
    assert source.read("config.json") == b"{}"
    assert list(source.headers([SHARD])[SHARD].tensors) == ["a", "b", "c"]
    assert scalars(source) == {"a": struct.pack("<f", 1), "c": struct.pack("<f", 2)}


def test_a_file_means_its_folder(folder: Path) -> None:
    assert open_source(str(folder / SHARD)).folder == folder


def test_a_file_beyond_the_bound_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1)
    assert open_source(str(folder)).read("config.json") is None


@pytest.mark.parametrize("name", ["absent.json", "sub", "pipe"])
def test_what_is_no_file_is_not_read(folder: Path, name: str) -> None:
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    with pytest.raises(ScionError, match="can't be read") as caught:
        open_source(str(folder)).read(name)
    assert caught.value.where == str(folder / name)


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "weights").mkdir()
    (folder / SHARD).rename(folder / "weights" / SHARD)
    (folder / SHARD).symlink_to(f"weights/{SHARD}")
    source = open_source(str(folder))
    assert source.files[SHARD] == (folder / "weights" / SHARD).stat().st_size
    assert len(scalars(source)) == 2


def test_a_folder_that_is_itself_a_link_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (folder / "again.safetensors").symlink_to(SHARD)
    source = open_source(str(tmp_path / "link"))
    assert set(source.files) == {"config.json", SHARD, "again.safetensors"}
    assert source.name == str(tmp_path / "link")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("../outside", "leaves the checkpoint's folder"),
        ("../absent", "leads nowhere"),
        ("config.json/absent", "leads nowhere"),
        (SHARD, "leads nowhere"),
    ],
)
def test_any_other_link_is_refused(folder: Path, target: str, problem: str) -> None:
    (folder.parent / "outside").write_text("secret")
    (folder / SHARD).unlink()
    (folder / SHARD).symlink_to(target)
    with pytest.raises(ScionError, match=problem) as caught:
        open_source(str(folder))
    assert caught.value.where == str(folder / SHARD)
    assert target.removeprefix("../") in caught.value.found


def test_a_link_to_a_folder_elsewhere_is_no_file(folder: Path, tmp_path: Path) -> None:
    (folder / "logs").symlink_to(tmp_path)
    assert "logs" not in open_source(str(folder)).files


@pytest.fixture
def cached(folder: Path, tmp_path: Path) -> Path:
    """The folder as a snapshot in the hub's cache."""
    repository = tmp_path / "hub/models--owner--name"
    snapshot = repository / "snapshots/0123"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, repository / f"blobs/{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(cached: Path) -> None:
    assert len(scalars(open_source(str(cached)))) == 2
    assert open_source(str(cached / "config.json")).read("config.json") == b"{}"


def test_a_snapshot_is_read_from_the_store_that_its_cache_shares(cached: Path) -> None:
    repository = cached.parents[1]
    shared = repository.with_name("blobs") / "0a"
    shared.mkdir(parents=True)
    for number, blob in enumerate(sorted((repository / "blobs").iterdir())):
        blob.rename(shared / f"0a{number}")
        blob.symlink_to(f"../../blobs/0a/0a{number}")
    assert len(scalars(open_source(str(cached)))) == 2
    assert FolderTree(cached).others == {}


def test_a_snapshot_may_not_lead_into_another_repository(cached: Path) -> None:
    other = cached.parents[2] / "models--owner--other/blobs/0"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    (cached / "other.json").symlink_to(other)
    with pytest.raises(ScionError, match="leaves the checkpoint's folder"):
        open_source(str(cached))


def test_only_the_caches_layout_may_lead_to_blobs(cached: Path) -> None:
    repository = cached.parents[1]
    repository.rename(repository.with_name("name"))
    with pytest.raises(ScionError, match="leaves the checkpoint's folder"):
        open_source(str(repository.with_name("name") / "snapshots/0123"))


@pytest.mark.parametrize("name", [SHARD, "tokenizer.json"])
def test_a_git_lfs_pointer_is_told(folder: Path, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (folder / name).write_text(pointer)
    source = open_source(str(folder))
    with pytest.raises(ScionError, match="Git LFS pointer") as caught:
        read_all(source)
    assert caught.value.hint == "git lfs pull"
    assert caught.value.where == str(folder / name)


def test_a_name_that_is_no_text_is_refused(folder: Path) -> None:
    Path(os.fsdecode(bytes(folder) + b"/\xff.safetensors")).touch()
    with pytest.raises(ScionError, match="no text") as caught:
        open_source(str(folder))
    assert r"\udcff" in caught.value.found


@pytest.mark.parametrize("what", ["", "config.json", SHARD])
def test_a_denied_permission_is_told(folder: Path, what: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        moved = Path(name) / "model"
        shutil.copytree(folder, moved)
        os.chmod(name, 0o755)
        os.chmod(moved / what, 0)
        with pytest.raises(ScionError, match="permission denied") as caught, as_nobody():
            read_all(open_source(str(moved)))
        os.chmod(moved / what, 0o755)
        assert caught.value.where == str(moved / what)
        assert "mode" in caught.value.hint


# What a word means


@pytest.mark.parametrize("text", ["absent", "./owner/name", "/owner/name", "a/b/c", "a b/c", ""])
def test_what_is_neither_path_nor_repository_is_told(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScionError, match="no such folder") as caught:
        open_source(text)
    assert "hf://owner/name" in caught.value.expected


@pytest.mark.parametrize(
    ("text", "revision", "problem"),
    [
        ("hf://datasets/owner/name", None, "data set is no checkpoint"),
        ("hf://owner", None, "not understood"),
        ("https://host/owner/name", None, "not understood"),
        ("hf://owner/name@v1", "v2", "does not go with the location"),
        (".", "main", "does not go with the location"),
    ],
)
def test_a_location_that_makes_no_sense_is_told(
    text: str, revision: str | None, problem: str
) -> None:
    with pytest.raises(ScionError, match=problem):
        open_source(text, revision=revision)


# The hub


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], HubServer]]:
    servers: list[HubServer] = []

    def start(folder: Path) -> HubServer:
        server = HubServer({"owner/model": folder}).__enter__()
        servers.append(server)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        return server

    monkeypatch.setattr(hub_http, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield start
    for server in servers:
        server.__exit__(None, None, None)


Serve = Callable[[Path], HubServer]


@pytest.mark.parametrize("text", ["hf://owner/model", "owner/model", "owner/model@main"])
def test_the_commit_that_is_read_is_named(serve: Serve, folder: Path, text: str) -> None:
    server = serve(folder)
    source = open_source(text)
    assert source.name == server.location("owner/model")
    assert source.folder is None
    assert source.files == {"config.json": 2, SHARD: (folder / SHARD).stat().st_size}


def test_a_revision_beside_the_name_is_read(serve: Serve, folder: Path) -> None:
    server = serve(folder)
    commit = server.commit("owner/model")
    server.repositories["owner/model"].revisions["v1"] = commit
    del server.repositories["owner/model"].revisions["main"]
    assert open_source("owner/model", revision="v1").name == f"hf://owner/model@{commit}"


def test_a_folder_goes_before_a_repository_of_the_same_name(
    serve: Serve, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(folder)
    shutil.copytree(folder, tmp_path / "owner/model")
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_source("owner/model"), FolderSource)
    assert server.requests == []


def test_a_name_that_is_nowhere_is_told_as_both(serve: Serve, folder: Path) -> None:
    serve(folder)
    with pytest.raises(ScionError, match="no such path here, and of the repository") as caught:
        open_source("results/release")
    assert "hf://results/release" in caught.value.where
    with pytest.raises(ScionError, match=r"^the repository does not exist"):
        open_source("hf://results/release")


def test_a_repository_reads_as_the_folder_does(serve: Serve, folder: Path) -> None:
    serve(folder)
    far, near = open_source("owner/model"), open_source(str(folder))
    assert far.read("config.json") == near.read("config.json")
    assert far.headers([SHARD]) == near.headers([SHARD])
    assert scalars(far) == scalars(near)


def test_only_what_is_small_is_read_whole(
    serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tokenizer.json").write_bytes(b" " * 100)
    server = serve(folder)
    monkeypatch.setattr(hub_source, "MAX_FILE_BYTES", 99)
    source = open_source("owner/model")
    before = len(server.requests)
    assert source.read("tokenizer.json") is None
    assert len(server.requests) == before
    assert source.read("config.json") == source.read("config.json") == b"{}"
    # The hub's answer, and where that leads to; the second time, nothing.
    assert len(server.requests) == before + 2


def moved(server: HubServer, source: Source) -> tuple[int, int]:
    """Requests and bytes so far; what the source says of them is what the server saw."""
    assert source.traffic is not None
    counted = source.traffic.requests, source.traffic.bytes_moved
    assert counted == (len(server.requests), server.sent())
    return counted


def test_a_header_and_what_lies_behind_it_take_one_range(serve: Serve, folder: Path) -> None:
    server = serve(folder)
    source = open_source("owner/model")
    before, _ = moved(server, source)
    assert len(scalars(source)) == 2
    after, _ = moved(server, source)
    assert after - before == 2


def test_a_long_header_takes_a_second_range_without_a_redirect(serve: Serve, folder: Path) -> None:
    write_shard(folder / SHARD, {"a": scale(1)}, room=hub_source.PREFIX_BYTES)
    server = serve(folder)
    source = open_source("owner/model")
    before, _ = moved(server, source)
    assert list(source.headers([SHARD])[SHARD].tensors) == ["a"]
    seen = [(request.server, request.authorization) for request in server.requests[before:]]
    assert seen == [("hub", "Bearer hf_secret"), ("cdn", None), ("cdn", None)]
    moved(server, source)


def test_scalars_that_lie_together_take_one_range_more(serve: Serve, folder: Path) -> None:
    far = {"far": ("U8", bytes(1 << 20)), "a": scale(1), "b": scale(2)}
    write_shard(folder / SHARD, far)
    server = serve(folder)
    source = open_source("owner/model")
    before, _ = moved(server, source)
    assert scalars(source) == {"a": struct.pack("<f", 1), "b": struct.pack("<f", 2)}
    after, _ = moved(server, source)
    assert after - before == 3
    assert server.requests[-1].sent == 8


def test_scattered_scalars_are_left_out(serve: Serve, folder: Path) -> None:
    many = {"near": scale(1), "x": ("U8", bytes(1 << 20)), "a": scale(2)}
    write_shard(folder / SHARD, {**many, "y": ("U8", bytes(1 << 20)), "b": scale(3)})
    server = serve(folder)
    source = open_source("owner/model")
    assert scalars(source) == {"near": struct.pack("<f", 1)}
    assert server.sent(SHARD) == hub_source.PREFIX_BYTES


def test_an_address_that_has_expired_is_asked_for_anew(serve: Serve, folder: Path) -> None:
    write_shard(folder / SHARD, {"a": scale(1)}, room=hub_source.PREFIX_BYTES)
    server = serve(folder)
    source = open_source("owner/model")
    reader = source._reader  # pyright: ignore[reportAttributeAccessIssue]
    reader.read(SHARD, 0, 8)
    before = len(server.requests)
    server.fail("signature", status=403)
    assert list(source.headers([SHARD])[SHARD].tensors) == ["a"]
    seen = [request.server for request in server.requests[before:]]
    assert seen == ["cdn", "hub", "cdn", "cdn"]


def test_a_cut_range_is_completed(serve: Serve, folder: Path) -> None:
    server = serve(folder)
    server.fail("signature", cut_after=10)
    assert len(scalars(open_source("owner/model"))) == 2


def test_a_hostile_header_on_the_hub_is_refused_with_its_place(serve: Serve, folder: Path) -> None:
    (folder / SHARD).write_bytes(struct.pack("<Q", 2**63) + b"{}")
    server = serve(folder)
    source = open_source("owner/model")
    with pytest.raises(ScionError, match="past the end") as caught:
        source.headers([SHARD])
    assert caught.value.where == f"{server.location('owner/model')}: {SHARD}"


@pytest.mark.parametrize("made", ["nvfp4", "source"])
def test_a_27b_release_costs_at_most_8_mb_and_3_requests_a_shard(
    made: str, serve: Serve, tmp_path: Path
) -> None:
    script = PROJECT / "bench/support/releases.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "made")], check=True)
    server = serve(tmp_path / "made" / made)
    source = open_source("owner/model")
    shards = [name for name in source.files if name.endswith(".safetensors")]
    assert len(shards) == 15
    source.headers(shards)
    wanted = {shard: scalar_tensors(source, shard) for shard in shards}
    assert len(source.small(wanted)) == sum(map(len, wanted.values()))
    texts = [name for name in source.files if name not in shards]
    assert [name for name in texts if source.read(name) is None] == ["tokenizer.json"]
    _, size = moved(server, source)
    assert size <= 8_000_000
    for shard in shards:
        assert sum(shard in request.path for request in server.requests) <= 3


# What it costs to start


def test_a_folder_is_read_without_heavy_imports(folder: Path) -> None:
    script = (
        "import json, sys\n"
        "from scion.checkpoint.folder_source import open_source\n"
        f"open_source({str(folder)!r}).headers([{SHARD!r}])\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    heavy = {"torch", "numpy", "transformers", "pydantic", "huggingface_hub", "httpx", "yaml"}
    assert heavy.isdisjoint(json.loads(done.stdout))
