"""The generated launch of SGLang, read by SGLang's own argument parser."""

import json
import subprocess
from pathlib import Path

import pytest

from scion.architectures.families import QWEN3_5
from scion.artifacts.environments import interpreter
from scion.engines.config import Launch
from scion.engines.served_model import ServedModel
from scion.engines.sglang.flags import flags

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
PYTHON = PROJECT / interpreter("envs/sglang")
# Prints what the arguments come to, as one JSON object.
PARSE = """
import argparse, json, sys
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
print(json.dumps(vars(parser.parse_args(sys.argv[1:])), default=str))
"""


def test_sglang_reads_every_flag() -> None:
    launch = Launch(
        name="production",
        title="Production",
        max_model_len=262144,
        max_num_seqs=2,
        kv_cache_dtype="fp8",
        gpu_memory_utilization=0.9,
        speculative_tokens=3,
        tensor_parallel=2,
    )
    options = flags(launch, ServedModel(QWEN3_5, "NVFP4", lost_tower=True))
    arguments = [argument for flag in options for argument in flag.arguments]
    done = subprocess.run(
        [PYTHON, "-c", PARSE, "--model-path", "owner/name", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    parsed = json.loads(done.stdout.splitlines()[-1])
    assert {
        "model_path": "owner/name",
        "quantization": "modelopt_fp4",
        "language_model_only": True,
        "tool_call_parser": "qwen3_coder",
        "reasoning_parser": "qwen3",
        "context_length": 262144,
        "max_running_requests": 2,
        "tp_size": 2,
        "kv_cache_dtype": "fp8_e4m3",
        "mem_fraction_static": 0.9,
        "speculative_algorithm": "NEXTN",
        "speculative_num_steps": 3,
        "speculative_eagle_topk": 1,
        "speculative_num_draft_tokens": 4,
    }.items() <= parsed.items()
