"""Stores that share a bucket of a real S3 server, and nothing else."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands import check_refusal, command
from conversion import Pico
from s3_server import BUCKET, S3Proxy, S3Server, free_port, s3_proxy, s3_server
from scion.artifacts.manifest import manifest_digests, read_manifest
from scion.artifacts.store.store import Store
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from store_pair import kill_when, make, same, start, take

FILES = {f"{number}.bin": os.urandom(400_000) for number in range(6)}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def url(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in the bucket; this process may do all there."""
    s3.use("writer", monkeypatch)
    return f"s3://{BUCKET}/some/prefix-{time.monotonic_ns()}"


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[S3Proxy]:
    """What this process asks the server goes through it."""
    with s3_proxy(s3.url) as proxy:
        s3.use("writer", monkeypatch, proxy.url)
        yield proxy


def a_store(tmp_path: Path, name: str, *urls: str) -> Store:
    return Store.open([str(tmp_path / name / "store"), *urls])


def digits(digest: str) -> str:
    return digest.removeprefix("sha256:")


def objects(s3: S3Server, url: str) -> dict[str, int]:
    """The size of each object below a URL."""
    root = url.removeprefix("s3://")
    found = s3.files().find(root, detail=True)
    return {name.removeprefix(f"{root}/"): entry["size"] for name, entry in found.items()}


def test_two_stores_share_a_bucket(tmp_path: Path, s3: S3Server, url: str, proxy: S3Proxy) -> None:
    first, second = (a_store(tmp_path, name, url) for name in "ab")
    x = make(first, {**FILES, "again.bin": FILES["0.bin"], "folder/empty": b""}, name="x")
    y = make(first, {**FILES, "own.bin": b"own"}, name="y")
    # Six that both have, the empty one, the own one.
    assert len([name for name in objects(s3, url) if name.startswith("files/")]) == 8
    assert proxy.count("PUT", "/files/") == 8
    assert proxy.count("PUT", "/records/") == 2
    same(x, take(second, name="x"))
    moved = proxy.sent("/files/")
    assert moved == sum(map(len, FILES.values()))
    same(y, took := take(second, name="y"))
    assert proxy.sent("/files/") - moved == len(b"own")
    assert all((took.folder / name).stat().st_nlink == 2 for name in FILES)


def test_a_second_push_uploads_nothing(tmp_path: Path, url: str, proxy: S3Proxy) -> None:
    first = a_store(tmp_path, "a", url)
    make(first, FILES)
    puts = proxy.count("PUT")
    assert puts == 1 + len(FILES) + 1
    take(first)
    assert proxy.count("PUT") == puts
    assert proxy.count("POST") == proxy.count("DELETE") == 0


def test_other_bytes_are_refused_and_named(tmp_path: Path, s3: S3Server, url: str) -> None:
    first, second = (a_store(tmp_path, name, url) for name in "ab")
    made = make(first, FILES)
    sha256 = made.files["3.bin"]["sha256"]
    root = url.removeprefix("s3://")
    s3.files().pipe_file(f"{root}/files/{sha256}", os.urandom(400_000))
    with pytest.raises(ScionError, match="is not what its name says") as caught:
        take(second)
    assert caught.value.where == f"{url}/files/{sha256}"
    assert sha256 in caught.value.expected
    assert not second.artifacts.exists()
    s3.files().rm_file(f"{root}/files/{sha256}")
    take(first)
    same(made, take(second))


def test_cut_answers_are_taken_up(tmp_path: Path, url: str, proxy: S3Proxy) -> None:
    first, second = (a_store(tmp_path, name, url) for name in "ab")
    made = make(first, FILES)
    proxy.cut = 3
    same(made, take(second))
    assert proxy.cut == 0


def test_a_pull_that_is_killed_goes_on(
    tmp_path: Path, s3: S3Server, url: str, proxy: S3Proxy
) -> None:
    first, second = (a_store(tmp_path, name, url) for name in "ab")
    made = make(first, FILES)
    folder = second.folder
    proxy.slow = 0.02
    pull = start("pull", made.recipe, folder, url, s3.environment("writer", proxy.url))
    work = folder / "work" / digits(made.content)
    kill_when(pull, lambda: any(work.glob("pulled/2.bin")) and any(work.glob("pulled.parts/*")))
    assert pull.returncode == -signal.SIGKILL
    assert not second.artifacts.exists()
    assert not second.records.exists()
    done = sum(path.stat().st_size for path in (work / "pulled").iterdir())
    part = sum(path.stat().st_size for path in (work / "pulled.parts").iterdir())
    assert done >= 3 * 400_000
    proxy.slow = 0
    before = settled(proxy)
    same(made, take(second))
    assert proxy.sent("/files/") - before == 6 * 400_000 - done - part
    assert not any((folder / "work").iterdir())


def settled(proxy: S3Proxy) -> int:
    """Bytes that came from files, once the answers to a dead process have broken off."""
    deadline = time.monotonic() + 60
    while proxy.under_way:
        assert time.monotonic() < deadline, proxy.under_way
        time.sleep(0.05)
    return proxy.sent("/files/")


