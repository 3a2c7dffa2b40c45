"""What the serving stages do when the real server fails, or when they are interrupted.

Each start of vLLM costs half a minute on two cores, so one stage run shows several things.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from commands import interrupt
from conversion import Conversion
from scion.safetensors_file import read_header

pytestmark = pytest.mark.serve

PROJECT = Path(__file__).parents[2]
PYTHON = PROJECT / "envs/serve-cpu/.venv/bin/python"
CHAT = {"messages": [{"role": "user", "content": "What is the weather in Tokyo?"}]}
OLD = "measured earlier"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(CHAT) + "\n")
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The manifest to make; an earlier artifact lies there."""
    folder = tmp_path / "results" / "measure_serving"
    folder.mkdir(parents=True)
    (folder / "serving.json").write_text(OLD)
    return folder / "manifest.json"


def arguments(release: Path, prompts: Path, output: Path, port: int, **measurement: object):
    settings = {"serving": {"port": port}, "measurement": measurement}
    return [
        *(sys.executable, "-m", "scion.stages.measure_serving"),
        *("--release", str(release / "manifest.json"), "--prompts", str(prompts)),
        *("--output", str(output), "--environment", "sha256:test"),
        *("--python", str(PYTHON), "--log-folder", str(output.parents[2] / "logs")),
        *("--settings", json.dumps(settings)),
    ]


def assert_untouched(output: Path) -> None:
    assert (output.parent / "serving.json").read_text() == OLD
    assert [path.name for path in output.parents[1].iterdir()] == ["measure_serving"]


def started_by_vllm(port: int) -> list[psutil.Process]:
    """All processes of the server on `port`: guard, front end, and the others of its session."""
    fronts = [
        process
        for process in psutil.process_iter()
        if _has_argument(process, "--port") and _has_argument(process, str(port))
    ]
    sessions = {os.getsid(front.pid) for front in fronts}
    return [one for one in psutil.process_iter() if _session(one.pid) in sessions]


