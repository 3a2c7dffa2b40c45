"""How whole files come from the hub: by Xet, from the user's cache, several at once; and locks."""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants

from checkpoints import half_made
from conversion import ENVIRONMENT, Conversion, Pico
from hub_repository import Content, Repository
from hub_server import NO_PROXY, HubServer
from scion.artifacts.making import Output
from scion.checkpoint.hub import client as hub_client
from scion.checkpoint.hub import http as hub_http
from scion.checkpoint.hub.client import HubRepository, download_files, list_files
from scion.checkpoint.hub.lock import lock_of, read_lock
from scion.checkpoint.hub.lock_check import require_bytes, require_locked
from scion.checkpoint.release_files import released
from scion.cli.pin import pin_config
from scion.common.errors import ScionError
from scion.stages.fetch_donor import fetch_donor
from scion.stages.fetch_source import fetch_source

NAME, SHARD = "owner/agent", "model-00001-of-00003.safetensors"


@pytest.fixture
def hub(
    pico: Pico, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubServer]:
    """A hub that keeps large files by Xet, and a cache of the user's that is empty."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(hub_http, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    with HubServer({"owner/base": pico.base}, xet=folder / "xet") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        upload(server, NAME, pico.agent)
        server.requests.clear()
        yield server


def upload(server: HubServer, name: str, folder: Path) -> None:
    """Let the hub's own client store a folder."""
    api = HfApi(endpoint=server.endpoint, token=server.write_token)
    api.create_repo(name)
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    added = [CommitOperationAdd(path.name, str(path)) for path in files]
    api.create_commit(name, added, commit_message="all of it")


def at_head(server: HubServer) -> HubRepository:
    return HubRepository("model", NAME, server.commit(NAME))


def large(server: HubServer) -> int:
    """Bytes of large files that came over HTTP."""
    return sum(request.sent for request in server.requests if request.server == "cdn")


def test_large_files_come_by_xet(hub: HubServer, pico: Pico, tmp_path: Path) -> None:
    repository = at_head(hub)
    arrived: dict[str, int] = {}
    lock = threading.Lock()

    def progress(name: str, size: int) -> None:
        with lock:
            arrived[name] = arrived.get(name, 0) + size

    names = released(list_files(repository))
    moved = download_files(repository, names, tmp_path / "out", progress=progress)
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (pico.agent / name).read_bytes()
    assert large(hub) == 0
    sizes = {name: (pico.agent / name).stat().st_size for name in names}
    assert arrived == {name: size for name, size in sizes.items() if size}
    # What Xet's storage sends is compressed, at most what the files have.
    assert sum(sizes.values()) / 3 < moved <= sum(sizes.values()) * 1.02
    # Nothing but the files is left.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_without_xet_they_come_over_http(
    hub: HubServer, pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    moved = download_files(at_head(hub), [SHARD], tmp_path)
    assert moved == large(hub) == (pico.agent / SHARD).stat().st_size


