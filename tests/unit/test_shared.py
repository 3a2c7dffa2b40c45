"""What the tests themselves share: made once, and anew if whoever made it failed."""

import threading
import time
from pathlib import Path

import pytest

from shared import made_once


def test_several_at_once_get_one_folder_that_is_whole(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tmp_path_factory.getbasetemp()  # Made here, for it is not made for threads.
    made: list[Path] = []
    found: list[str] = []

    def make(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.2)  # The others ask meanwhile.
        (folder / "file").write_text("whole")

    def ask() -> None:
        folder = made_once(tmp_path_factory, "several", make)
        found.append((folder / "file").read_text())

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert found == ["whole"] * 3
    assert len(made) == 1


def test_what_a_maker_left_that_failed_is_made_anew(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError

    def make(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        (folder / "file").write_text("whole")

    with pytest.raises(RuntimeError):
        made_once(tmp_path_factory, "failed", fail)
    folder = made_once(tmp_path_factory, "failed", make)
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert made_once(tmp_path_factory, "failed", fail) == folder
