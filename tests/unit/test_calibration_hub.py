"""Calibration sets that lie on a hub: read at their commit, out of files held to a lock."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from transformers import AutoTokenizer

from checkpoints import half_made
from commands import check_refusal, command
from conversion import ENVIRONMENT, Pico
from hub_server import NO_PROXY, HubServer
from scion.artifacts.making import Output
from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.checkpoint.hub.lock import lock_of, read_lock, write_lock
from scion.cli.pin import pin_config
from scion.common.errors import ScionError
from scion.quantization.calibration.hub_rows import HubData, without_nulls
from scion.quantization.calibration.rows import Rows
from scion.quantization.calibration.samples import read_rows, tokenize
from scion.quantization.config import CALIBRATION_FILES, Calibration, CalibrationSet
from scion.stages.extract_text import extract_text
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys

NAME, TRAIN = "datasets/owner/data", "data/train.jsonl"
TABLES = "datasets/owner/tables"
CARD = """\
---
configs:
- config_name: chats
  data_files:
  - split: train
    path: data/train.jsonl
  - split: test
    path: data/test.jsonl
---
"""


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": name, "arguments": arguments}}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


ASK = {"role": "user", "content": "What is it like in Rome?"}
CHATS: list[dict[str, Any]] = [
    {
        "messages": [ASK, call("weather", city="Rome"), {"role": "tool", "content": "warm"}],
        "tools": [tool("weather", city={"type": "string", "enum": ["Rome", "Oslo"]})],
    },
    {"messages": [ASK, {"role": "assistant", "content": "Warm."}]},
    {
        "messages": [ASK, call("add", a=1, b=2)],
        "tools": [
            tool("add", a={"type": "number", "description": "One."}, b={"type": "number"}),
            tool("now"),
        ],
    },
    {"messages": [ASK, {"role": "assistant", "content": "Dry."}]},
]
"""Rows whose tools have other parameters, and whose messages have other keys."""


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of JSON lines in two splits, and a card."""
    folder = tmp_path / "data"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / TRAIN).write_text(lines(CHATS))
    (folder / "data/test.jsonl").write_text("not read\n")
    return folder


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """The same rows in two tables, without a card."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for number, rows in enumerate((CHATS[:3], CHATS[3:])):
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, folder / f"train-{number:05}-of-00002.parquet")
    return folder


@pytest.fixture
def hub(
    folder: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """Both on a hub, and a cache of the user's that is empty."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(cache / "assets"))
    with HubServer({NAME: folder, TABLES: tables}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("NO_PROXY", NO_PROXY)
        yield server


@pytest.fixture
def lock(hub: HubServer, tmp_path: Path) -> Path:
    """The lock of a configuration that names the data set."""
    config = tmp_path / "own.yaml"
    config.write_text(json.dumps({"dataset": f"hf://{NAME}"}))
    pin_config(config, report=lambda line: None)
    hub.requests.clear()
    return lock_of(config)


@pytest.fixture
def tokenizer(pico: Pico) -> Any:
    return AutoTokenizer.from_pretrained(pico.agent)


def read(hub: HubServer, *locks: Path, data: HubData | None = None, **asked: Any) -> Rows:
    """Rows of the set, three unless more are asked for."""
    settings = {"dataset": hub.location(NAME), "subset": "chats", "samples": 3, **asked}
    wanted = CalibrationSet.model_validate(settings)
    location = parse_location(wanted.dataset)
    assert isinstance(location, HubRepository)
    return (data or HubData(locks)).rows(location, wanted)


def refusal(hub: HubServer, *locks: Path, **asked: Any) -> str:
    """What is said where no rows are given."""
    with pytest.raises(ScionError) as caught:
        read(hub, *locks, **asked)
    return f"error: {caught.value}"


def cached(tmp_path: Path) -> list[str]:
    """What is in the user's cache of the hub, but for locks and empty folders."""
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    return sorted(path.name for path in files if path.name != ".lock")


def resolved(hub: HubServer, name: str) -> str:
    """The part of a request's path in whose answer a small file comes."""
    return f"api/resolve-cache/{NAME}/resolve/{hub.commit(NAME)}/{name}"


def alter(hub: HubServer, name: str) -> None:
    """Let the hub answer for the same commit with a file of other bytes, of the same size."""
    files = hub.repositories[NAME].files
    content = bytearray(files[name][0 : len(files[name])])
    content[-5] ^= 1
    files[name] = bytes(content)


def test_rows_are_read_at_the_commit_and_moved_once(hub: HubServer, folder: Path) -> None:
    for _ in range(2):
        assert read(hub) == CHATS[:3]
    assert hub.sent("train.jsonl") == (folder / TRAIN).stat().st_size
    assert hub.sent("test.jsonl") == 0
    assert all("/main" not in request.path for request in hub.requests)


def test_what_is_not_there_is_named(hub: HubServer) -> None:
    check_refusal(refusal(hub, subset="others"), hub.location(NAME), "others", "chats")
    check_refusal(refusal(hub, split="dev"), "one of its splits: train, test", "split dev")
    check_refusal(refusal(hub, split="test", samples=1), "data/test.jsonl, line 1")
    calibration = {"sets": [{"dataset": hub.location(NAME), "subset": "chats", "samples": 5}]}
    with pytest.raises(ScionError, match="can't be used") as caught:
        read_rows(Calibration.model_validate(calibration))
    assert (caught.value.expected, caught.value.found) == ("5 rows", "4 rows")


def test_a_locked_set_is_read_and_says_from_which_files(hub: HubServer, lock: Path) -> None:
    data = HubData([lock])
    assert read(hub, data=data) == CHATS[:3]
    locked = read_lock(lock)[hub.location(NAME)]
    files = {name: locked[name].sha256 for name in ("README.md", TRAIN)}
    assert data.read == {hub.location(NAME): files}


def test_a_locked_set_that_is_here_needs_no_hub(
    hub: HubServer, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(hub, lock) == CHATS[:3]
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read(hub, lock) == CHATS[:3]
    assert hub.requests == []


@pytest.mark.parametrize("name", [TRAIN, "README.md", "data/test.jsonl"])
def test_another_listing_of_the_commit_is_refused(
    hub: HubServer, tmp_path: Path, lock: Path, name: str
) -> None:
    alter(hub, name)
    said = refusal(hub, lock)
    check_refusal(said, "a pinned repository is not what it was", f"{NAME}@", f": {name}")
    # Not even its card.
    assert cached(tmp_path) == []


@pytest.mark.parametrize("is_locked", [True, False])
def test_other_bytes_than_are_listed_are_refused(
    hub: HubServer, tmp_path: Path, lock: Path, is_locked: bool
) -> None:
    locks = [lock] if is_locked else []
    hub.fail(resolved(hub, TRAIN), times=9, wrong_bytes=True)
    said = refusal(hub, *locks)
    check_refusal(said, "is not what the hub records; it was removed", f": {TRAIN}")
    assert ("SHA-256" if is_locked else "git blob") in said
    assert cached(tmp_path) == ["README.md"]
    hub.clear_faults()
    assert read(hub, *locks) == CHATS[:3]


def test_a_file_that_was_altered_here_is_fetched_again(
    hub: HubServer, tmp_path: Path, lock: Path
) -> None:
    assert read(hub, lock) == CHATS[:3]
    (here,) = (tmp_path / "cache").rglob(TRAIN)
    here.write_bytes(here.read_bytes().replace(b"Warm.", b"Cold."))
    assert read(hub, lock) == CHATS[:3]


def test_a_lock_without_the_set_says_how_to_write_it(
    hub: HubServer, tmp_path: Path, lock: Path
) -> None:
    write_lock(lock, {f"hf://owner/model@{'0' * 40}": {}})
    check_refusal(
        refusal(hub, lock),
        "no lock has the repository",
        str(lock),
        hub.location(NAME),
        "hf://owner/model",
        f"scion pin {tmp_path / 'own.yaml'}",
    )


def test_a_lock_names_nothing_outside_of_a_repository(lock: Path) -> None:
    content = json.loads(lock.read_text())
    for files in content["repositories"].values():
        files["../escaped"] = files[TRAIN]
    lock.write_text(json.dumps(content))
    with pytest.raises(ScionError, match="lock of a configuration can't be used") as caught:
        read_lock(lock)
    assert "../escaped" in caught.value.found


def of_tables(hub: HubServer, samples: int) -> Rows:
    return read(hub, dataset=hub.location(TABLES), subset=None, samples=samples)


def test_no_more_files_are_moved_than_the_rows_need(hub: HubServer) -> None:
    first, second = (
        hashlib.sha256(content[0 : len(content)]).hexdigest()
        for _, content in sorted(hub.repositories[TABLES].files.items())
    )
    assert len(of_tables(hub, 3)) == 3
    assert hub.sent(first) > hub.sent(second) == 0
    assert len(of_tables(hub, 4)) == 4
    assert hub.sent(second) > 0


def test_rows_of_the_hub_give_the_tokens_of_a_local_file(
    hub: HubServer, folder: Path, tables: Path, tokenizer: Any
) -> None:
    def sampled(rows: Rows) -> list[list[int]]:
        sets = Calibration(sets=(CalibrationSet(dataset="rows", samples=4, max_tokens=4096),))
        return [each.ids[0].tolist() for each in tokenize([rows], tokenizer, sets, context=4096)]

    here = CalibrationSet(dataset=str(folder / TRAIN), samples=4)
    (rows,) = read_rows(Calibration(sets=(here,)))
    assert rows == CHATS
    assert read(hub, samples=4) == rows
    assert sampled(of_tables(hub, 4)) == sampled(rows)
    # What the tables hold says something else.
    held = [row for path in sorted(tables.iterdir()) for row in pq.read_table(path).to_pylist()]
    assert held[0]["messages"][0] == {**ASK, "tool_calls": None}
    assert sampled(held) != sampled(rows)


def test_a_long_set_whose_later_tools_are_others_is_read(hub: HubServer) -> None:
    # Beyond the 10 MB that `datasets` takes the form of all rows from.
    rows = [{**CHATS[0], "note": "x" * 10_000}] * 1100 + [CHATS[2]]
    hub.repositories[NAME].files[TRAIN] = lines(rows).encode()
    assert read(hub, samples=1101) == rows


def test_nulls_go_where_a_table_alone_has_put_them() -> None:
    row = {
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": None},
            {"role": "user", "content": [{"type": "text", "text": "a", "image": None}]},
        ],
        "tools": None,
        "choices": ["a", None, {"b": None, "c": 0, "d": "", "e": False}],
    }
    assert without_nulls(row) == {
        "messages": [
            {"role": "assistant", "content": None},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
        ],
        "choices": ["a", None, {"c": 0, "d": "", "e": False}],
    }
    assert without_nulls({"text": "a", "messages": None}) == {"text": "a"}


class Quantizing:
    """The stage, over the pico text model, with a store of its own."""

    def __init__(self, hub: HubServer, pico: Pico, tmp_path: Path) -> None:
        self.hub, self.tmp_path, self.folder = hub, tmp_path, tmp_path / "made"
        source = fetch_source(
            location=str(pico.agent), output=self.output("fetch_source"), environment=ENVIRONMENT
        )
        fixed = fix_keys(source=source, output=self.output("fix_keys"), environment=ENVIRONMENT)
        extract_text(fixed=fixed, output=self.output("extract_text"), environment=ENVIRONMENT)

    def output(self, stage: str) -> Output:
        return Output.at(self.folder / stage)

    def run(self, *locks: Path) -> subprocess.CompletedProcess[str]:
        wanted = {"dataset": self.hub.location(NAME), "subset": "chats", "samples": 3}
        settings = {
            "quantization": {
                "recipe": "nvfp4_default",
                "calibration": {"sets": [wanted]},
                "device": "cpu",
            }
        }
        options: dict[str, Any] = {"lock": list(locks)} if locks else {}
        return subprocess.run(
            command(
                "quantize_nvfp4",
                text=self.folder / "extract_text.json",
                settings=json.dumps(settings),
                output=self.folder / "quantize_nvfp4.json",
                **options,
            ),
            env={**os.environ, "HF_HOME": str(self.tmp_path / "cache")},
            capture_output=True,
            text=True,
        )

    def nothing_is_made(self) -> bool:
        return not (self.folder / "quantize_nvfp4.json").exists() and not half_made(self.folder)


@pytest.mark.slow
def test_a_release_is_calibrated_with_what_was_locked(
    hub: HubServer, pico: Pico, tmp_path: Path, lock: Path
) -> None:
    stage = Quantizing(hub, pico, tmp_path)
    hub.fail(
        f"api/resolve-cache/{NAME}/resolve/{hub.commit(NAME)}/{TRAIN}", times=9, wrong_bytes=True
    )
    done = stage.run(lock)
    assert done.returncode == 1
    check_refusal(done.stderr, "is not what the hub records", f": {TRAIN}")
    assert stage.nothing_is_made()
    hub.clear_faults()
    content = dict(hub.repositories[NAME].files)
    alter(hub, TRAIN)
    done = stage.run(lock)
    assert done.returncode == 1
    check_refusal(done.stderr, "a pinned repository is not what it was", f": {TRAIN}")
    assert stage.nothing_is_made()

    hub.repositories[NAME].files.update(content)
    done = stage.run(lock)
    assert done.returncode == 0, done.stderr
    made = stage.output("quantize_nvfp4").store.open_pointer(stage.folder / "quantize_nvfp4.json")
    location, locked = hub.location(NAME), read_lock(lock)
    files = {name: locked[location][name].sha256 for name in ("README.md", TRAIN)}
    assert made.facts[CALIBRATION_FILES] == {location: files}

    # What the store has is held, too: it was made of what was read then.
    done = stage.run(lock)
    assert done.returncode == 0, done.stderr
    assert "the store has it" in done.stderr
    other = json.loads(lock.read_text())
    other["repositories"][location][TRAIN]["sha256"] = "0" * 64
    lock.write_text(json.dumps(other))
    done = stage.run(lock)
    assert done.returncode == 1
    check_refusal(done.stderr, "not the one that was pinned", f": {TRAIN}", "0" * 64)
