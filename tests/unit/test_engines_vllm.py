"""The vLLM command, its environment, its log and its counters."""

import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from scion.architectures.families import QWEN3_5
from scion.common.errors import ScionError
from scion.engines.config import Launch, Serving
from scion.engines.processes import fork_server_socket
from scion.engines.served_model import ServedModel
from scion.engines.server import Command, free_port, log_end, running
from scion.engines.vllm import server as vllm
from scion.engines.vllm.command import ServerCommand, server_command
from scion.engines.vllm.counters import SpecDecodeCounters, read_counters
from scion.engines.vllm.hardware import hardware, used_gpus, visible_gpus
from scion.engines.vllm.log import capacity, gpus, phase

# Captured from vLLM 0.32 with three drafted tokens, the values changed to some that tell apart.
METRICS = """\
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="pico"} 450.0
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="pi{\\"c} 7o"} 200.0
# TYPE vllm:spec_decode_num_drafts_created gauge
vllm:spec_decode_num_drafts_created{engine="0",model_name="pico"} 1.7954594695935938e+09
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="pico"} 600.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="pico"} 400.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="pico",position="1"} 140.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="pico",position="0"} 180.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="pico",position="2"} 80.0
vllm:spec_decode_num_accepted_tokens_per_pos_created{engine="0",position="0"} 1.79545946e+09
"""


def test_counters_are_read_by_position():
    assert read_counters(METRICS) == SpecDecodeCounters(200, 600, 400, (180, 140, 80))


def test_counters_of_several_engines_add_up():
    second = METRICS.replace('engine="0"', 'engine="1"')
    assert read_counters(METRICS + second) == SpecDecodeCounters(400, 1200, 800, (360, 280, 160))


def test_difference_counts_only_what_came_between():
    earlier = SpecDecodeCounters(100, 300, 250, (100, 90, 60))
    assert read_counters(METRICS) - earlier == SpecDecodeCounters(100, 300, 150, (80, 50, 20))


def test_difference_from_before_the_first_draft():
    # A server shows no positions before it has drafted.
    assert read_counters(METRICS) - read_counters("") == read_counters(METRICS)


def test_stretches_add_up():
    counters = SpecDecodeCounters(100, 300, 250, (100, 90, 60))
    assert counters + SpecDecodeCounters(0, 0, 0, ()) == counters
    assert counters + counters - counters == counters


def test_a_server_that_does_not_speculate_counts_nothing():
    counters = read_counters("vllm:generation_tokens_total 4.0\n")
    assert counters == SpecDecodeCounters(0, 0, 0, ())
    assert counters.fault(1) == "0 drafts counted"


@pytest.mark.parametrize(
    ("lost", "fault"),
    [
        ("num_drafts_total", "0 drafts counted"),
        ("num_draft_tokens_total", "0 drafted tokens in 200 drafts of 3"),
        ("num_accepted_tokens_total", "0 accepted tokens, and 400 by position"),
        ("num_accepted_tokens_per_pos_total", "counted for 0 positions"),
        ('position="2"', "counted for 2 positions"),
    ],
)
def test_a_lost_counter_is_noticed(lost: str, fault: str):
    assert read_counters(METRICS).fault(3) is None
    left = "\n".join(line for line in METRICS.splitlines() if lost not in line)
    assert fault in str(read_counters(left).fault(3))


def test_a_counter_that_stands_still_is_noticed():
    stuck = SpecDecodeCounters(100, 300, 10, (10, 0, 0)) - SpecDecodeCounters(
        100, 200, 10, (9, 0, 0)
    )
    assert stuck.fault(3) == "0 drafts counted"
    assert "drafts of 3" in str(SpecDecodeCounters(100, 50, 0, (0, 0, 0)).fault(3))


RELEASE = ServedModel(QWEN3_5, "NVFP4", lost_tower=True)


def command(drafted: int, *, model: ServedModel = RELEASE, launch: dict[str, Any], **serving: Any):
    wanted = {"name": "one", "title": "One", "max_model_len": 2048, "speculative_tokens": drafted}
    what = server_command(
        Launch.model_validate(wanted | launch),
        model,
        Serving.model_validate(serving),
        measuring=True,
    )
    return vllm.command(
        Path("model"),
        name="release",
        what=what,
        port=8123,
        python=Path("env/bin/python"),
        inherited={"PATH": "/bin", "PYTHONPATH": "/other"},
    )


def test_command_for_the_cpu():
    launched = command(3, launch={"max_num_seqs": 2})
    text = " ".join(launched.arguments)
    entry = "env/bin/python -m vllm.entrypoints.launchers.api_server.entry --model model "
    assert text.startswith(f"{entry}--served-model-name release --host 127.0.0.1 --port 8123 ")
    assert "--quantization modelopt --language-model-only" in text
    assert "--max-model-len 2048 --max-num-seqs 2" in text
    assert "--no-enable-prefix-caching --enforce-eager" in text
    assert '{"method":"mtp","num_speculative_tokens":3}' in launched.arguments
    assert launched.environment["OMP_NUM_THREADS"] == "1"
    assert launched.environment["PATH"] == "/bin"
    assert "PYTHONPATH" not in launched.environment


