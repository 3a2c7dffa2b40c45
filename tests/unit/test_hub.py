"""The hub code against a real server: downloads, ranges, pins, and every refusal."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from hub_server import NO_PROXY, HubServer, sha256
from scion.checkpoint.hub import client as hub
from scion.checkpoint.hub import http as hub_http
from scion.checkpoint.hub.client import HubRepository, LocalFolder, RangeReader, parse_location
from scion.checkpoint.hub.lock import lock_of
from scion.cli.pin import pin_all, pin_config
from scion.common.errors import ScionError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 4096
CONFIG = b'{"hidden_size": 64}\n'


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    model, data = tmp_path / "remote/model", tmp_path / "remote/data"
    for folder in (model / "sub", data):
        folder.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(WEIGHTS)
    (model / "config.json").write_bytes(CONFIG)
    (model / "sub/empty.txt").touch()
    (data / "train.jsonl").write_text('{"text": "x"}\n')
    monkeypatch.setattr(hub_http, "RETRY_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with HubServer({"owner/model": model, "datasets/owner/data": data}) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.endpoint)
        yield started


@pytest.fixture
def model(server: HubServer) -> HubRepository:
    return repository(server.location("owner/model"))


def repository(text: str) -> HubRepository:
    location = parse_location(text)
    assert isinstance(location, HubRepository)
    return location


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Locations


def test_a_path_is_a_local_folder() -> None:
    assert parse_location("resources/pico") == LocalFolder(Path("resources/pico"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"hf://owner/name@{COMMIT}", HubRepository("model", "owner/name", COMMIT)),
        ("hf://owner/na.me_2", HubRepository("model", "owner/na.me_2", None)),
        ("hf://owner/name@refs/pr/1", HubRepository("model", "owner/name", "refs/pr/1")),
        ("hf://datasets/owner/name@main", HubRepository("dataset", "owner/name", "main")),
    ],
)
def test_a_location_round_trips(text: str, expected: HubRepository) -> None:
    assert parse_location(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "hf://name",
        "hf://datasets/name@main",
        "hf://owner/name/more",
        "hf://owner/name@",
        "hf://owner/name@a b",
        "hf://../name",
        "https://host/owner/name",
    ],
)
def test_an_unknown_location_is_refused(text: str) -> None:
    with pytest.raises(ScionError, match="not understood") as caught:
        parse_location(text)
    assert text in caught.value.where
    assert "hf://owner/name@commit" in caught.value.expected


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", "@0123456", f"@{COMMIT.upper()}"])
def test_an_unpinned_location_names_the_command_that_pins(revision: str) -> None:
    unpinned = repository(f"hf://owner/name{revision}")
    with pytest.raises(ScionError, match="not pinned") as caught:
        unpinned.require_pinned("config/releases/x.yaml")
    assert caught.value.hint == "scion pin config/releases/x.yaml"
    assert caught.value.where == str(unpinned)


@pytest.mark.parametrize("action", ["list", "download", "range"])
def test_nothing_is_read_of_an_unpinned_repository(
    action: str, server: HubServer, tmp_path: Path
) -> None:
    unpinned = repository("hf://owner/model@main")
    actions = {
        "list": lambda: hub.list_files(unpinned),
        "download": lambda: hub.download_files(unpinned, ["config.json"], tmp_path / "out"),
        "range": lambda: hub.read_range(unpinned, "config.json", 0, 1),
    }
    with pytest.raises(ScionError, match="not pinned"):
        actions[action]()
    assert server.requests == []
    assert not (tmp_path / "out").exists()


# Whole files


def test_the_listing_has_sizes_and_digests(model: HubRepository) -> None:
    files = hub.list_files(model)
    assert sorted(files) == ["config.json", "model.safetensors", "sub/empty.txt"]
    assert files["model.safetensors"].size == len(WEIGHTS)
    assert files["model.safetensors"].sha256 == sha256(WEIGHTS)
    assert files["model.safetensors"].git_blob is None
    assert files["config.json"].sha256 is None
    # What `git hash-object` says of them.
    assert files["config.json"].git_blob == "8acaf46d2c3ef03d912280a1fee1c8dc4e9bec2d"
    assert files["sub/empty.txt"].git_blob == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_files_are_downloaded_as_they_are(model: HubRepository, tmp_path: Path) -> None:
    arrived: dict[str, int] = {}

    def progress(name: str, size: int) -> None:
        arrived[name] = arrived.get(name, 0) + size

    moved = hub.download_files(model, hub.list_files(model), tmp_path / "out", progress=progress)
    assert (tmp_path / "out/model.safetensors").read_bytes() == WEIGHTS
    assert (tmp_path / "out/config.json").read_bytes() == CONFIG
    assert names_below(tmp_path / "out") == {"config.json", "model.safetensors", "sub/empty.txt"}
    assert moved == len(WEIGHTS) + len(CONFIG)
    assert arrived == {"model.safetensors": len(WEIGHTS), "config.json": len(CONFIG)}


def test_a_right_file_is_not_moved_again_and_a_wrong_one_is(
    model: HubRepository, tmp_path: Path
) -> None:
    names = ["model.safetensors", "config.json"]
    hub.download_files(model, names, tmp_path)
    assert hub.download_files(model, names, tmp_path) == 0
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS[::-1])
    assert hub.download_files(model, names, tmp_path) == len(WEIGHTS)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_cut_connection_is_taken_up_where_it_ended(
    server: HubServer, model: HubRepository, tmp_path: Path
) -> None:
    server.fail("model.safetensors/", times=2, cut_after=300_000)
    moved = hub.download_files(model, ["model.safetensors"], tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    assert moved == len(WEIGHTS) == server.sent("model.safetensors/")
    ranges = [request.range for request in server.requests if request.server == "cdn"]
    starts = [int(str(asked).removeprefix("bytes=").split("-")[0]) for asked in ranges]
    assert starts == [0, 300_000, 600_000]


def test_the_next_run_resumes_what_a_failed_one_has_got(
    server: HubServer, model: HubRepository, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    server.fail("model.safetensors/", cut_after=700_000)
    server.fail("model.safetensors/", times=4, status=503)
    with pytest.raises(ScionError, match="failed to answer") as caught:
        hub.download_files(model, ["model.safetensors"], out)
    assert "goes on where it stopped" in caught.value.hint
    assert not (out / "model.safetensors").exists()
    assert hub.download_files(model, ["model.safetensors"], out) == len(WEIGHTS) - 700_000
    assert names_below(out) == {"model.safetensors"}
    assert (out / "model.safetensors").read_bytes() == WEIGHTS


def test_a_part_that_is_longer_than_the_file_is_started_anew(
    model: HubRepository, tmp_path: Path
) -> None:
    part = tmp_path / f".model.safetensors.{sha256(WEIGHTS)[:12]}.part"
    part.write_bytes(WEIGHTS + b"x")
    assert hub.download_files(model, ["model.safetensors"], tmp_path) == len(WEIGHTS)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    assert not part.exists()


def test_a_server_without_ranges_still_completes_a_download(
    server: HubServer, model: HubRepository, tmp_path: Path
) -> None:
    server.fail("model.safetensors/", cut_after=300_000)
    server.fail("model.safetensors/", ignore_range=True)
    hub.download_files(model, ["model.safetensors"], tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("name", "path", "recorded"),
    [
        ("model.safetensors", "model.safetensors/", f"SHA-256 {sha256(WEIGHTS)}"),
        ("config.json", "resolve-cache", "git blob "),
    ],
)
def test_wrong_bytes_are_refused_and_removed(
    name: str, path: str, recorded: str, server: HubServer, model: HubRepository, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    server.fail(path, wrong_bytes=True)
    with pytest.raises(ScionError, match="not what the hub records") as caught:
        hub.download_files(model, [name], out)
    assert caught.value.where == f"{model}: {name}"
    assert caught.value.expected.startswith(recorded)
    assert caught.value.found not in caught.value.expected
    assert names_below(out) == set()
    hub.download_files(model, [name], out)
    assert names_below(out) == {name}


def test_wrong_bytes_leave_an_earlier_file_alone(
    server: HubServer, model: HubRepository, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("earlier")
    server.fail("resolve-cache", wrong_bytes=True)
    with pytest.raises(ScionError):
        hub.download_files(model, ["config.json"], tmp_path)
    assert (tmp_path / "config.json").read_text() == "earlier"


def test_a_name_that_leaves_the_repository_is_refused(
    server: HubServer, model: HubRepository, tmp_path: Path
) -> None:
    files = server.repositories["owner/model"].files
    files["../outside.txt"] = b"x"
    with pytest.raises(ScionError, match="can't be used") as caught:
        hub.download_files(model, ["../outside.txt"], tmp_path / "out")
    assert "../outside.txt" in caught.value.found
    assert not (tmp_path / "outside.txt").exists()


def test_an_unlisted_file_is_refused(model: HubRepository, tmp_path: Path) -> None:
    with pytest.raises(ScionError, match="no such file") as caught:
        hub.download_files(model, ["absent.json"], tmp_path / "out")
    assert caught.value.expected == "absent.json"
    assert "config.json" in caught.value.found
    assert not (tmp_path / "out").exists()


# Ranges


def test_ranges_move_only_their_bytes(server: HubServer, model: HubRepository) -> None:
    reader = RangeReader(model)
    assert reader.read("model.safetensors", 0, 8) == WEIGHTS[:8]
    assert reader.read("model.safetensors", 1000, 50_000) == WEIGHTS[1000:51_000]
    assert reader.read("model.safetensors", len(WEIGHTS) - 3, 3) == WEIGHTS[-3:]
    assert reader.read("config.json", 2, 6) == CONFIG[2:8]
    assert reader.read("config.json", 5, 0) == b""
    assert reader.bytes_moved == 8 + 50_000 + 3 + 6
    content = server.sent() - server.sent("/api/models")
    assert content == reader.bytes_moved


def test_one_range_needs_no_listing(server: HubServer, model: HubRepository) -> None:
    assert hub.read_range(model, "model.safetensors", 300, 10) == WEIGHTS[300:310]
    assert [request.server for request in server.requests] == ["hub", "cdn"]


def test_a_cut_range_is_completed_without_moving_bytes_twice(
    server: HubServer, model: HubRepository
) -> None:
    reader = RangeReader(model)
    server.fail("model.safetensors/", cut_after=100)
    assert reader.read("model.safetensors", 50, 1000) == WEIGHTS[50:1050]
    assert reader.bytes_moved == 1000 == server.sent("model.safetensors/")


@pytest.mark.parametrize("fault", ["ignore_range", "shift_range"])
def test_another_range_than_asked_for_is_refused(
    fault: str, server: HubServer, model: HubRepository
) -> None:
    reader = RangeReader(model)
    server.fail("model.safetensors/", **{fault: True})
    with pytest.raises(ScionError, match="did not send the range") as caught:
        reader.read("model.safetensors", 10, 5)
    assert caught.value.expected.endswith(f"bytes 10-14/{len(WEIGHTS)}")
    status = "200" if fault == "ignore_range" else "206"
    assert caught.value.found.startswith(f"status {status}")


def test_a_whole_file_may_come_without_a_range(server: HubServer, model: HubRepository) -> None:
    server.fail("resolve-cache", ignore_range=True)
    assert RangeReader(model).read("config.json", 0, len(CONFIG)) == CONFIG


def test_a_range_past_the_end_is_refused(server: HubServer, model: HubRepository) -> None:
    reader = RangeReader(model)
    asked = len(server.requests)
    with pytest.raises(ScionError, match="outside its file") as caught:
        reader.read("config.json", 0, len(CONFIG) + 1)
    assert caught.value.expected == f"bytes in 0..{len(CONFIG)}"
    assert len(server.requests) == asked
    with pytest.raises(ScionError, match="shorter than the range"):
        hub.read_range(model, "config.json", len(CONFIG), 1)


# Who may ask, and what fails


def test_the_token_goes_to_the_hub_alone(model: HubRepository, server: HubServer) -> None:
    hub.read_range(model, "model.safetensors", 0, 4)
    seen = {request.server: request.authorization for request in server.requests}
    assert seen == {"hub": "Bearer hf_secret", "cdn": None}


def test_a_private_repository_opens_to_its_token(server: HubServer, model: HubRepository) -> None:
    server.repositories["owner/model"].token = "hf_secret"
    assert hub.read_range(model, "config.json", 0, 3) == CONFIG[:3]


@pytest.mark.parametrize("fault", [{"status": 429}, {"status": 500}, {"cut_after": 0}])
def test_a_passing_fault_is_overcome(
    fault: dict[str, int], server: HubServer, model: HubRepository
) -> None:
    server.fail("/api/models", **fault)
    server.fail("/resolve/", **fault)
    assert RangeReader(model).read("config.json", 0, 3) == CONFIG[:3]


def test_retry_after_is_respected(
    server: HubServer, model: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(hub_http.time, "sleep", waits.append)
    server.fail("/resolve/", status=429, headers={"Retry-After": "7"})
    server.fail("/resolve/", status=429, headers={"Retry-After": "100000"})
    hub.read_range(model, "config.json", 0, 3)
    assert waits == [7.0, 60.0]


@pytest.mark.parametrize(
    ("fault", "problem", "hint"),
    [
        ({"status": 429}, "limits how often", "hf auth login"),
        ({"status": 500}, "failed to answer", "again later"),
        ({"cut_after": 0}, "can't be reached", "HF_ENDPOINT"),
        ({"status": 403}, "refuses the token", "hf auth login"),
        ({"status": 404}, "does not have what was asked for", "check the name"),
        ({"body": b"<html>sign in to this network</html>"}, "answer can't be used", "proxy"),
        ({"body": b"[]"}, "answer can't be used", "proxy"),
    ],
)
def test_a_lasting_fault_is_told(
    fault: dict[str, int], problem: str, hint: str, server: HubServer, model: HubRepository
) -> None:
    server.fail("/api/models", times=99, **fault)
    with pytest.raises(ScionError, match=problem) as caught:
        hub.list_files(model)
    assert caught.value.where == str(model)
    assert hint in caught.value.hint
    assert len(server.requests) <= len(hub_http.RETRY_SECONDS) + 1


def test_a_gated_repository_names_page_and_login(server: HubServer, model: HubRepository) -> None:
    server.repositories["owner/model"].token = "hf_another"
    server.repositories["owner/model"].gated = True
    with pytest.raises(ScionError, match="gated") as caught:
        hub.list_files(model)
    assert f"{server.endpoint}/owner/model, then: hf auth login" in caught.value.hint
    assert caught.value.found == "status 401: Access to this repository is restricted"


def test_a_missing_repository_is_told(server: HubServer) -> None:
    with pytest.raises(ScionError, match="does not exist, or this account") as caught:
        hub.list_files(repository(f"hf://owner/absent@{COMMIT}"))
    assert caught.value.expected == "a model named owner/absent"


def test_a_stranger_is_asked_to_log_in(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "absent"))
    with pytest.raises(ScionError, match="asks for one; so it does for names") as caught:
        hub.list_files(repository(f"hf://datasets/owner/absent@{COMMIT}"))
    assert caught.value.expected == "a token that may read the dataset owner/absent"
    assert "hf auth login" in caught.value.hint


def test_a_missing_revision_is_told(server: HubServer) -> None:
    missing = repository(f"hf://owner/model@{COMMIT}")
    for read in (hub.list_files, lambda asked: hub.read_range(asked, "config.json", 0, 1)):
        with pytest.raises(ScionError, match="no such revision") as caught:
            read(missing)
        assert caught.value.expected == f"revision {COMMIT}"


def test_a_missing_file_is_told(model: HubRepository) -> None:
    with pytest.raises(ScionError, match="no such file at that commit") as caught:
        hub.read_range(model, "absent.json", 0, 1)
    assert caught.value.where == f"{model}: absent.json"


def test_offline_mode_is_told(model: HubRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ScionError, match="HF_HUB_OFFLINE"):
        hub.list_files(model)


# Pins

RELEASE = """\
# A release that is not pinned yet.\r
source: hf://owner/model@main   # the fine-tune
donor: "hf://owner/model"
quantization:
    calibration: {sets: [{dataset: 'hf://datasets/owner/data@main', samples: 20}]}
