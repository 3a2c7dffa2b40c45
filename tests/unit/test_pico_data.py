import json
import subprocess
import sys
from pathlib import Path

import pytest

from conversion import Pico

GENERATED = ("calibration", "calibration_texts", "heldout", "heldout_texts")


@pytest.fixture(scope="module")
def generated(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    command = [sys.executable, pico.folder / "make_dialogues.py", "--out", folder]
    subprocess.run(command, check=True)
    return folder


def texts(pico: Pico, name: str) -> set[str]:
    lines = (pico.folder / f"{name}.jsonl").read_text().splitlines()
    return {json.loads(line)["text"] for line in lines}


@pytest.mark.parametrize("name", GENERATED)
def test_the_generator_writes_the_committed_files(pico: Pico, generated: Path, name: str) -> None:
    written = (generated / f"{name}.jsonl").read_bytes()
    assert written == (pico.folder / f"{name}.jsonl").read_bytes()


def test_no_text_is_both_calibrated_with_and_held_out(pico: Pico) -> None:
    calibrated = texts(pico, "calibration_texts")
    assert len(calibrated) == 20
    assert calibrated.isdisjoint(texts(pico, "heldout_texts"))


def test_the_agent_set_holds_tools_and_calls(pico: Pico) -> None:
    rows = [json.loads(line) for line in pico.calibration.open()]
    assert sum(bool(row["tools"]) for row in rows) > len(rows) / 2
    calling = [row for row in rows if any("tool_calls" in part for part in row["messages"])]
    assert len(calling) > len(rows) / 2