def test_command_for_cuda():
    shared = {"kv_cache_dtype": "fp8", "gpu_memory_utilization": 0.9, "tensor_parallel": 2}
    launched = command(
        1, launch=shared, environment="serve-cuda", arguments=["--max-num-batched-tokens", "99"]
    )
    assert launched.arguments[:3] == ("env/bin/vllm", "serve", "model")
    told = "--tensor-parallel-size 2 --kv-cache-dtype fp8 --gpu-memory-utilization 0.9"
    assert told in " ".join(launched.arguments)
    assert launched.arguments[-2:] == ("--max-num-batched-tokens", "99")
    assert "--enforce-eager" not in launched.arguments
    assert "OMP_NUM_THREADS" not in launched.environment


def test_no_speculation_and_no_quantization_unless_asked():
    launched = command(0, launch={}, model=ServedModel(QWEN3_5))
    unasked = {"--speculative-config", "--quantization", "--kv-cache-dtype", "--max-num-seqs"}
    assert not unasked & set(launched.arguments)
    assert "--gpu-memory-utilization" not in launched.arguments


@pytest.mark.parametrize("environment", ["serve-cpu", "serve-cuda"])
def test_what_ran_what_is_recorded_and_what_is_printed_are_one(environment: str):
    launched = command(
        3, launch={}, environment=environment, arguments=["--max-num-batched-tokens", "99"]
    )
    record = json.loads(json.dumps(launched.record))
    again = ServerCommand.recorded(record, [])
    # Interpreter, folder, name and port are the reader's own.
    assert again.arguments("model", name="release", port=8123)[1:] == launched.arguments[1:]
    assert again.variables.items() <= launched.environment.items()
    assert again.record() == launched.record
    assert "env/bin" not in json.dumps(record)
    assert "8123" not in json.dumps(record)
    # A shell reads the printed text as the same words.
    typed = shlex.split(again.text("model", name="release", port=8123).replace("\\\n", ""))
    variables = [f"{name}={value}" for name, value in again.variables.items()]
    assert typed == [*variables, *again.arguments("model", name="release", port=8123)]


@pytest.mark.parametrize(
    "argument", ["--tensor-parallel-size", "-tp", "--max_model_len=9", "--kv-cache-dtype", "--host"]
)
def test_what_the_launch_says_is_no_argument_of_the_machine(argument: str):
    with pytest.raises(ValueError, match="for the card as well"):
        Serving(arguments=(argument, "2"))


def test_phase_is_the_last_that_the_log_shows():
    assert phase("") == "importing vLLM"
    assert phase("Starting to load model x\nKV cache size") == "preparing the cache"


# As the sources of vLLM 0.25.1 print them on a GPU: each fact has its own line.
LOG_025 = """\
(EngineCore pid=9) INFO 07-14 10:01:00 [gpu_model_runner.py:5306] Model loading took 17.42 GiB \
memory and 12.300000 seconds
(EngineCore pid=9) INFO 07-14 10:01:40 [gpu_worker.py:538] Available KV cache memory: 8.73 GiB
(EngineCore pid=9) INFO 07-14 10:01:40 [kv_cache_utils.py:2146] GPU KV cache size: 318,912 tokens
(EngineCore pid=9) INFO 07-14 10:01:40 [kv_cache_utils.py:2147] Maximum concurrency for 262,144 \
tokens per request: 1.22x
(EngineCore pid=9) INFO 07-14 10:01:52 [gpu_model_runner.py:6707] Graph capturing finished in \
7 secs, took 0.31 GiB
"""
# Captured from vLLM 0.32.0 on a CPU, where cache and concurrency stand in one line.
LOG_032_CPU = """\
(EngineCore pid=25695) INFO 11-24 01:01:46 [cpu_worker.py:260] Explicitly set (1.0/23.54) GiB for \
KV cache on node 0.
(EngineCore pid=25695) INFO 11-24 01:01:46 [kv_cache_utils.py:2327] CPU KV cache size: 762,600 \
tokens, Maximum concurrency for 2,048 tokens per request: 372.36x
"""


