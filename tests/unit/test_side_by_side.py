"""Tensors compared while their files pass, beside what a plain comparison says."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import save_file

from scion.artifacts.file_check import check_files
from scion.artifacts.file_tree import FolderTree
from scion.audit.equality import unequal
from scion.audit.side_by_side import SideBySide
from scion.audit.weights import Extent, RangedCheckpoint
from scion.checkpoint.source import Source
from scion.common.digest import digest_file
from scion.common.errors import ScionError

SIZES = {"a": 3, "b": 700_001, "c": 1, "d": 524_288, "e": 0, "f": 1_500_000}


def checkpoint(folder: Path, seed: int = 0) -> RangedCheckpoint:
    folder.mkdir()
    made = np.random.default_rng(seed)
    tensors = {name: made.integers(0, 256, size, dtype=np.uint8) for name, size in SIZES.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return RangedCheckpoint.open(str(folder))


def passed(folder: Path, passing: SideBySide) -> None:
    sums = {
        path.name: {"size": path.stat().st_size, "sha256": digest_file(path)}
        for path in folder.iterdir()
    }
    assert not check_files(FolderTree(folder), sums, watch=passing.take).problems


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, tuple[Extent, Extent]]:
    ours, theirs = checkpoint(tmp_path / "ours"), checkpoint(tmp_path / "theirs")
    return {name: (extent, theirs.extents[name]) for name, extent in ours.extents.items()}


def test_equal_tensors_are_found_equal_and_not_read_again(
    pairs: dict[str, tuple[Extent, Extent]], tmp_path: Path
) -> None:
    passing = SideBySide(pairs)
    passed(tmp_path / "ours", passing)
    assert set(passing.equal) == SIZES.keys()
    (tmp_path / "ours/model.safetensors").unlink()
    same = {n: (replace(mine, same_as=theirs), theirs) for n, (mine, theirs) in pairs.items()}
    assert unequal(same, what="comparing") == {}


@pytest.mark.parametrize("name", ["b", "d", "f"])
@pytest.mark.parametrize("at", [0, 262_144, -1])
def test_a_tensor_with_another_byte_is_not(
    name: str, at: int, pairs: dict[str, tuple[Extent, Extent]], tmp_path: Path
) -> None:
    original = pairs[name][1]
    place = original.offset + at % original.tensor.size
    with (tmp_path / "theirs/model.safetensors").open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    passing = SideBySide(pairs)
    passed(tmp_path / "ours", passing)
    assert set(passing.equal) == SIZES.keys() - {name}
    assert unequal(pairs, what="comparing") == {name: f"another byte at {place - original.offset}"}


@dataclass(frozen=True)
class _Failing:
    """A source whose bytes end early, or fail to come."""

    error: Exception | None
    folder: Path | None

    def stream(self, *_: Any) -> Iterator[bytes]:
        if self.error is not None:
            raise self.error
        yield b"\0"


@pytest.mark.parametrize("folder", [None, Path()], ids=["hub", "folder"])
@pytest.mark.parametrize(
    "error", [None, OSError("gone"), ScionError("gone", where="", expected="", found="", hint="")]
)
def test_an_original_that_fails_is_left_to_the_plain_comparison(
    error: Exception | None,
    folder: Path | None,
    pairs: dict[str, tuple[Extent, Extent]],
    tmp_path: Path,
) -> None:
    mine, theirs = pairs["b"]
    pairs["b"] = (mine, replace(theirs, source=cast("Source", _Failing(error, folder))))
    passing = SideBySide(pairs)
    passed(tmp_path / "ours", passing)
    assert set(passing.equal) == SIZES.keys() - {"b"}
