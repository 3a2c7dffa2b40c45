"""A launch as options of both engines' servers, and what of a checkpoint decides them."""

from collections.abc import Callable
from typing import Any

import pytest

from checkpoints import tiny_config
from scion.architectures.families import QWEN3_5
from scion.engines.config import Launch
from scion.engines.flag import Flag
from scion.engines.served_model import ServedModel
from scion.engines.sglang.flags import flags as sglang
from scion.engines.vllm.flags import flags as vllm

PRODUCTION = Launch(
    name="production",
    title="Production",
    max_model_len=262144,
    max_num_seqs=2,
    tensor_parallel=2,
    kv_cache_dtype="fp8",
    gpu_memory_utilization=0.9,
    speculative_tokens=3,
)
PLAIN = Launch(name="plain", title="Plain", max_model_len=4096, speculative_tokens=0)
RELEASE = ServedModel(QWEN3_5, "NVFP4", lost_tower=True)
Write = Callable[[Launch, ServedModel], list[Flag]]


def words(write: Write, launch: Launch, model: ServedModel) -> list[str]:
    return [flag.text for flag in write(launch, model)]


def test_a_launch_of_vllm() -> None:
    assert words(vllm, PRODUCTION, RELEASE) == [
        "--quantization modelopt",
        "--language-model-only",
        "--enable-auto-tool-choice --tool-call-parser qwen3_xml",
        "--reasoning-parser qwen3",
        "--max-model-len 262144",
        "--max-num-seqs 2",
        "--tensor-parallel-size 2",
        "--kv-cache-dtype fp8",
        "--gpu-memory-utilization 0.9",
        """--speculative-config '{"method":"mtp","num_speculative_tokens":3}'""",
    ]


def test_a_launch_of_sglang() -> None:
    assert words(sglang, PRODUCTION, RELEASE) == [
        "--quantization modelopt_fp4",
        "--language-model-only",
        "--tool-call-parser qwen3_coder",
        "--reasoning-parser qwen3",
        "--context-length 262144",
        "--max-running-requests 2",
        "--tensor-parallel-size 2",
        "--kv-cache-dtype fp8_e4m3",
        "--mem-fraction-static 0.9",
        "--speculative-algorithm NEXTN --speculative-num-steps 3 --speculative-eagle-topk 1 "
        "--speculative-num-draft-tokens 4",
    ]


@pytest.mark.parametrize("write", [vllm, sglang])
def test_what_a_launch_leaves_open_is_left_to_the_server(write: Write) -> None:
    text = " ".join(words(write, PLAIN, ServedModel(QWEN3_5)))
    for flag in ("quantization", "language", "seqs", "running", "parallel", "cache", "speculative"):
        assert flag not in text


@pytest.mark.parametrize(
    ("declared", "file", "told"),
    [
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, None, ("modelopt", "modelopt_fp4")),
        (
            {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
            None,
            ("modelopt", "modelopt_mixed"),
        ),
        ({"quant_method": "modelopt", "quant_algo": "fp8"}, None, ("modelopt", "modelopt_fp8")),
        # Engines take these from config.json, and refuse to be told otherwise.
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, None, None),
        ({"quant_method": "fp8"}, None, None),
        ({"quant_method": "awq"}, None, None),
        ({}, None, None),
        (None, None, None),
        # ModelOpt's own file counts where config.json says nothing.
        (
            None,
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}},
            ("modelopt", "modelopt_fp4"),
        ),
        (None, {"producer": {"name": "other"}, "quantization": {"quant_algo": "NVFP4"}}, None),
    ],
)
def test_a_scheme_is_told_where_it_is_modelopts(
    declared: Any, file: Any, told: tuple[str, str] | None
) -> None:
    config = tiny_config() | ({} if declared is None else {"quantization_config": declared})
    model = ServedModel.of(config, [], hf_quant_config=file)
    for write, word in zip((vllm, sglang), told or (None, None), strict=True):
        given = [text for text in words(write, PLAIN, model) if text.startswith("--quantization")]
        assert given == ([] if word is None else [f"--quantization {word}"])


@pytest.mark.parametrize("write", [vllm, sglang])
@pytest.mark.parametrize(
    ("kind", "tensor", "without"),
    [
        ("qwen3_5", "model.language_model.norm.weight", True),
        ("qwen3_5", "model.visual.pos_embed.weight", False),
        # Classes that have no tower of their own.
        ("qwen3_5_text", "model.norm.weight", False),
        ("qwen3", "model.norm.weight", False),
    ],
)
def test_a_tower_is_left_out_where_it_is_missed(
    write: Write, kind: str, tensor: str, without: bool
) -> None:
    model = ServedModel.of(tiny_config() | {"model_type": kind}, [tensor])
    assert ("--language-model-only" in words(write, PLAIN, model)) == without
