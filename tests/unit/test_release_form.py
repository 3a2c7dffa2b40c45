"""`scion check` of a release that holds what is no file, no manifest, or a flipped bit."""

import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scion.artifacts.manifest import FORMAT, MANIFEST
from scion.artifacts.release_layout import SUMS, table_file
from scion.common.files import to_json
from tampering import GRAFT, SHARD, ZEROS, Change, flipped, named, rehash, removed, reroot, told

SOURCE_TABLE, TEXT_TABLE, DONOR_TABLE = map(
    table_file, ("fetch_source", "extract_text", "fetch_donor")
)


@pytest.fixture
def folder(sealed_release: Path, tmp_path: Path) -> Path:
    """A copy of the release, as somebody else has it."""
    return shutil.copytree(sealed_release, tmp_path / "release")


# What is no file


def linked(name: str, target: str, *, keep: bool = True) -> Change:
    """A link in place of a file, to that file elsewhere."""

    def change(folder: Path) -> None:
        if keep:
            (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(target)

    return change


def bound(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)
        try:
            server.bind("socket")
        finally:
            os.chdir(here)


NO_FILES: dict[str, tuple[Change, str, str]] = {
    "a pipe": (lambda folder: os.mkfifo(folder / "pipe"), "pipe", "a pipe"),
    "a pipe for the card": (
        lambda folder: ((folder / "README.md").unlink(), os.mkfifo(folder / "README.md")),
        "README.md",
        "a pipe",
    ),
    "a pipe for a shard": (
        lambda folder: ((folder / SHARD).unlink(), os.mkfifo(folder / SHARD)),
        SHARD,
        "a pipe",
    ),
    "a socket": (bound, "socket", "a socket"),
    "a dangling link": (linked("link", "/nowhere", keep=False), "link", "a link to /nowhere"),
    "a looping link": (linked("link", "link", keep=False), "link", "a link to link"),
    "a link to a folder": (linked("link", "/", keep=False), "link", "a link to /"),
    "a link in place of a file": (linked("config.json", "../elsewhere"), "config.json", "a link"),
    "a link in place of a shard": (linked(SHARD, "../elsewhere"), SHARD, "a link"),
    "a link in place of a folder": (linked("pictures", "../elsewhere"), "pictures", "a link"),
    "a link in place of SHA256SUMS": (linked(SUMS, "../elsewhere"), SUMS, "a link"),
    "a link in place of the manifest": (linked(MANIFEST, "../elsewhere"), MANIFEST, "a link"),
    "an empty folder": (lambda folder: (folder / "empty").mkdir(), "empty", "an empty folder"),
    "a folder for the card": (
        lambda folder: ((folder / "README.md").unlink(), (folder / "README.md").mkdir()),
        "README.md",
        "an empty folder",
    ),
    "a hole of terabytes": (lambda folder: os.truncate(folder / SHARD, 1 << 42), SHARD, "bytes"),
    "a shard cut off": (lambda folder: os.truncate(folder / SHARD, 100), SHARD, "100"),
    "no card": (removed("README.md"), "README.md", "missing"),
}


@pytest.mark.parametrize(("change", "file", "words"), NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_of_the_release_is_found_and_named(
    folder: Path, change: Change, file: str, words: str
) -> None:
    change(folder)
    lines = [line for line in told(folder) if line.startswith(f"{file}: ")]
    assert any(words in line for line in lines)


# Manifests of another form


def without(key: str) -> Callable[[Any], Any]:
    return lambda made: {name: value for name, value in made.items() if name != key}


FORMS: dict[str, Callable[[Any], Any]] = {
    "a list": lambda made: [made],
    "a string": lambda made: "text",
    "a number": lambda made: 1,
    "an empty object": lambda made: {"format": FORMAT},
    **{f"no {key}": without(key) for key in ("root", "stage", "made_from", "facts", "files")},
    **{
        f"{key} of null": lambda made, key=key: {**made, key: None}
        for key in ("root", "format", "stage", "made_from", "settings", "code", "facts", "files")
    },
    **{
        f"{key} of lists": lambda made, key=key: {**made, key: []}
        for key in ("root", "stage", "made_from", "settings", "environment", "facts", "files")
    },
    "inputs of null": lambda made: {**made, "made_from": {"source": None}},
    "inputs of lists": lambda made: {**made, "made_from": {"source": [1]}},
    "inputs without stage": lambda made: {**made, "made_from": {"source": {"content": "x"}}},
    "files of null": lambda made: {**made, "files": dict.fromkeys(made["files"])},
    "files without size": lambda made: {**made, "files": {"a": {"sha256": ZEROS}}},
    "files elsewhere": lambda made: {**made, "files": {"../a": {"size": 1, "sha256": ZEROS}}},
    "half a surrogate": lambda made: {**made, "code": "\ud800"},
}
RAW = {
    "nothing": b"",
    "null": b"null",
    "no JSON": b"{",
    "no UTF-8": b'{"format": "\xff"}',
    "too deep": b'{"a":' * 100_000,
    "too many values": b"[" + b"[]," * 3_000_000 + b"1]",
}


def check_form(folder: Path, file: str) -> None:
    lines = told(folder)
    assert file in named(lines)
    assert not any("fetch the checkpoint" in line for line in lines)


@pytest.mark.parametrize("file", [MANIFEST, GRAFT, "provenance/render_card.json"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_manifest_of_another_form_is_found_and_named(
    folder: Path, form: Callable[[Any], Any], file: str
) -> None:
    path = folder / file
    path.write_text(json.dumps(form(json.loads(path.read_text()))))
    check_form(folder, file)
    if file != MANIFEST:
        reroot(folder)
        check_form(folder, file)


@pytest.mark.parametrize("file", [MANIFEST, GRAFT, "tensors.json", SOURCE_TABLE])
@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_a_manifest_that_is_no_json_is_found_and_named(folder: Path, raw: bytes, file: str) -> None:
    (folder / file).write_bytes(raw)
    check_form(folder, file)
    if file != MANIFEST:
        reroot(folder)
        check_form(folder, file)


TABLES: dict[str, Any] = {
    "a list": [],
    "a string": "row",
    "nothing": None,
    "no digest": {"dtype": "BF16", "shape": [1]},
    "a digest of null": {"dtype": "BF16", "shape": [1], "sha256": None},
    "a shape of objects": {"dtype": "BF16", "shape": [{}], "sha256": ZEROS},
    "a shape of its own": {"dtype": "BF16", "shape": 1, "sha256": ZEROS},
    "a dtype of lists": {"dtype": [], "shape": [1], "sha256": ZEROS},
    "an origin of lists": {"dtype": "BF16", "shape": [1], "sha256": ZEROS, "origin": []},
}


@pytest.mark.parametrize("file", ["tensors.json", SOURCE_TABLE, TEXT_TABLE, DONOR_TABLE])
@pytest.mark.parametrize("row", TABLES.values(), ids=TABLES)
def test_a_row_of_another_form_is_found_and_named(folder: Path, row: Any, file: str) -> None:
    path = folder / file
    table = json.loads(path.read_text())
    table[next(iter(table))] = row
    path.write_bytes(to_json(table))
    rehash(folder)
    assert file in named(told(folder))


# Single bits


def positions(chance: random.Random, path: Path) -> Iterator[tuple[int, int]]:
    """Some bits of a file: of its first or last byte, and of another."""
    for position in (chance.choice((0, -1)), chance.randrange(path.stat().st_size)):
        yield position, chance.randrange(8)


def test_a_flipped_bit_of_any_file_is_found_and_named(folder: Path) -> None:
    chance = random.Random(5)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        file = str(path.relative_to(folder))
        for position, bit in positions(chance, path):
            flipped(path, position, bit)
            assert file in named(told(folder)), (file, position, bit)
            flipped(path, position, bit)
    assert told(folder) == []


def test_a_flipped_bit_that_ends_the_card_s_utf_8_is_found_and_named(folder: Path) -> None:
    card = folder / "README.md"
    raw = card.read_bytes()
    chance = random.Random(6)
    for position in chance.sample(range(len(raw)), 20):
        flipped(card, position, 7)
        assert named(told(folder)) == {"README.md"}
        # The same with digests that say so.
        if position % 4 == 0:
            reroot(folder)
            assert "README.md" in named(told(folder))
        card.write_bytes(raw)
        reroot(folder)
    assert told(folder) == []


def test_another_spelling_of_the_same_manifest_is_found(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (folder / MANIFEST).read_bytes() == to_json(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert named(told(folder)) == {MANIFEST}