def _has_argument(process: psutil.Process, argument: str) -> bool:
    try:
        return argument in process.cmdline()
    except psutil.Error:
        return False


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def wait_for(what: str, log: Path, process: subprocess.Popen[str], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not (log.exists() and what in log.read_text()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, f"no {what!r} in {log.read_text()}"
        time.sleep(0.1)


@pytest.fixture
def listener(port: int) -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield port


def test_taken_port(release: Path, prompts: Path, output: Path, listener: int):
    command = arguments(release, prompts, output, listener, speculative_tokens=[0])
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f"port {listener} is taken" in run.stderr
    assert "where:    serving.port" in run.stderr
    assert "Traceback" not in run.stderr
    assert_untouched(output)


def test_server_that_dies_while_loading(
    release: Path, prompts: Path, output: Path, port: int, tmp_path: Path
):
    broken = tmp_path / "broken"
    shutil.copytree(release, broken)
    # Its header is whole, so that vLLM comes as far as the weights, and its data end early.
    shard = min(broken.glob("*.safetensors"))
    os.truncate(shard, read_header(shard).data_start + 100)
    command = arguments(broken, prompts, output, port, speculative_tokens=[0])
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "error: the server died while loading weights" in run.stderr
    assert "measure_serving.n0.server.log" in run.stderr
    assert "SafetensorError" in run.stderr, "the log's own cause must be shown"
    assert 'Traceback (most recent call last):\n  File "/' not in run.stderr.split("error:")[0]
    assert started_by_vllm(port) == []
    assert_untouched(output)


def test_failed_request(release: Path, prompts: Path, output: Path, port: int):
    """A decode that does not fit the context: the server refuses it and goes on living."""
    command = arguments(
        release, prompts, output, port, speculative_tokens=[0], decode_tokens=[20, 2000]
    )
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "a request to the server failed" in run.stderr
    assert "HTTP 400" in run.stderr
    assert started_by_vllm(port) == []
    assert_untouched(output)


def test_interrupt_in_the_middle_of_a_decode(
    release: Path, prompts: Path, output: Path, port: int, tmp_path: Path
):
    log = tmp_path / "stage.log"
    command = arguments(
        release,
        prompts,
        output,
        port,
        speculative_tokens=[0],
        decode_tokens=[8, 900],
        parallel_requests=[2],
    )
    with log.open("w") as stderr:
        stage = subprocess.Popen(command, stderr=stderr, text=True)
        try:
            wait_for("2 × 8 tokens", log, stage)
            time.sleep(1)
            processes = started_by_vllm(port)
            assert len(processes) >= 3, "guard, front end and engine"
            stage.send_signal(signal.SIGTERM)
            assert stage.wait(60) == 130
        finally:
            stage.kill()
            stage.wait()
    assert "interrupted: no half-made artifact is left" in log.read_text()
    _, alive = psutil.wait_procs(processes, timeout=2)
    assert alive == []
    assert_untouched(output)


@pytest.mark.parametrize("stage", ["run_agent_tasks", "evaluate_perplexity"])
def test_interrupt_while_the_server_starts(
    conversion: Conversion, prompts: Path, port: int, tmp_path: Path, stage: str
):
    own: Any = {
        "run_agent_tasks": {"tasks": PROJECT / "workflow/scion/agent_tasks.yaml"},
        "evaluate_perplexity": {
            "dataset": prompts,
            "source": conversion.extract_text.folder / "manifest.json",
        },
    }[stage]
    section = {"run_agent_tasks": "agent_tasks", "evaluate_perplexity": "perplexity"}[stage]
    settings = {"serving": {"port": port}, section: {}}
    if stage == "evaluate_perplexity":
        settings[section] = {"samples": 1}
    seen: list[psutil.Process] = []

    def starting(said: str) -> bool:
        seen[:] = started_by_vllm(port)
        return "server: " in said and bool(seen)

    done = interrupt(
        stage,
        signal.SIGTERM,
        when=starting,
        release=conversion.graft_mtp.folder / "manifest.json",
        settings=json.dumps(settings),
        python=PYTHON,
        log_folder=tmp_path / "logs",
        output=tmp_path / "results" / stage / "manifest.json",
        **own,
    )
    assert done.returncode == 130, done.stderr
    _, alive = psutil.wait_procs(seen, timeout=2)
    assert alive == []
    assert list((tmp_path / "results").iterdir()) == []


def test_killed_stage_leaves_no_server(release: Path, prompts: Path, output: Path, port: int):
    command = arguments(release, prompts, output, port, speculative_tokens=[0])
    log = output.parents[2] / "logs" / "measure_serving.n0.server.log"
    stage = subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_for("Using KeptWeightsNvFp4LinearKernel", log, stage)
        processes = started_by_vllm(port)
    finally:
        stage.kill()
        stage.wait()
    assert len(processes) >= 3, "guard, front end and engine"
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
    assert (output.parent / "serving.json").read_text() == OLD


def test_kept_weights_change_no_bit():
    """The plugin's kernel returns what vLLM's own emulation returns."""
    code = """
import torch, types
from vllm.model_executor.kernels.linear.nvfp4.base import NvFp4LinearLayerConfig
from vllm.model_executor.kernels.linear.nvfp4.emulation import EmulationNvFp4LinearKernel
from scion_vllm_plugin.kernel import KeptWeightsNvFp4LinearKernel
torch.manual_seed(0)
layer = types.SimpleNamespace(
    weight=torch.randint(0, 256, (96, 64), dtype=torch.uint8),
    weight_scale=torch.rand(96, 8).to(torch.float8_e4m3fn),
    weight_global_scale=torch.tensor(0.01),
    input_global_scale_inv=torch.tensor(500.0),
)
own, kept = (
    kernel(NvFp4LinearLayerConfig())
    for kernel in (EmulationNvFp4LinearKernel, KeptWeightsNvFp4LinearKernel)
)
for tokens in (1, 4):
    x, bias = torch.randn(tokens, 128, dtype=torch.bfloat16), torch.randn(96, dtype=torch.bfloat16)
    for args in ((x,), (x, bias)):
        assert torch.equal(own.apply_weights(layer, *args), kept.apply_weights(layer, *args))
print("equal")
"""
    run = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip().endswith("equal"), run.stderr


def test_the_delta_net_decodes_as_its_definition_says():
    """The plugin's one-token step against the recurrence in float64, output and state."""
    code = """
import torch
import vllm._custom_ops as ops
from torch.nn.functional import normalize, softplus
from scion_vllm_plugin.delta_net import decode_by_spec_kernel
torch.manual_seed(0)
sequences, heads, values, size = 3, 2, 4, 64
slots = torch.tensor([5, 1, 6], dtype=torch.int32)
q, k = (torch.randn(1, sequences, heads, size).bfloat16() for _ in range(2))
v = torch.randn(1, sequences, values, size).bfloat16()
a, b = (torch.randn(sequences, values).bfloat16() for _ in range(2))
A_log, dt_bias = torch.randn(values), torch.randn(values).bfloat16()
before = torch.randn(8, values, size, size)
after = before.clone()
out = decode_by_spec_kernel(
    A_log=A_log, dt_bias=dt_bias, q=q, k=k, v=v, a=a, b=b, initial_state_source=after,
    initial_state_indices=slots, cu_seqlens=torch.arange(sequences + 1, dtype=torch.int32),
    use_qk_l2norm_in_kernel=True,
)
assert out.shape == (sequences, 1, values, size)
for i, slot in enumerate(slots.tolist()):
    query, key = (normalize(x[0, i].double()).repeat_interleave(2, 0) for x in (q, k))
    decay = (-A_log.double().exp() * softplus(a[i].double() + dt_bias.double())).exp()
    state = before[slot].double() * decay[:, None, None]
    change = v[0, i].double() - torch.einsum("hk,hkv->hv", key, state)
    state += torch.einsum("hk,hv->hkv", key, change * b[i].double().sigmoid()[:, None])
    read = torch.einsum("hk,hkv->hv", query, state) * size**-0.5
    torch.testing.assert_close(after[slot].double(), state, atol=1e-5, rtol=0)
    torch.testing.assert_close(out[i, 0].double(), read, atol=2e-3, rtol=1e-2)
untouched = [slot for slot in range(8) if slot not in slots.tolist()]
assert torch.equal(after[untouched], before[untouched])
print("equal")
"""
    run = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip().endswith("equal"), run.stderr