quality: {base: hf://owner/model@main}

card:
  summary: see hf://owner/model@main
  pinned: &pinned hf://owner/model@COMMIT
  again: *pinned
"""


def test_pin_changes_the_locations_and_nothing_else(server: HubServer, tmp_path: Path) -> None:
    commit, data = server.commit("owner/model"), server.commit("datasets/owner/data")
    text = RELEASE.replace("COMMIT", commit)
    path = tmp_path / "release.yaml"
    path.write_bytes(text.encode())
    lines: list[str] = []
    pins = pin_config(path, report=lines.append)
    expected = (
        text.replace("hf://owner/model@main   #", f"hf://owner/model@{commit}   #")
        .replace('"hf://owner/model"', f'"hf://owner/model@{commit}"')
        .replace("hf://datasets/owner/data@main", f"hf://datasets/owner/data@{data}")
        .replace("base: hf://owner/model@main", f"base: hf://owner/model@{commit}")
    )
    assert path.read_bytes().decode() == expected
    assert [pin.line for pin in pins] == [2, 3, 5, 6]
    assert lines[0] == f"{path}:2: hf://owner/model@main -> hf://owner/model@{commit}"
    assert lines[4] == f"{lock_of(path)}: locked 4 files, 1.05 MB, of 2 repositories"
    assert pin_config(path, report=lines.append) == []
    assert len(lines) == 5


def test_pin_follows_a_family_to_the_files_of_its_releases(
    server: HubServer, tmp_path: Path
) -> None:
    commit = server.commit("owner/model")
    one, family = tmp_path / "one.yaml", tmp_path / "family.yaml"
    one.write_text("source: hf://owner/model\n")
    family.write_text(f"donor: hf://owner/model\nreleases: [{one}, {{release: b}}]\n")
    assert len(pin_all(family, report=lambda _: None)) == 2
    assert one.read_text() == f"source: hf://owner/model@{commit}\n"
    assert family.read_text().startswith(f"donor: hf://owner/model@{commit}\n")
    assert pin_all(family, report=lambda _: None) == []


def test_pin_asks_for_each_repository_once(server: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text("source: hf://owner/model@main\ndonor: hf://owner/model@main\n")
    assert len(pin_config(path, report=lambda _: None)) == 2
    assert sum("/revision/main" in request.path for request in server.requests) == 1
    asked = [r.path for r in server.requests if r.path.startswith("/owner/model/resolve/")]
    assert len(asked) == len(set(asked)) > 0


@pytest.mark.parametrize("fault", [{"cut_after": 0}, {"status": 500}])
def test_pin_changes_nothing_where_the_hub_is_not_reached(
    fault: dict[str, int], server: HubServer, tmp_path: Path
) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(RELEASE)
    server.fail("/api/datasets", times=99, **fault)
    lines: list[str] = []
    with pytest.raises(ScionError):
        pin_config(path, report=lines.append)
    assert path.read_bytes() == RELEASE.encode()
    assert names_below(tmp_path) == {"release.yaml", *names_of_remote(tmp_path)}
    assert lines == []


def names_of_remote(folder: Path) -> set[str]:
    return {f"remote/{name}" for name in names_below(folder / "remote")}


@pytest.mark.parametrize(
    ("text", "problem", "where"),
    [
        ("source: hf://owner\n", "not understood", "release.yaml, line 1"),
        ("a: 1\nsource: 'hf://owner/model\n", "can't be read", "release.yaml"),
        ('a: 1\nsource: "hf:\\/\\/owner/model"\n', "can't be replaced in place", "line 2"),
    ],
)
def test_pin_refuses_what_it_can_not_edit(
    text: str, problem: str, where: str, server: HubServer, tmp_path: Path
) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(text)
    with pytest.raises(ScionError, match=problem) as caught:
        pin_config(path)
    assert where in caught.value.where
    assert path.read_text() == text


def test_pin_keeps_a_link_to_the_file(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("source: hf://owner/model\n")
    (tmp_path / "link.yaml").symlink_to("real.yaml")
    pin_config(tmp_path / "link.yaml", report=lambda _: None)
    assert (tmp_path / "link.yaml").is_symlink()
    assert server.commit("owner/model") in (tmp_path / "real.yaml").read_text()


def test_a_missing_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScionError, match="can't be read"):
        pin_config(tmp_path / "absent.yaml")
