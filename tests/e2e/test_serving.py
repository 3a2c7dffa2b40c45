"""What the serving stages do when the real server fails, or when they are interrupted.

Each start of vLLM costs half a minute on two cores, so one stage run shows several things.
"""

import contextlib
import io
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

from checkpoints import half_made
from commands import interrupt, main, pointer
from conversion import Conversion, Pico
from fault_server import (
    Change,
    Proxy,
    edited,
    fault_server,
    nth,
    status,
    to,
    truncated,
    without_lines,
)
from scion.artifacts.artifact import Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.safetensors_file import read_header
from scion.common.errors import ScionError
from scion.engines.config import Launch, Serving
from scion.engines.processes import VARIABLE
from scion.engines.server import Server, connect
from scion.engines.vllm import server as vllm
from scion.engines.vllm.command import variables
from scion.evaluation.serving.named_server import check_named_server
from scion.stages import served
from serving_python import PYTHON, run_code

pytestmark = pytest.mark.serve

PROJECT = Path(__file__).parents[2]
CHAT = {
    "name": "weather",
    "set": "chat",
    "messages": [{"role": "user", "content": "What is the weather in Tokyo?"}],
}
LAUNCH = Launch(name="pico", title="Pico", max_model_len=2048, max_num_seqs=2, speculative_tokens=1)
# As little as shows everything: two replies, and a decode of each kind.
SHORT = {"decode_tokens": [4], "repeats": 5, "parallel_requests": [1, 2], "reply_tokens": 16}
ANSWERS = "/v1/completions"
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


def write_old(draft: Draft) -> None:
    (draft.folder / "serving.json").write_text(OLD)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The pointer to make; an earlier artifact is shown beside it."""
    folder = tmp_path / "results" / "measure_serving"
    remake(
        Output.at(folder),
        stage="measure_serving",
        inputs={},
        settings={"old": True},
        environment="sha256:test",
        build=write_old,
    )
    return pointer(folder)


def arguments(
    release: Path, prompts: Path, output: Path, serving: dict[str, Any], **measurement: Any
) -> list[str]:
    context = measurement.pop("max_model_len", LAUNCH.max_model_len)
    settings = {
        "serving": serving,
        "launches": [LAUNCH.model_dump(mode="json") | {"max_model_len": context}],
        "measurement": {"speculative_tokens": [0], **measurement},
    }
    return [
        *(sys.executable, "-m", "scion.stages.measure_serving"),
        *("--release", str(pointer(release)), "--prompts", str(prompts)),
        *("--output", str(output), "--environment", "sha256:test"),
        *("--store", str(release.parent / ".store")),
        *("--python", str(PYTHON), "--log-folder", str(output.parents[1] / "logs")),
        *("--settings", json.dumps(settings)),
    ]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_refusal(done: subprocess.CompletedProcess[str], output: Path, *texts: str) -> None:
    """One clear error, no traceback of the stage's own, and the earlier artifact as it was."""
    assert done.returncode == 1, done.stderr
    message = done.stderr[done.stderr.index("error: ") :]
    for text in (*texts, "where:", "expected:", "found:", "hint:"):
        assert text in message, message
    assert "Traceback (most recent call last)" not in done.stderr.split("error: ")[0]
    assert_untouched(output)


def assert_untouched(output: Path) -> None:
    assert (output.with_suffix("") / "serving.json").read_text() == OLD
    assert half_made(output.parent) == []


def started_by_vllm(port: int) -> list[psutil.Process]:
    """All processes of the server on `port`: front end, and the others of its session."""
    fronts = [process for process in psutil.process_iter() if _listens_on(process, port)]
    sessions = {os.getsid(front.pid) for front in fronts}
    return [process for process in psutil.process_iter() if _session(process.pid) in sessions]


