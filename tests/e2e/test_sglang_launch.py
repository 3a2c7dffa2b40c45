"""The generated launch of SGLang, read by SGLang's own argument parser and processor code."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from checkpoints import edit_json
from lint_checkpoints import PICO, PROCESSOR
from scion.architectures.families import QWEN3_5
from scion.artifacts.environments import interpreter
from scion.checkpoint.folder_source import open_source
from scion.engines.config import Launch
from scion.engines.registry.engines import parse_engine
from scion.engines.served_model import ServedModel
from scion.engines.sglang.flags import flags
from scion.lint.all_rules import RULES
from scion.lint.rule import run, select_rules
from scion.lint.subject import Subject

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


# For each folder, without --language-model-only and with it: what the scheduler and the tokenizer's
# manager make before they serve, or what stops them.
PROCESSORS = """
import json, sys
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.utils.hf_transformers_utils import get_processor

def made(folder, language_model_only):
    config = ModelConfig(folder, language_model_only=language_model_only, dtype="bfloat16")
    if not config.is_multimodal:
        return "tokenizer"
    try:
        return type(get_processor(folder)).__name__
    except OSError as error:
        return str(error)

print(json.dumps([[made(folder, only) for only in (False, True)] for folder in sys.argv[1:]]))
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


def text_only(folder: Path) -> Path:
    """Pico as the workflow releases it: the class of the whole model, and nothing of its tower."""
    shutil.copytree(PICO, folder, ignore=shutil.ignore_patterns("*preprocessor_config.json"))
    edit_json(folder / "config.json", lambda config: config.pop("vision_config") and None)
    return folder


def told(folder: Path) -> Path:
    """The same, whose config.json says that only its language model is served."""
    edit_json(folder / "config.json", lambda config: config.update(language_model_only=True))
    return folder


def test_a_text_only_release_needs_language_model_only(tmp_path: Path) -> None:
    whole, text, own = PICO, text_only(tmp_path / "text"), told(text_only(tmp_path / "own"))
    folders = [str(folder) for folder in (whole, text, own)]
    done = subprocess.run(
        [PYTHON, "-c", PROCESSORS, *folders], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    of_whole, of_text, of_own = json.loads(done.stdout.splitlines()[-1])
    assert of_whole == ["Qwen3VLProcessor", "tokenizer"]
    assert PROCESSOR in of_text[0]
    assert of_text[1] == "tokenizer"
    assert of_own == ["tokenizer", "tokenizer"]
    assert [accused(folder) for folder in (whole, text, own)] == [False, True, False]


def accused(folder: Path) -> bool:
    """Whether lint says of a checkpoint that SGLang stops for its processor."""
    subject = Subject.open(open_source(str(folder)), engines=parse_engine("sglang"))
    return bool(run(subject, select_rules(RULES, select=["C806"])))
