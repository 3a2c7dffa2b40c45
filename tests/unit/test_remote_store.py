"""Stores elsewhere, over whatever fsspec knows: here folders and memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from scion.artifacts.manifest import manifest_digests
from scion.artifacts.store import objects
from scion.artifacts.store.remote import MARK, Remote
from scion.artifacts.store.store import Store
from scion.common.errors import ScionError
from store_pair import make, same, take

FILES = {"config.json": b"{}", "model.bin": bytes(range(256)) * 20, "more/a.txt": b"text"}
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_RANGE", 1000)
    monkeypatch.setattr(objects, "RETRY_SECONDS", (0.0, 0.0))


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    # Memory is one for the whole process.
    return f"file://{tmp_path / 'elsewhere'}" if request.param == "file" else f"memory://{uuid4()}"


class Elsewhere:
    """What lies at a URL, looked at without Scion."""

    def __init__(self, url: str) -> None:
        self.files, self.root = fsspec.core.url_to_fs(url)

    def names(self) -> list[str]:
        found = self.files.find(self.root)
        return sorted(name.removeprefix(f"{self.root}/") for name in found)

    def read(self, name: str) -> bytes:
        return self.files.cat_file(f"{self.root}/{name}")

    def write(self, name: str, raw: bytes) -> None:
        self.files.pipe_file(f"{self.root}/{name}", raw)

    def remove(self, name: str) -> None:
        self.files.rm_file(f"{self.root}/{name}")


def stores(tmp_path: Path, url: str) -> tuple[Store, Store]:
    return tuple(Store.open([str(tmp_path / name / "store"), url]) for name in ("a", "b"))  # pyright: ignore[reportReturnType]


def digits(digest: str) -> str:
    return digest.removeprefix("sha256:")


def test_what_one_made_another_has(tmp_path: Path, url: str) -> None:
    first, second = stores(tmp_path, url)
    made = make(first, FILES)
    same(made, take(second))
    hashes = {entry["sha256"] for entry in made.files.values()}
    assert Elsewhere(url).names() == sorted(
        [MARK, f"records/{digits(made.recipe)}.json", *(f"files/{sha256}" for sha256 in hashes)]
    )
    assert json.loads(Elsewhere(url).read(MARK)) == {"format": "scion-store/1"}
    assert not any((second.folder / "work").iterdir())
    modes = {path.stat().st_mode & 0o777 for path in take(second).folder.rglob("*")}
    assert modes == {0o444, 0o555}


def test_equal_files_are_kept_once_and_linked_where_they_arrive(tmp_path: Path, url: str) -> None:
    first, second = stores(tmp_path, url)
    make(first, {"one": b"shared", "two": b"shared", "own": b"1"}, name="x")
    make(first, {"three": b"shared", "own": b"2", "empty": b""}, name="y")
    assert len([name for name in Elsewhere(url).names() if name.startswith("files/")]) == 4
    x, y = take(second, name="x"), take(second, name="y")
    assert (y.folder / "three").stat().st_nlink == 2
    inodes = {(x.folder / name).stat().st_ino for name in ("one", "two")}
    assert (y.folder / "three").stat().st_ino in inodes
    assert (y.folder / "empty").read_bytes() == b""


def test_a_damaged_file_that_is_here_is_not_linked(tmp_path: Path, url: str) -> None:
    first, second = stores(tmp_path, url)
    make(first, {"a": b"shared"}, name="x")
    wanted = make(first, {"b": b"shared", "c": b"c"}, name="y")
    damaged = take(second, name="x").folder / "a"
    damaged.chmod(0o644)
    damaged.write_bytes(b"SHARED")
    same(wanted, take(second, name="y"))


def test_what_is_there_is_not_written_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stores(tmp_path, url)
    make(first, FILES)
    take(second)
    written: list[str] = []
    monkeypatch.setattr(objects.Objects, "_put", lambda self, name, put: written.append(name))
    take(first)
    take(second)
    assert written == []


def test_a_removed_object_is_added_again(tmp_path: Path, url: str) -> None:
    first, second = stores(tmp_path, url)
    made = make(first, FILES)
    name = f"files/{made.files['model.bin']['sha256']}"
    Elsewhere(url).remove(name)
    with pytest.raises(ScionError, match="is not what its name says") as caught:
        take(second)
    assert (caught.value.found, name in caught.value.where) == ("no such object", True)
    take(first)
    same(made, take(second))


@pytest.mark.parametrize("other", [b"X" + FILES["model.bin"][1:], b"short", b"long" * 5000])
def test_other_bytes_are_refused_and_named(tmp_path: Path, url: str, other: bytes) -> None:
    first, second = stores(tmp_path, url)
    made = make(first, FILES)
    sha256 = made.files["model.bin"]["sha256"]
    Elsewhere(url).write(f"files/{sha256}", other)
    with pytest.raises(ScionError, match="is not what its name says") as caught:
        take(second)
    error = caught.value
    assert f"files/{sha256}" in error.where
    assert sha256 in error.expected
    expected = "SHA-256" if len(other) == len(FILES["model.bin"]) else f"{len(other)} bytes"
    assert error.found.startswith(expected)
    assert not second.artifacts.exists()
    assert not second.records.exists()
    left = [path.name for path in (second.folder / "work").rglob("*") if path.is_file()]
    assert "model.bin" not in left
    assert f"{sha256}.part" not in left
    # Mended, the rest is here.
    Elsewhere(url).write(f"files/{sha256}", FILES["model.bin"])
    same(made, take(second))


def test_a_part_that_was_damaged_here_is_fetched_anew(tmp_path: Path, url: str) -> None:
    first, second = stores(tmp_path, url)
    made = make(first, FILES)
    parts = second.folder / "work" / digits(made.content) / "pulled.parts"
    parts.mkdir(parents=True)
    for entry in made.files.values():
        (parts / f"{entry['sha256']}.part").write_bytes(b"?")
    same(made, take(second))


def test_a_cut_range_is_asked_for_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stores(tmp_path, url)
    made = make(first, FILES)
    ranges, asked = objects.Objects._ranges, []

    def cut(self: objects.Objects, name: str, start: int, end: int) -> Any:
        found: list[Any] = list(ranges(self, name, start, end))
        asked.append(start)
        if len(found) > 2:
            # The second range arrives in half, the third not at all.
            size, piece = found[1]
            found[1:3] = [(size, piece[: size // 2]), (size, OSError("cut"))]
        return found

    monkeypatch.setattr(objects.Objects, "_ranges", cut)
    same(made, take(second))
    # The small files are one range each.
    assert [start for start in asked if start] == [1500, 3000, 4500]


def test_a_store_that_never_answers_ends_in_a_message(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stores(tmp_path, url)
    make(first, FILES)
    lost = [(1, OSError("connection lost"))]
    monkeypatch.setattr(objects.Objects, "_ranges", lambda *_: lost)
    with pytest.raises(ScionError, match="can't be reached") as caught:
        take(second)
    assert caught.value.found == "connection lost"


def test_a_longer_answer_is_refused(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stores(tmp_path, url)
    make(first, FILES)
    monkeypatch.setattr(objects.Objects, "_ranges", lambda *_: [(1, b"22")])
    with pytest.raises(ScionError, match="did not send the range"):
        take(second)


HOSTILE = [
    "/etc/x",
    "../x",
    "a/../../x",
    "",
    ".",
    "a//b",
    "./a",
    "a/",
    "a\\b",
    "a\0b",
    "a\nb",
    "..",
]


def edited(manifest: dict[str, Any], edit: Edit) -> bytes:
    """A manifest after an edit, its digests made right again."""
    manifest = json.loads(json.dumps(manifest))
    edit(manifest)
    manifest |= {key: manifest_digests(manifest)[key] for key in ("recipe", "content")}
    manifest["root"] = manifest_digests(manifest)["root"]
    return json.dumps(manifest).encode()


def put_file(name: str, entry: object) -> Edit:
    return lambda manifest: manifest["files"].update({name: entry})


@pytest.mark.parametrize(
    "edit",
    [
        *(put_file(name, {"size": 1, "sha256": "0" * 64}) for name in HOSTILE),
        put_file("config.json/below", {"size": 1, "sha256": "0" * 64}),
        put_file("x", {"size": -1, "sha256": "0" * 64}),
        put_file("x", {"size": True, "sha256": "0" * 64}),
        put_file("x", {"size": 1, "sha256": "../" + "0" * 61}),
        put_file("x", {"size": 1}),
        put_file("x", "text"),
        lambda manifest: manifest.update(files=["x"]),
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.update(facts=None),
    ],
)
def test_a_hostile_table_is_refused_before_anything_is_written(
    tmp_path: Path, url: str, edit: Edit
) -> None:
    first, second = stores(tmp_path, url)
    made = make(first, FILES)
    Elsewhere(url).write(f"records/{digits(made.recipe)}.json", edited(made.manifest, edit))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ScionError, match=r"can't be a file of an artifact|not of their form"):
        second.find(made.recipe)
    manifest = json.loads(edited(made.manifest, edit))
    with pytest.raises(ScionError, match=r"can't be a file of an artifact|not of their form"):
        Remote(url).pull(manifest, second.folder / "work/x", second.known, {})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_record_that_does_not_check_is_refused_and_named(tmp_path: Path, url: str) -> None:
    first, second = stores(tmp_path, url)
    made, other = make(first, FILES), make(first, {"a": b"a"}, name="other")
    name = f"records/{digits(made.recipe)}.json"
    for raw, text in (
        (b"not JSON", "can't be read"),
        (b"[]", "object"),
        (json.dumps({**made.manifest, "facts": {"a": 1}}).encode(), "root digest"),
        (json.dumps({**made.manifest, "format": "other"}).encode(), "no manifest of this format"),
        (json.dumps(other.manifest).encode(), "another recipe"),
    ):
        Elsewhere(url).write(name, raw)
        with pytest.raises(ScionError, match=text) as caught:
            take(second)
        assert name in caught.value.where


def test_a_recipe_keeps_the_files_that_it_first_gave(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = stores(tmp_path, url)
    made = make(first, FILES)
    alone = Store.open([str(tmp_path / "c/store")])
    other = make(alone, {"other": b"other"})
    before = Elsewhere(url).names()
    Remote(url).push(other)
    assert "has other files of the same recipe" in capsys.readouterr().err
    assert Elsewhere(url).names() == before
    assert Remote(url).record(made.recipe) == made.manifest


@pytest.mark.parametrize("mark", [b'{"format": "scion-store/9"}', b"{}", b"[]", b"text"])
def test_another_format_is_refused(tmp_path: Path, url: str, mark: bytes) -> None:
    Elsewhere(url).files.makedirs(Elsewhere(url).root, exist_ok=True)
    Elsewhere(url).write(MARK, mark)
    first, _ = stores(tmp_path, url)
    with pytest.raises(ScionError) as caught:
        make(first, FILES)
    assert MARK in caught.value.where
    assert Elsewhere(url).names() == [MARK]


def test_a_store_that_is_used_as_a_folder_is_no_store_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "folder/store"
    make(Store.open([str(folder)]), FILES)
    for location in (str(folder), f"file://{folder}"):
        with pytest.raises(ScionError, match="does not hold a store") as caught:
            make(Store.open([str(tmp_path / "a/store"), location]), FILES)
        assert "used as a folder" in caught.value.found


def test_nothing_is_added_to_one_that_is_only_read(tmp_path: Path, url: str) -> None:
    first, _ = stores(tmp_path, url)
    made = make(first, FILES)
    reader = Store.open([str(tmp_path / "c/store"), f"{url}?readonly"])
    same(made, take(reader))
    before = Elsewhere(url).names()
    make(reader, {"a": b"a"}, name="other")
    assert Elsewhere(url).names() == before


def test_one_that_is_only_read_has_to_be_there(tmp_path: Path, url: str) -> None:
    with pytest.raises(ScionError, match="does not hold a store") as caught:
        make(Store.open([str(tmp_path / "c/store"), f"{url}?readonly"]), FILES)
    assert caught.value.found == "nothing"


@pytest.mark.parametrize("option", ["?read", "?readonly=1", "?key=a&secret=b"])
def test_another_option_is_refused(option: str) -> None:
    with pytest.raises(ScionError, match="an option that is not known"):
        Remote(f"s3://bucket/prefix{option}")


def test_a_service_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    store = Store.open([str(tmp_path / "store"), "nothing-such://place"])
    with pytest.raises(ScionError, match="a location that can't be used") as caught:
        make(store, FILES)
    assert "nothing-such" in caught.value.where


def test_a_cut_upload_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path / 'elsewhere'}"
    first, _ = stores(tmp_path, url)
    files = type(Elsewhere(url).files)
    put = files.put_file

    def cut(self: Any, source: str, target: str, **options: Any) -> None:
        put(self, source, target, **options)
        assert target.endswith(".part")
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "put_file", cut)
    with pytest.raises(KeyboardInterrupt):
        make(first, FILES)
    assert Elsewhere(url).names() == [MARK]
    monkeypatch.undo()
    take(first)
    assert len(Elsewhere(url).names()) == 2 + len(FILES)


def test_runs_without_stores_elsewhere_do_not_load_fsspec(tmp_path: Path) -> None:
    code = (
        "import sys; from scion.artifacts.store.store import Store; "
        f"Store.open([{str(tmp_path / 'store')!r}, 's3://bucket/prefix']); "
        "sys.exit(any(name in sys.modules for name in ('fsspec', 's3fs', 'botocore')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
