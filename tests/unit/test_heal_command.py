"""`scion heal`: somebody else's release, with a head that fits it better."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conversion import Conversion, Pico
from healing import short_texts, spoil
from scion.checkpoint.shards import CONFIG, INDEX, Checkpoint
from scion.cli.main import main
from scion.evaluation.chats import read_chats

QUICK = ("--set", "steps=6", "--set", "batch_tokens=1500", "--set", "held_out_share=0.25")
HEAD = "model-mtp.safetensors"


@pytest.fixture
def folder(conversion: Conversion, tmp_path: Path) -> Path:
    """A release as it was downloaded: with a card and a proof of its own, and nothing else."""
    folder = shutil.copytree(conversion.graft_mtp.folder, tmp_path / "release")
    (folder / "README.md").write_text("what they say of it")
    return folder


@pytest.fixture
def prompts(pico: Pico, tmp_path: Path) -> Path:
    """Short dialogues, and three prompts that wait for a reply."""
    short = {text.name for text in short_texts(pico)}
    lines = (pico.folder / "calibration.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    names = [chat.name for chat in read_chats(pico.folder / "calibration.jsonl")]
    kept = [row for row, name in zip(rows, names, strict=True) if name in short]
    asked = [json.loads(line) for line in (pico.folder / "healing.jsonl").read_text().splitlines()]
    kept += [row for row in asked if not row["tools"]][:3]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    return path


@pytest.fixture
def heal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*options: Any) -> int:
        words = ["scion", "heal", *map(str, options), "--device", "cpu", "--reply-tokens", "12"]
        monkeypatch.setattr("sys.argv", words)
        return main()

    return run


def test_the_head_is_another_and_all_else_stays(
    folder: Path,
    prompts: Path,
    heal: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(monkeypatch)
    assert heal(folder, "--prompts", prompts, *QUICK) == 0
    healed = folder.with_name("release-healed")
    told = capsys.readouterr()
    assert told.out.splitlines()[-1].startswith(f"{healed}: 15 tensors trained on 13 texts; ")
    assert "README.md" in told.err
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in healed.iterdir()} == names - {"README.md", "tensors.json"}
    for name in (CONFIG, INDEX, "model-00001-of-00003.safetensors"):
        assert (healed / name).read_bytes() == (folder / name).read_bytes()
    assert (healed / HEAD).read_bytes() != (folder / HEAD).read_bytes()
    before, after = (Checkpoint.open(each).headers[HEAD] for each in (folder, healed))
    assert before.tensors == after.tensors
    # Nothing of the work is left, and what is there is never written over.
    assert {path.name for path in folder.parent.iterdir()} == {
        *("release", "release-healed", "prompts.jsonl"),
    }
    assert heal(folder, "--prompts", prompts, *QUICK) == 1
    assert "there is something where the release would go" in capsys.readouterr().err


def test_a_head_that_gets_no_better_is_not_written(
    folder: Path, prompts: Path, heal: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    worse = ("--set", "learning_rate=0.5", "--set", "steps=2")
    assert heal(folder, "--prompts", prompts, *QUICK, *worse) == 1
    assert "the head got no better: nothing is written" in capsys.readouterr().err
    assert sorted(path.name for path in folder.parent.iterdir()) == ["prompts.jsonl", "release"]


@pytest.mark.parametrize("setting", ["steps", "stepps=3", "steps=many", "learning_rate=2"])
def test_settings_are_checked_before_anything_is_read(
    setting: str,
    folder: Path,
    prompts: Path,
    heal: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert heal(folder, "--prompts", prompts, "--set", setting) == 1
    assert "a setting can't be used" in capsys.readouterr().err