def test_capacity_of_a_gpu_server(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text(LOG_025)
    assert capacity(log) == {
        "kv_cache_tokens": 318912,
        "concurrency": 1.22,
        "memory": {"weights_gib": 17.42, "kv_cache_gib": 8.73, "graphs_gib": 0.31},
    }
    # The second model runner of 0.25.1 leaves a word out; 0.32.0 joins two lines.
    log.write_text(
        LOG_025.replace("GiB memory and", "GiB and").replace(
            "318,912 tokens\n",
            "318,912 tokens, Maximum concurrency for 262,144 tokens per request: 1.22x\n",
        )
    )
    assert capacity(log)["memory"]["weights_gib"] == 17.42
    assert capacity(log)["concurrency"] == 1.22


def test_capacity_of_a_cpu_server(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text(LOG_032_CPU)
    assert capacity(log) == {
        "kv_cache_tokens": 762600,
        "concurrency": 372.36,
        "memory": {"weights_gib": None, "kv_cache_gib": 1.0, "graphs_gib": None},
    }


def test_capacity_is_unknown_without_a_log(tmp_path: Path):
    nothing = {
        "kv_cache_tokens": None,
        "concurrency": None,
        "memory": {"weights_gib": None, "kv_cache_gib": None, "graphs_gib": None},
    }
    assert capacity(None) == nothing
    (tmp_path / "log").write_text("")
    assert capacity(tmp_path / "log") == nothing


def test_log_end_shows_the_cause_and_the_last_lines(tmp_path: Path):
    log = tmp_path / "log"
    lines = [
        "(APIServer pid=1) WARNING 11-23 18:56:00 [system_utils.py:255] such as OSError: files",
        "(EngineCore pid=2) ERROR 11-23 18:56:02 [core.py:1510] ValueError: the cause",
        *(f"frame {number}" for number in range(100)),
        "the end",
    ]
    log.write_text("\n".join(lines))
    shown = log_end(log)
    assert "ValueError: the cause" in shown
    assert "OSError" not in shown
    assert "| the end" in shown
    assert "frame 50" not in shown


# As vLLM 0.32.0 prints its configuration.
RANKS = (
    "load_format=auto, tensor_parallel_size={}, pipeline_parallel_size={}, data_parallel_size={}, "
)


@pytest.mark.parametrize(("ranks", "count"), [((1, 1, 1), 1), ((2, 1, 1), 2), ((2, 2, 2), 8)])
def test_a_log_tells_how_many_gpus_serve(tmp_path: Path, ranks: tuple[int, ...], count: int):
    log = tmp_path / "log"
    log.write_text(RANKS.format(*ranks))
    assert gpus(log) == count
    log.write_text("something else")
    assert gpus(log) is None
    assert gpus(None) is None


def test_only_the_gpus_that_are_used_count():
    machine = ["NVIDIA H100", "NVIDIA H100", "NVIDIA L4"]
    assert list(used_gpus(machine, 1)) == ["NVIDIA H100"]
    assert list(used_gpus(machine, 3)) == machine
    with pytest.raises(ScionError, match="more GPUs than CUDA shows"):
        used_gpus(["NVIDIA H100"], 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has a GPU")
def test_cuda_itself_is_asked_which_gpus_there_are(monkeypatch: pytest.MonkeyPatch):
    assert visible_gpus(Path(sys.executable)) == []
    serving, launch = Serving(environment="serve-cuda"), Launch(name="a", title="", max_model_len=9)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ScionError, match="more GPUs") as caught:
        hardware(serving, launch, python=Path(sys.executable))
    assert (caught.value.expected, caught.value.found) == ("1", "0: none")


def test_a_server_leaves_nothing_in_the_temporary_folder(tmp_path: Path):
    """A server that leaves a folder and a socket in its TMPDIR, and is ended like every other."""
    code = """
import http.server, json, os, socket, sys, tempfile
tempfile.mkdtemp()
socket.socket(socket.AF_UNIX).bind(os.path.join(tempfile.gettempdir(), "c" * 36))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        where = {"id": "release", "root": tempfile.gettempdir()}
        self.wfile.write(json.dumps({"data": [where]}).encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
    port = free_port()
    what = Command(
        arguments=(sys.executable, "-c", code, str(port)),
        environment=os.environ,
        model="release",
        record={},
        explain=phase,
    )
    forks = fork_server_socket(Path(sys.executable), (), os.environ, log=tmp_path / "imports.log")
    log = tmp_path / "log"
    with running(what, forks=forks, port=port, log=log, start_seconds=60) as server:
        folder = Path(json.loads(server.read("/v1/models"))["data"][0]["root"])
        assert len(list(folder.iterdir())) == 2
        assert folder != Path(tempfile.gettempdir())
    assert not folder.exists()


def test_an_environment_that_is_not_installed_is_named(tmp_path: Path):
    python, log = tmp_path / "python", tmp_path / "imports.log"
    with pytest.raises(ScionError, match="not installed") as caught:
        vllm.forks(python, Serving(environment="serve-cuda"), log)
    assert caught.value.hint == "make SERVING=serve-cuda setup"
    assert not log.exists()


def test_what_torch_compiles_is_kept_for_the_next_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert vllm.environment({})[name] == str(tmp_path / "scion/torchinductor")
    # As torch sets it in whoever imports it.
    assert vllm.environment({name: "/tmp/torchinductor_me"}) == vllm.environment({})
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert vllm.environment({})[name] == str(tmp_path / ".cache/scion/torchinductor")
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert vllm.environment({})[name] == f"{tempfile.gettempdir()}/scion/torchinductor"