def test_a_push_that_is_killed_goes_on(
    tmp_path: Path, s3: S3Server, url: str, proxy: S3Proxy
) -> None:
    made = make(a_store(tmp_path, "a"), FILES)
    first = a_store(tmp_path, "a", url)
    proxy.slow = 0.02
    push = start("push", made.recipe, first.folder, url, s3.environment("writer", proxy.url))
    kill_when(push, lambda: proxy.count("PUT", "/files/") >= 2 and bool(proxy.under_way))
    settled(proxy)
    there = objects(s3, url)
    files = {name: size for name, size in there.items() if name.startswith("files/")}
    assert 2 <= len(files) < len(FILES)
    assert set(files.values()) == {400_000}
    assert not any(name.startswith("records/") for name in there)
    second = a_store(tmp_path, "b", url)
    assert second.find(made.recipe) is None
    proxy.slow = 0
    before = proxy.count("PUT", "/files/")
    take(first)
    assert proxy.count("PUT", "/files/") - before == len(FILES) - len(files)
    same(made, take(second))


def test_a_large_file_is_never_there_in_part(
    tmp_path: Path, s3: S3Server, url: str, proxy: S3Proxy
) -> None:
    # Beyond twice the size of a part, s3fs uploads in parts.
    made = make(a_store(tmp_path, "a"), {"large.bin": bytes(101 << 20)})
    first, second = a_store(tmp_path, "a", url), a_store(tmp_path, "b", url)
    proxy.slow = 0.001
    push = start("push", made.recipe, first.folder, url, s3.environment("writer", proxy.url))
    kill_when(push, lambda: proxy.received("partNumber") > 0)
    settled(proxy)
    assert list(objects(s3, url)) == ["scion-store.json"]
    proxy.slow = 0
    take(first)
    same(made, take(second))


def test_several_push_and_pull_at_once(tmp_path: Path, s3: S3Server, url: str) -> None:
    made = [make(a_store(tmp_path, name), FILES) for name in "abc"]
    environment = s3.environment("writer")

    def all_do(action: str, names: str) -> None:
        processes = [
            start(action, made[0].recipe, tmp_path / name / "store", url, environment)
            for name in names
        ]
        for process in processes:
            out, errors = process.communicate()
            assert process.returncode == 0, (out, errors)

    all_do("push", "abc")
    assert len(objects(s3, url)) == 2 + len(FILES)
    # Two of them into one store.
    for name in "de":
        a_store(tmp_path, name)
    all_do("pull", "dde")
    for name in "de":
        same(made[0], take(a_store(tmp_path, name)))


def test_a_server_that_goes_away_ends_in_a_message(
    tmp_path: Path, s3: S3Server, url: str, proxy: S3Proxy
) -> None:
    first, second = (a_store(tmp_path, name, url) for name in "ab")
    environment = s3.environment("writer", proxy.url)
    made = make(first, FILES)
    # While files come.
    proxy.slow = 0.02
    pull = start("pull", made.recipe, second.folder, url, environment)
    wait_for(lambda: proxy.sent("/files/") > 1_000_000, pull)
    proxy.gone = True
    _, errors = pull.communicate(timeout=120)
    assert pull.returncode == 1
    check_refusal(errors, "can't be reached", url, "AWS_ENDPOINT_URL")
    proxy.gone, proxy.slow = False, 0
    before = settled(proxy)
    same(made, take(second))
    assert proxy.sent("/files/") - before <= 4 * 400_000
    # While files go.
    other = make(a_store(tmp_path, "a"), {name: raw[::-1] for name, raw in FILES.items()}, name="o")
    proxy.slow = 0.02
    before = proxy.count("PUT", "/files/")
    push = start("push", other.recipe, first.folder, url, environment)
    wait_for(lambda: proxy.count("PUT", "/files/") >= before + 2, push)
    proxy.gone = True
    _, errors = push.communicate(timeout=120)
    assert push.returncode == 1
    check_refusal(errors, "can't be reached", url)
    proxy.gone, proxy.slow = False, 0
    assert second.find(other.recipe) is None
    take(first, name="o")
    same(other, take(second, name="o"))


