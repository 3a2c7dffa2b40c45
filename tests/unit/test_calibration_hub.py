"""Calibration sets that lie on a hub: loaded by `datasets`, at their commit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hub_server import NO_PROXY, HubServer
from lock import ROOT

NAME = "datasets/owner/data"
READ = """
import json, sys
from scion.quantization.calibration.samples import read_rows
from scion.quantization.config import Calibration
(rows,) = read_rows(Calibration.model_validate({"sets": [json.loads(sys.argv[1])]}))
print(json.dumps(rows))
"""
CARD = """\
---
configs:
- config_name: chats
  data_files:
  - split: train
    path: data/train.jsonl
---
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    lines = (json.dumps({"messages": [{"role": "user", "content": f"{n}"}]}) for n in range(5))
    (folder / "data/train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def read(hub: HubServer, cache: Path, **wanted: Any) -> subprocess.CompletedProcess[str]:
    """The rows, by a process that begins with this hub as its own."""
    settings = {"dataset": hub.location(NAME), "subset": "chats", "max_tokens": 100, **wanted}
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(cache),
        "NO_PROXY": NO_PROXY,
        "PYTHONPATH": str(ROOT / "workflow"),
    }
    return subprocess.run(
        [sys.executable, "-c", READ, json.dumps(settings)],
        env=environment,
        capture_output=True,
        text=True,
    )


def test_rows_are_read_at_the_commit_and_moved_once(folder: Path, tmp_path: Path) -> None:
    with HubServer({NAME: folder}) as hub:
        for _ in range(2):
            done = read(hub, tmp_path / "cache", samples=3)
            assert done.returncode == 0, done.stderr
            rows = json.loads(done.stdout)
            assert [row["messages"][0]["content"] for row in rows] == ["0", "1", "2"]
        assert hub.sent("train.jsonl") == (folder / "data/train.jsonl").stat().st_size
        assert all("/main" not in request.path for request in hub.requests)


def test_a_set_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with HubServer({NAME: folder}) as hub:
        done = read(hub, tmp_path / "cache", samples=3, subset="others")
        assert done.returncode == 1
        assert hub.location(NAME) in done.stderr