def test_what_xets_client_gives_up_comes_over_http(
    hub: HubServer, pico: Pico, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fail("/xet-read-token/", times=99, status=403)
    download_files(at_head(hub), [SHARD], tmp_path)
    assert (tmp_path / SHARD).read_bytes() == (pico.agent / SHARD).read_bytes()
    assert large(hub) == (pico.agent / SHARD).stat().st_size
    assert "Xet's client gave up" in capsys.readouterr().err


def test_the_users_cache_is_taken_from(hub: HubServer, pico: Pico, tmp_path: Path) -> None:
    repository = at_head(hub)
    api = HfApi(endpoint=hub.endpoint, token=hub.write_token)
    api.hf_hub_download(NAME, SHARD, revision=repository.revision)
    hub.requests.clear()
    assert download_files(repository, [SHARD], tmp_path) == 0
    assert (tmp_path / SHARD).read_bytes() == (pico.agent / SHARD).read_bytes()
    # The listing alone.
    assert all(request.path.startswith("/api/models/") for request in hub.requests)


def test_a_cache_that_was_altered_is_not_taken_from(
    hub: HubServer, pico: Pico, tmp_path: Path
) -> None:
    repository = at_head(hub)
    api = HfApi(endpoint=hub.endpoint, token=hub.write_token)
    cached = Path(api.hf_hub_download(NAME, SHARD, revision=repository.revision)).resolve()
    altered = bytearray(cached.read_bytes())
    altered[-1] ^= 1
    cached.write_bytes(altered)
    assert download_files(repository, [SHARD], tmp_path) > 0
    assert (tmp_path / SHARD).read_bytes() == (pico.agent / SHARD).read_bytes()


def test_several_files_come_at_once(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # Neither is answered before both were asked for.
    together = threading.Barrier(2, timeout=30)
    sound = hub.blob

    def waiting(digest: str) -> object:
        together.wait()
        return sound(digest)

    monkeypatch.setattr(hub, "blob", waiting)
    names = [SHARD, SHARD.replace("00001", "00002")]
    download_files(at_head(hub), names, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_one_that_fails_ends_the_others(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub_client, "_FILES_AT_ONCE", 1)
    hub.fail(SHARD, times=99, status=503)
    names = [SHARD, SHARD.replace("00001", "00002")]
    with pytest.raises(ScionError, match="failed to answer"):
        download_files(at_head(hub), names, tmp_path)
    assert not any(name.endswith(".safetensors") for name in (p.name for p in tmp_path.iterdir()))


# Locks


@pytest.fixture
def config(hub: HubServer, tmp_path: Path) -> Path:
    path = tmp_path / "release.yaml"
    path.write_text(f"source: hf://{NAME}\ndonor: hf://owner/base\n")
    pin_config(path, report=lambda _: None)
    return path


def test_pin_locks_size_and_digest_of_every_file(hub: HubServer, config: Path, pico: Pico) -> None:
    lock = read_lock(lock_of(config))
    assert set(lock) == {hub.location(NAME), hub.location("owner/base")}
    for location, folder in ((NAME, pico.agent), ("owner/base", pico.base)):
        for name, file in lock[hub.location(location)].items():
            if name == ".gitattributes":
                continue
            content = (folder / name).read_bytes()
            assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    # Of large files nothing was moved.
    assert large(hub) == 0
    # What is locked is asked for no more; what the file no longer names goes.
    asked = len(hub.requests)
    assert pin_config(config, report=lambda _: None) == []
    assert len(hub.requests) == asked
    config.write_text(config.read_text().split("donor")[0])
    pin_config(config, report=lambda _: None)
    assert set(read_lock(lock_of(config))) == {hub.location(NAME)}


def test_a_hub_that_fails_while_files_are_locked_leaves_the_configuration(
    hub: HubServer, tmp_path: Path
) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(f"source: hf://{NAME}\n")
    hub.fail("/resolve/", times=99, status=503)
    with pytest.raises(ScionError, match="failed to answer"):
        pin_config(path, report=lambda _: None)
    assert path.read_text() == f"source: hf://{NAME}\n"
    assert not lock_of(path).exists()


def test_what_is_locked_is_what_the_hub_lists(hub: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(f"source: hf://{NAME}\n")
    hub.fail("/resolve-cache/", times=99, wrong_bytes=True)
    with pytest.raises(ScionError, match="not what the hub lists"):
        pin_config(path, report=lambda _: None)
    assert not lock_of(path).exists()


def test_the_lock_of_a_link_lies_beside_the_file(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.yaml").write_text(f"source: hf://{NAME}\n")
    (tmp_path / "link.yaml").symlink_to("real/x.yaml")
    lines: list[str] = []
    pin_config(tmp_path / "link.yaml", report=lines.append)
    lock = tmp_path / "real/x.lock.json"
    assert lock.is_file()
    assert lines[-1].startswith(f"{lock}: locked ")
    assert lock_of(tmp_path / "link.yaml") == lock


def test_a_locked_source_is_fetched(
    hub: HubServer, config: Path, conversion: Conversion, tmp_path: Path
) -> None:
    lock, location = read_lock(lock_of(config)), hub.location(NAME)
    made = fetch_source(
        location=location,
        output=Output.at(tmp_path / "out"),
        environment=ENVIRONMENT,
        locked=lock[location],
    )
    assert made.tensors() == conversion.fetch_source.tensors()


def change(files: dict[str, Content], name: str) -> None:
    """Other content, and the same size."""
    data = files[name]
    assert isinstance(data, bytes)
    files[name] = data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("name", [SHARD, "config.json", "tokenizer.json"])
def test_a_file_that_changed_under_a_pinned_commit_is_refused(
    name: str, hub: HubServer, config: Path, tmp_path: Path
) -> None:
    lock, location = read_lock(lock_of(config)), hub.location(NAME)
    repository = hub.repositories[NAME]
    change(repository.history[repository.commit], name)
    with pytest.raises(ScionError, match="not what it was") as caught:
        fetch_source(
            location=location,
            output=Output.at(tmp_path / "out"),
            environment=ENVIRONMENT,
            locked=lock[location],
        )
    assert caught.value.where == f"{location}: {name}"
    assert large(hub) == 0
    assert half_made(tmp_path) == []


def test_a_donor_that_changed_under_a_pinned_commit_is_refused(
    hub: HubServer, config: Path, tmp_path: Path
) -> None:
    lock, location = read_lock(lock_of(config)), hub.location("owner/base")
    repository = hub.repositories["owner/base"]
    repository.history[repository.commit]["another.json"] = b"{}"
    with pytest.raises(ScionError, match="not what it was") as caught:
        fetch_donor(
            location=location,
            output=Output.at(tmp_path / "out"),
            environment=ENVIRONMENT,
            locked=lock[location],
        )
    assert (caught.value.expected, caught.value.where) == (
        "no such file",
        f"{location}: another.json",
    )


def test_a_lock_holds_for_what_an_earlier_run_has_fetched(
    hub: HubServer, config: Path, tmp_path: Path
) -> None:
    location = hub.location(NAME)
    fetch_source(location=location, output=Output.at(tmp_path / "out"), environment=ENVIRONMENT)
    path = lock_of(config)
    content = json.loads(path.read_text())
    content["repositories"][location]["config.json"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(ScionError, match="not the one that was pinned"):
        fetch_source(
            location=location,
            output=Output.at(tmp_path / "out"),
            environment=ENVIRONMENT,
            locked=read_lock(path)[location],
        )


def test_a_revision_that_vanished_is_told(hub: HubServer, config: Path, tmp_path: Path) -> None:
    lock, location = read_lock(lock_of(config)), hub.location(NAME)
    hub.repositories[NAME] = Repository({})
    with pytest.raises(ScionError, match="no such revision"):
        fetch_source(
            location=location,
            output=Output.at(tmp_path / "out"),
            environment=ENVIRONMENT,
            locked=lock[location],
        )


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"version": 2}', '{"version": 1, "repositories": []}'),
        '{"version": 1, "repositories": {"a": {"b": {"size": 1}}}}',
        '{"version": 1, "repositories": {"a": {"b": {"size": "x", "sha256": 5, "git_blob": []}}}}',
    ],
)
def test_what_is_no_lock_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.lock.json"
    path.write_text(text)
    with pytest.raises(ScionError) as caught:
        read_lock(path)
    assert caught.value.hint.endswith(f"or remove it and: scion pin {tmp_path / 'x.yaml'}")


def test_a_locked_file_is_known_by_its_bytes(hub: HubServer, config: Path) -> None:
    location = hub.location(NAME)
    locked = read_lock(lock_of(config))[location]
    require_locked(at_head(hub), locked)
    require_bytes(at_head(hub), SHARD, locked[SHARD].sha256, locked)
    for name, digest in ((SHARD, "0" * 64), ("other.json", locked[SHARD].sha256)):
        with pytest.raises(ScionError, match="not the one that was pinned"):
            require_bytes(at_head(hub), name, digest, locked)