def wait_for(holds: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_server_that_is_not_there(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ScionError, match="can't be reached") as caught:
        make(a_store(tmp_path, "a", url), FILES)
    assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_what_keys_may_not_do(
    tmp_path: Path, s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(a_store(tmp_path, "a", url), FILES)
    for key in ("nobody", "unknown"):
        s3.use(key, monkeypatch)
        with pytest.raises(ScionError, match="may not be read by this key") as caught:
            take(a_store(tmp_path, "b", url))
        assert url in caught.value.where
        assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    s3.use("reader", monkeypatch)
    reader = a_store(tmp_path, "b", url)
    same(made, take(reader))
    with pytest.raises(ScionError, match="may not be written by this key") as caught:
        make(reader, {"a": b"a"}, name="other")
    assert "?readonly" in caught.value.hint
    # It is made, and once the location says so nothing is to be added.
    take(a_store(tmp_path, "b", f"{url}?readonly"), name="other")
    for name in [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ScionError, match="there are no credentials") as caught:
        take(a_store(tmp_path, "c", url))
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_no_such_bucket(tmp_path: Path, url: str) -> None:
    for location in ("s3://no-such-bucket/prefix", "s3://no-such-bucket?readonly"):
        with pytest.raises(ScionError, match="there is no such bucket") as caught:
            make(a_store(tmp_path, "a", location), FILES)
        assert "s3://no-such-bucket" in caught.value.where


def test_a_hostile_record_is_refused(tmp_path: Path, s3: S3Server, url: str) -> None:
    made = make(a_store(tmp_path, "a", url), FILES)
    manifest = json.loads(json.dumps(made.manifest))
    manifest["files"]["../../escaped"] = manifest["files"].pop("0.bin")
    manifest["content"] = manifest_digests(manifest)["content"]
    manifest["root"] = manifest_digests(manifest)["root"]
    record = f"{url.removeprefix('s3://')}/records/{digits(made.recipe)}.json"
    s3.files().pipe_file(record, json.dumps(manifest).encode())
    with pytest.raises(ScionError, match="can't be a file of an artifact"):
        take(a_store(tmp_path, "b", url))
    assert not list(tmp_path.rglob("escaped*"))


class Checkout:
    """A folder of results with a store of its own, in which stages run as processes."""

    def __init__(self, folder: Path, url: str, pico: Pico) -> None:
        self.folder, self.pico = folder, pico
        self.store = [str(folder / "store"), url]
        self.made: list[str] = []

    def pointer(self, stage: str) -> str:
        return str(self.folder / f"{stage}.json")

    def command(self, stage: str) -> list[str]:
        sets = [{"dataset": str(self.pico.calibration), "samples": 4}]
        quantization = {
            "recipe": "nvfp4_default",
            "calibration": {"sets": sets},
            "device": "cpu",
            "max_shard_megabytes": 1,
        }
        options: dict[str, dict[str, object]] = {
            "fetch_source": {"location": self.pico.agent},
            "fetch_donor": {"location": self.pico.base},
            "fix_keys": {"source": self.pointer("fetch_source")},
            "extract_text": {"fixed": self.pointer("fix_keys")},
            "quantize_nvfp4": {
                "text": self.pointer("extract_text"),
                "settings": json.dumps({"quantization": quantization}),
            },
            "graft_mtp": {
                "quantized": self.pointer("quantize_nvfp4"),
                "fixed": self.pointer("fix_keys"),
                "text_only": "true",
                "donor": self.pointer("fetch_donor"),
            },
        }
        return command(stage, output=self.pointer(stage), store=self.store, **options[stage])

    def run(self, stage: str) -> None:
        ended = subprocess.run(self.command(stage), capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        # Libraries below complain of connections that are left open.
        assert not re.search("unclosed|never awaited|Traceback", ended.stderr, re.I), ended.stderr
        if f"{stage}: the store has it" not in ended.stderr:
            self.made.append(stage)

    def contents(self) -> dict[str, str]:
        return {path.stem: read_manifest(path)["content"] for path in self.folder.glob("*.json")}


FIRST = ["fetch_source", "fix_keys", "extract_text"]
REST = ["fetch_donor", "quantize_nvfp4", "graft_mtp"]


@pytest.mark.slow
def test_two_checkouts_without_a_common_disk(
    tmp_path: Path, s3: S3Server, url: str, pico: Pico
) -> None:
    one, two = (Checkout(tmp_path / name, url, pico) for name in ("one", "two"))
    for stage in FIRST:
        one.run(stage)
    log = tmp_path / "log"
    with log.open("wb") as errors:
        killed = subprocess.Popen(one.command("quantize_nvfp4"), stderr=errors)
    deadline = time.monotonic() + 300
    while not has_begun(tmp_path / "one/store/work"):
        assert killed.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    for stage in [*FIRST, *REST]:
        two.run(stage)
    for stage in [*FIRST, *REST]:
        one.run(stage)
    assert one.made == FIRST
    assert two.made == REST
    assert one.contents() == two.contents()
    assert sorted(one.contents()) == sorted([*FIRST, *REST])
    records = [name for name in objects(s3, url) if name.startswith("records/")]
    assert len(records) == len(FIRST) + len(REST)
    for checkout in (one, two):
        store = Store.open(checkout.store[:1])
        for pointer in sorted(checkout.folder.glob("*.json")):
            artifact = store.open_pointer(pointer)
            assert store.damage(artifact, read_all=True) == []


def has_begun(work: Path) -> bool:
    """Whether a stage has files of its draft."""
    return any(path.is_file() for path in work.glob("*/draft/*"))


def test_objects_are_what_their_names_say(tmp_path: Path, s3: S3Server, url: str) -> None:
    make(a_store(tmp_path, "a", url), FILES)
    copies = tmp_path / "copies"
    s3.files().get(f"{url.removeprefix('s3://')}/files/", str(copies), recursive=True)
    for path in copies.iterdir():
        assert digest_file(path) == path.name
