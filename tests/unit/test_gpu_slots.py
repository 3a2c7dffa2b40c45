"""GPUs of a machine, each of which one server has at a time; runs on a machine without any."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scion.common.errors import ScionError
from scion.engines.vllm.gpu_slots import own_gpus, visible

HOLD = """
import sys, time
from pathlib import Path
from scion.engines.vllm.gpu_slots import own_gpus
folder, count = Path(sys.argv[1]), int(sys.argv[2])
with own_gpus(count, ["0", "1"], folder=folder) as chosen:
    print(",".join(chosen), flush=True)
    sys.stdin.read()
"""


def hold(folder: Path, count: int) -> subprocess.Popen[str]:
    """Another process that has so many of two GPUs until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder), str(count)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def chosen(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_servers_have_different_gpus_and_a_third_waits(tmp_path: Path) -> None:
    first, second = hold(tmp_path, 1), hold(tmp_path, 1)
    assert {chosen(first), chosen(second)} == {"0", "1"}
    third = hold(tmp_path, 1)
    assert third.stderr is not None
    assert third.stderr.readline() == "waiting for 1 of 2 GPUs, which other servers have\n"
    # Killed, it lets go as well.
    first.kill()
    assert chosen(third) in {"0", "1"}
    for process in (first, second, third):
        process.communicate()


def test_a_server_of_two_waits_for_both_and_holds_neither_meanwhile(tmp_path: Path) -> None:
    first = hold(tmp_path, 1)
    assert chosen(first) == "0"
    both = hold(tmp_path, 2)
    assert both.stderr is not None
    assert both.stderr.readline().startswith("waiting for 2 of 2 GPUs")
    with own_gpus(1, ["1"], folder=tmp_path) as mine:
        assert mine == ["1"]
    first.communicate()
    assert chosen(both) == "0,1"
    both.communicate()


def test_more_than_there_are_is_refused_at_once(tmp_path: Path) -> None:
    begin = time.monotonic()
    with (
        pytest.raises(ScionError, match="more GPUs than there are") as refused,
        own_gpus(2, ["GPU-1"], folder=tmp_path),
    ):
        pass
    assert "tensor_parallel" in str(refused.value)
    assert time.monotonic() - begin < 5
    assert not list(tmp_path.glob("*.lock"))


def test_what_is_visible_is_what_the_caller_was_given() -> None:
    assert visible({"CUDA_VISIBLE_DEVICES": "2, GPU-7"}) == ["2", "GPU-7"]
    assert visible({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_a_command_takes_over_the_gpus_that_were_free_for_it(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0,1"}
    tells = (
        "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-m", "scion.engines.vllm.on_gpus", "1", sys.executable, "-c", tells]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    first, second = start(), start()
    assert {chosen(first), chosen(second)} == {"0", "1"}
    third = start()
    assert third.stderr is not None
    assert third.stderr.readline() == "waiting for 1 of 2 GPUs, which other servers have\n"
    first.kill()
    assert chosen(third) in {"0", "1"}
    for process in (first, second, third):
        process.communicate()
    none = subprocess.run(
        command, env=environment | {"CUDA_VISIBLE_DEVICES": ""}, input="", capture_output=True
    )
    assert none.stdout == b"\n"