def _listens_on(process: psutil.Process, port: int) -> bool:
    """Whether it is the front end; a forked one's arguments are one text."""
    try:
        return f" --port {port} " in f"{' '.join(process.cmdline())} "
    except psutil.Error:
        return False


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def wait_for(subject: str, log: Path, process: subprocess.Popen[str], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not (log.exists() and subject in log.read_text()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, f"no {subject!r} in {log.read_text()}"
        time.sleep(0.1)


@pytest.fixture
def listener(port: int) -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield port


def test_taken_port(release: Path, prompts: Path, output: Path, listener: int):
    done = run(arguments(release, prompts, output, {"port": listener}))
    check_refusal(done, output, f"port {listener} is taken", "where:    serving.port")


def test_server_that_dies_while_loading(
    release: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A stage would have refused such a release, so the server is asked without one."""
    monkeypatch.chdir(PROJECT)
    broken = tmp_path / "broken"
    shutil.copytree(release, broken)
    for path in broken.iterdir():
        path.chmod(0o644)
    # Its header is whole, so that vLLM comes as far as the weights, and its data end early.
    shard = min(broken.glob("*.safetensors"))
    os.truncate(shard, read_header(shard).data_start + 100)
    serving, log = Serving(port=port), tmp_path / "logs/server.log"
    started = vllm.serve(
        broken, name="release", launch=LAUNCH, serving=serving, python=PYTHON, log=log
    )
    with pytest.raises(ScionError, match="died while loading weights") as caught, started:
        raise AssertionError("it serves what can't be read")
    # The log's own cause.
    assert "SafetensorError" in str(caught.value)
    assert str(log) in str(caught.value)
    assert started_by_vllm(port) == []


def test_server_that_is_never_ready(release: Path, prompts: Path, output: Path, port: int):
    done = run(arguments(release, prompts, output, {"port": port, "start_seconds": 1}))
    check_refusal(done, output, "the server is not ready after 1 s", "measure_serving.pico.n0")
    assert started_by_vllm(port) == []


@pytest.fixture
def own_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stage import vLLM itself, as one that is run by hand."""
    monkeypatch.delenv(VARIABLE)


def test_interrupt_in_the_middle_of_a_decode(
    release: Path, prompts: Path, output: Path, port: int, tmp_path: Path, own_forks: None
):
    log = tmp_path / "stage.log"
    settings = {**SHORT, "decode_tokens": [8, 900], "parallel_requests": [2]}
    command = arguments(release, prompts, output, {"port": port}, **settings)
    with log.open("w") as stderr:
        stage = subprocess.Popen(command, stderr=stderr, text=True)
        try:
            wait_for("2 × 8 tokens", log, stage)
            time.sleep(1)
            processes = psutil.Process(stage.pid).children(recursive=True)
            assert len(processes) >= 4, "fork server, front end, engine and benchmark"
            stage.send_signal(signal.SIGTERM)
            assert stage.wait(60) == 130
        finally:
            stage.kill()
            stage.wait()
    assert "interrupted: no half-made artifact is left" in log.read_text()
    _, alive = psutil.wait_procs(processes, timeout=2)
    assert alive == []
    assert_untouched(output)


def test_server_that_dies_under_load(
    release: Path, prompts: Path, output: Path, port: int, tmp_path: Path
):
    log = tmp_path / "stage.log"
    settings = {**SHORT, "decode_tokens": [8, 900], "parallel_requests": [2]}
    command = arguments(release, prompts, output, {"port": port}, **settings)
    with log.open("w") as stderr:
        stage = subprocess.Popen(command, stderr=stderr, text=True)
        try:
            wait_for("2 × 8 tokens", log, stage)
            time.sleep(1)
            engines = [
                process for process in started_by_vllm(port) if "EngineCore" in process.name()
            ]
            assert engines
            for engine in engines:
                engine.kill()
            code = stage.wait(120)
        finally:
            stage.kill()
            stage.wait()
    done = subprocess.CompletedProcess(command, code, "", log.read_text())
    check_refusal(done, output, "a timed decode failed", "answers of", "EngineDeadError")
    assert started_by_vllm(port) == []


@pytest.fixture(scope="module")
def server(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The release with one draft a step, for all tests that break its answers."""
    log = tmp_path_factory.mktemp("server") / "log"
    serving = Serving()
    with vllm.serve(
        release, name="release", launch=LAUNCH, serving=serving, python=PYTHON, log=log
    ) as running:
        yield running


def test_the_server_imported_nothing_itself(server: Server):
    """Whatever variables imports set, here or in the fork server."""
    assert server.log is not None
    assert "Triton is installed" not in server.log.read_text()
    port = int(server.url.rpartition(":")[2])
    assert any(process.name() == "VLLM::EngineCore" for process in started_by_vllm(port))


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with fault_server(server.url) as running:
        yield running


def through(
    proxy: Proxy, release: Path, prompts: Path, output: Path, **measurement: Any
) -> subprocess.CompletedProcess[str]:
    """The stage, in this process, on a server that is named and stands behind the proxy."""
    chosen = {**SHORT, "speculative_tokens": [1], **measurement}
    command = arguments(release, prompts, output, {"server_url": proxy.url}, **chosen)
    _, m, module, *options = command
    assert m == "-m"
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(errors):
        # It takes seconds, and is tried by itself.
        patch.setattr(served, "check_named_server", lambda *_: None)
        code = main(module.removeprefix("scion.stages."), *options)
    return subprocess.CompletedProcess(command, code, "", errors.getvalue())


def test_a_named_server_that_serves_something_else(proxy: Proxy, release: Path, pico: Pico):
    named = connect(proxy.url)
    check_named_server(named, release)
    # The folder that it serves lies on this machine and says how it is quantized.
    with pytest.raises(ScionError, match="quantized otherwise"):
        check_named_server(named, pico.base)

    def elsewhere(body: Any) -> None:
        body["data"][0]["root"] = "owner/name"

    proxy.change = to("/v1/models", edited(elsewhere))
    check_named_server(named, release)
    # Of the same base, but other weights.
    with pytest.raises(ScionError, match="other weights than the release") as caught:
        check_named_server(named, pico.base)
    assert "nats a token" in caught.value.expected

    def two(body: Any) -> None:
        body["data"].append(body["data"][0] | {"id": "another"})

    proxy.change = to("/v1/models", edited(two))
    with pytest.raises(ScionError, match="which model") as caught:
        connect(proxy.url)
    assert caught.value.found == "release, another"
    with pytest.raises(ScionError, match="which model"):
        connect(proxy.url, model="third")
    assert connect(proxy.url, model="another").model == "another"


def test_a_named_server_is_measured(proxy: Proxy, release: Path, prompts: Path, output: Path):
    chosen = {**SHORT, "speculative_tokens": [1]}
    done = run(arguments(release, prompts, output, {"server_url": proxy.url}, **chosen))
    assert done.returncode == 0, done.stderr
    assert "comparing its model with the release" in done.stderr
    result = json.loads((output.with_suffix("") / "serving.json").read_text())
    (measured,) = result["runs"]
    assert measured["command"] is None
    assert [(row["tokens"], row["parallel"], row["repeats"]) for row in measured["speed"]] == [
        (4, 1, 5),
        (4, 2, 5),
    ]
    assert all(row["ratio_to_baseline"] is None for row in measured["speed"])
    rows = [(row["set"], row["thinking"], row["prompts"]) for row in measured["acceptance"]]
    assert rows == [("chat", False, 1), ("chat", True, 1), ("all", None, 1)]
    assert len((output.with_suffix("") / "timings.jsonl").read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (nth(2, to(ANSWERS, status(500))), "HTTP 500"),
        (to(ANSWERS, truncated(announced=True)), "IncompleteRead"),
        (to(ANSWERS, truncated(announced=False)), "a whole JSON value"),
        (to(ANSWERS, edited(lambda body: body["choices"].clear())), "IndexError"),
        (
            to(ANSWERS, edited(lambda body: body["choices"][0]["token_ids"].pop())),
            "a request was answered short",
        ),
        (to("/metrics", without_lines("spec_decode")), "0 drafts counted"),
        (to("/metrics", without_lines("per_pos_total")), "counted for 0 positions"),
        (to("/metrics", without_lines("num_accepted_tokens_total")), "by position"),
        (to("/metrics", status(404)), "HTTP 404"),
    ],
)
def test_faults_while_replies_are_asked(
    proxy: Proxy, release: Path, prompts: Path, output: Path, change: Change, found: str
):
    proxy.change = change
    check_refusal(through(proxy, release, prompts, output), output, found)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (nth(3, to(ANSWERS, status(500), stream=True)), "1 of 2 requests answered"),
        (nth(6, to(ANSWERS, truncated(announced=False), stream=True)), "answers of"),
    ],
)
def test_faults_while_decodes_are_timed(
    proxy: Proxy, release: Path, prompts: Path, output: Path, change: Change, found: str
):
    proxy.change = change
    check_refusal(through(proxy, release, prompts, output), output, "a timed decode failed", found)


def test_a_prompt_without_room_is_refused_before_anything_is_asked(
    proxy: Proxy, release: Path, prompts: Path, output: Path
):
    done = through(proxy, release, prompts, output, reply_tokens=2040)
    check_refusal(done, output, "does not fit the context", "weather", "2048", "2040 of answer")
    assert proxy.count(ANSWERS) == 0


def test_a_named_server_of_another_launch(proxy: Proxy, release: Path, prompts: Path, output: Path):
    done = through(proxy, release, prompts, output, max_model_len=1024)
    check_refusal(done, output, "not the launch", "max_model_len 1024", "max_model_len 2048")


def test_a_named_server_that_drafts_is_no_baseline(
    proxy: Proxy, release: Path, prompts: Path, output: Path
):
    done = through(proxy, release, prompts, output, speculative_tokens=[0])
    check_refusal(done, output, "counters of drafts can't be right", "drafts during the reply")


def test_a_named_server_has_one_number_of_drafts(
    proxy: Proxy, release: Path, prompts: Path, output: Path
):
    done = through(proxy, release, prompts, output, speculative_tokens=[0, 1])
    check_refusal(done, output, "serving.server_url", "1 and 2 of them")
    assert proxy.seen == []


def test_interrupt_while_the_server_starts(conversion: Conversion, port: int, tmp_path: Path):
    settings = {
        "serving": {"port": port},
        "launch": LAUNCH.model_dump(mode="json"),
        "agent_tasks": {},
    }
    seen: list[psutil.Process] = []

    def starting(log: str) -> bool:
        seen[:] = started_by_vllm(port)
        return "server: " in log and bool(seen)

    done = interrupt(
        "run_agent_tasks",
        signal.SIGTERM,
        when=starting,
        release=pointer(conversion.folder / "graft_mtp"),
        settings=json.dumps(settings),
        python=PYTHON,
        log_folder=tmp_path / "logs",
        output=tmp_path / "results" / "run_agent_tasks.json",
        tasks=PROJECT / "workflow/scion/evaluation/agent/agent_tasks.yaml",
    )
    assert done.returncode == 130, done.stderr
    _, alive = psutil.wait_procs(seen, timeout=2)
    assert alive == []
    assert not list((tmp_path / "results").glob("*"))


def test_killed_stage_leaves_no_server(
    release: Path, prompts: Path, output: Path, port: int, own_forks: None
):
    command = arguments(release, prompts, output, {"port": port})
    log = output.parents[1] / "logs" / "measure_serving.pico.n0.server.log"
    stage = subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_for("Using KeptWeightsNvFp4LinearKernel", log, stage)
        processes = psutil.Process(stage.pid).children(recursive=True)
        assert {process.pid for process in started_by_vllm(port)} < {p.pid for p in processes}
    finally:
        stage.kill()
        stage.wait()
    assert len(processes) >= 4, "fork server, front end, engine and benchmark"
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
    assert (output.with_suffix("") / "serving.json").read_text() == OLD


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
    run = run_code(code)
    assert run.stdout.strip().endswith("equal"), run.stderr


def test_fp8_in_float32_is_vllms_own_product():
    """But for the order of float32 sums, which may move a last bit of bf16."""
    code = """
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.kernels import linear
from vllm.model_executor.layers.quantization.utils.quant_utils import kFp8StaticTensorSym as static
from vllm.platforms import PlatformEnum
from vllm.plugins import load_general_plugins
load_general_plugins()
ours = linear._POSSIBLE_FP8_KERNELS[PlatformEnum.CPU][0]
print(ours.__name__)
torch.manual_seed(0)
with set_current_vllm_config(VllmConfig()):
    config = linear.FP8ScaledMMLinearLayerConfig(
        weight_quant_key=static,
        activation_quant_key=static,
        weight_shape=(48, 64),
        input_dtype=torch.bfloat16,
        out_dtype=torch.bfloat16,
    )
    names = ["weight", "weight_scale", "input_scale", "input_scale_ub"]
    layer = torch.nn.Module()
    layer.weight = torch.randn(48, 64).to(torch.float8_e4m3fn).t()
    layer.weight_scale, layer.input_scale = torch.tensor(0.01), torch.tensor(0.02)
    kernels = [
        kernel(config, names) for kernel in (ours, linear.PerTensorTorchFP8ScaledMMLinearKernel)
    ]
    for shape in ((1, 64), (3, 5, 64)):
        x, bias = torch.randn(shape, dtype=torch.bfloat16), torch.randn(48, dtype=torch.bfloat16)
        for args in ((x,), (x, bias)):
            found, expected = (kernel.apply_weights(layer, *args) for kernel in kernels)
            assert found.shape == expected.shape == (*shape[:-1], 48)
            torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-4)
print("equal")
"""
    run = run_code(code)
    assert run.stdout.split()[-2:] == ["Float32Fp8LinearKernel", "equal"], run.stderr


def test_activations_are_rounded_as_by_vllm():
    """Of each size, at each half between two numbers of FP4, and where nothing can be rounded."""
    code = """
import torch
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import (
    ref_nvfp4_quant_dequant,
)
from scion_vllm_plugin.kernel import round_to_nvfp4
torch.manual_seed(0)
largest_scale = 448.0
halves = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 0.5, 1, 1.5, 2, 3, 4, 5.5, 6])
around = torch.cat([halves, halves.nextafter(torch.zeros(1)), halves.nextafter(halves + 1)])
around[[15, 31, 47]] = 6.0
broken = torch.randn(2, 64)
broken[0, 3], broken[1, 20] = float("nan"), float("inf")
for dtype in (torch.bfloat16, torch.float16, torch.float32):
    samples = [torch.randn(7, 256) * size for size in (0, 1e-6, 0.01, 1, 30, 1e4)]
    for x in (*samples, around[None], -around[None], 2 * around[None], broken):
        for scale in (1e-3, 0.37, 1, largest_scale, 500, 3e4):
            x, scale = x.to(dtype), torch.tensor(scale, dtype=torch.float32)
            expected, found = ref_nvfp4_quant_dequant(x, scale, 16), round_to_nvfp4(x, scale)
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
print("equal")
"""
    run = run_code(code)
    assert run.stdout.strip().endswith("equal"), run.stderr


def test_threads_of_a_caller_are_not_the_servers():
    inherited = {**os.environ, "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    own = vllm.environment(inherited) | variables(Serving(cpu_threads=1))
    code = "import torch; print(torch.get_num_threads())"
    run = subprocess.run([PYTHON, "-c", code], env=own, capture_output=True, text=True)
    assert run.stdout.strip() == "1", run.stderr


def test_the_delta_net_convolves_tokens_one_by_one_as_it_does_a_prompt():
    """For CPUs without AVX512-BF16; drafts and prompts go through the other function there."""
    code = """
import torch
from torch.nn.functional import conv1d
from vllm.model_executor.layers.mamba.ops.cpu.causal_conv1d import causal_conv1d_fn_cpu
from scion_vllm_plugin.delta_net import convolve_by_torch, convolve_channels, use_torch_convolution
use_torch_convolution()
torch.manual_seed(0)
channels, tokens, slots = 320, 9, torch.tensor([5, 1, 6], dtype=torch.int32)
weight = torch.randn(channels, 4).bfloat16()
for bias in (None, torch.randn(channels).bfloat16()):
    x = torch.randn(channels, 3 * tokens).bfloat16()
    kinds = dict(weight=weight, bias=bias, activation="silu")
    expected_state = torch.zeros(8, 6, channels).bfloat16().transpose(1, 2)
    expected = causal_conv1d_fn_cpu(
        x, conv_states=expected_state, query_start_loc=torch.arange(4) * tokens,
        cache_indices=slots, has_initial_state=torch.zeros(3, dtype=torch.bool), **kinds,
    )
    state = torch.zeros(8, 6, channels).bfloat16().transpose(1, 2)
    steps = [
        convolve_by_torch(
            x=x.view(channels, 3, tokens)[..., token].T, conv_state=state[:, :, :3],
            conv_state_indices=slots, **kinds,
        )
        for token in range(tokens)
    ]
    assert torch.equal(torch.stack(steps, -1).transpose(0, 1).reshape(channels, -1), expected)
    assert torch.equal(state, expected_state)
    exact = conv1d(
        x[None].double(), weight[:, None].double(), None if bias is None else bias.double(),
        groups=channels,
    )
    found = convolve_channels(x[None], weight[:, None], bias, padding=0, groups=channels)
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)
print("equal")
"""
    run = run_code(code)
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
    run = run_code(code)
    assert run.stdout.strip().endswith("equal"), run.stderr
