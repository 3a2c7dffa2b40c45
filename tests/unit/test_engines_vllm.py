"""The vLLM command, its environment, its log and its counters."""

import json
from pathlib import Path

import pytest

from scion.config import Serving
from scion.engines import vllm
from scion.engines.server import log_end
from scion.engines.vllm import SpecDecodeCounters, read_counters

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


def test_rates():
    summary = read_counters(METRICS).summary()
    assert summary == {
        "drafts": 200,
        "draft_tokens": 600,
        "accepted": 400,
        "per_position": [0.9, 0.7, 0.4],
        "mean_length": 3.0,
    }


def test_difference_counts_only_what_came_between():
    earlier = SpecDecodeCounters(100, 300, 250, (100, 90, 60))
    assert read_counters(METRICS) - earlier == SpecDecodeCounters(100, 300, 150, (80, 50, 20))


def test_difference_from_before_the_first_draft():
    # A server shows no positions before it has drafted.
    assert read_counters(METRICS) - read_counters("") == read_counters(METRICS)


def test_no_acceptance_without_speculation():
    assert read_counters("vllm:generation_tokens_total 4.0\n").summary() is None


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {}}))
    return tmp_path


def command(folder: Path, drafted: int, **serving: object):
    return vllm.command(
        folder,
        name="release",
        speculative_tokens=drafted,
        serving=Serving.model_validate(serving),
        python=Path("python"),
        inherited={"PATH": "/bin", "PYTHONPATH": "/other"},
    )


def test_command_for_the_cpu(checkpoint: Path):
    made = command(checkpoint, 3, port=8123)
    text = " ".join(made.arguments)
    assert text.startswith("python -m vllm.entrypoints.launchers.api_server.entry --model ")
    assert "--host 127.0.0.1 --port 8123 --language-model-only" in text
    assert "--quantization modelopt" in text
    assert made.arguments[-1] == '{"method": "mtp", "num_speculative_tokens": 3}'
    assert made.environment["OMP_NUM_THREADS"] == "1"
    assert made.environment["PATH"] == "/bin"
    assert "PYTHONPATH" not in made.environment


def test_command_for_cuda(checkpoint: Path):
    made = command(
        checkpoint,
        1,
        environment="serve-cuda",
        kv_cache_dtype="fp8",
        gpu_memory_utilization=0.9,
    )
    assert made.arguments[1:4] == ("-m", "vllm.entrypoints.cli.main", "serve")
    assert "--kv-cache-dtype fp8 --gpu-memory-utilization 0.9" in " ".join(made.arguments)
    assert "--enforce-eager" not in made.arguments
    assert "OMP_NUM_THREADS" not in made.environment


def test_no_speculation_and_no_quantization_unless_asked(checkpoint: Path):
    (checkpoint / "config.json").write_text("{}")
    made = command(checkpoint, 0)
    unasked = {"--speculative-config", "--quantization", "--kv-cache-dtype"}
    assert not unasked & set(made.arguments)
    assert "--gpu-memory-utilization" not in made.arguments


def test_phase_is_the_last_that_the_log_shows():
    assert vllm.phase("") == "importing vLLM"
    assert vllm.phase("Starting to load model x\nKV cache size") == "preparing the cache"


def test_cache_tokens(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("[kv_cache_utils.py:2327] CPU KV cache size: 232,960 tokens, Maximum\n")
    assert vllm.cache_tokens(log) == 232960
    log.write_text("")
    assert vllm.cache_tokens(log) is None
    assert vllm.cache_tokens(None) is None


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
