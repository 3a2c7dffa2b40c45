"""Host memory that may be taken, and hidden states in one piece of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from scion.common.memory import available_memory
from scion.quantization.layerwise.hidden_states import HiddenStates

GIB = 1 << 30
V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The kernel's table of a machine with 18 GiB to give."""
    table = tmp_path / "meminfo"
    rows = {"MemTotal": 32 * GIB, "MemFree": 2 * GIB, "MemAvailable": 18 * GIB}
    lines = [f"{name + ':':16}{size >> 10:>8} kB\n" for name, size in rows.items()]
    table.write_text("".join([*lines, "HugePages_Total:       0\n"]))
    return table


def test_the_kernels_table_is_read_as_others_read_it() -> None:
    # Between the two the machine goes on.
    assert available_memory(Path("nowhere")) == pytest.approx(
        psutil.virtual_memory().available, rel=0.2
    )


def cgroup(folder: Path, names: tuple[str, str, str], limit: object, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in ((names[0], limit), (names[1], used)):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\n")


@pytest.mark.parametrize(
    ("names", "line", "below"), [(V2, "0::/a/b", "a/b"), (V1, "4:memory:/a/b", "memory/a/b")]
)
def test_a_cgroups_limit_holds_and_its_cache_can_be_had(
    tmp_path: Path, names: tuple[str, str, str], line: str, below: str, machine: Path
) -> None:
    (tmp_path / "self").write_text(f"9:cpu:/elsewhere\n{line}\n")
    cgroup(tmp_path / "mount" / below, names, 8 * GIB, 5 * GIB, 2 * GIB)
    assert available_memory(tmp_path / "self", tmp_path / "mount", machine) == 5 * GIB
    # The one above has less.
    cgroup((tmp_path / "mount" / below).parent, names, 4 * GIB, 3 * GIB, 0)
    assert available_memory(tmp_path / "self", tmp_path / "mount", machine) == GIB


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path, machine: Path) -> None:
    assert available_memory(tmp_path / "none", tmp_path, machine) == 18 * GIB
    (tmp_path / "self").write_text("0::/host/name\n")
    cgroup(tmp_path / "mount", V2, "max", 5 * GIB, 0)
    assert available_memory(tmp_path / "self", tmp_path / "mount", machine) == 18 * GIB


def test_a_container_that_sees_only_its_own_mount_has_its_limit(
    tmp_path: Path, machine: Path
) -> None:
    (tmp_path / "self").write_text("0::/host/name\n")
    cgroup(tmp_path / "mount", V2, GIB, 2 * GIB, 0)
    assert available_memory(tmp_path / "self", tmp_path / "mount", machine) == 0


class Runtime:
    """Stands in for CUDA's, which no CPU has."""

    cudaError = SimpleNamespace(success=0)

    def __init__(self) -> None:
        self.pinned: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, _flags: int) -> int:
        self.pinned[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.pinned[address]
        return 0


def test_hidden_states_beside_a_gpu_are_one_pinned_piece_of_their_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    options: dict[str, Any] = {"device": torch.device("cuda"), "folder": tmp_path}
    states = HiddenStates([5, 3], 48, place="host", **options)
    assert list(runtime.pinned.values()) == [2 * 8 * 48]
    states.write(1, torch.ones(1, 3, 48, dtype=torch.bfloat16))
    kept = states.tensors()
    assert [tuple(tensor.shape) for tensor in kept.values()] == [(1, 5, 48), (1, 3, 48)]
    assert kept["1"].eq(1).all()
    del kept
    states.move("disk")
    assert not runtime.pinned
    assert states.tensors()["1"].eq(1).all()
