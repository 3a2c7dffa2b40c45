"""Scales that an engine misses, leaves aside or can't read."""

from pathlib import Path

from checkpoints import edit_json
from lint_cases import Case
from lint_checkpoints import Stored, drop_tensors, edit_tensors, nvfp4
from scion.formats.modelopt import BLOCK

LAYER = "model.language_model.layers.0"
ATTENTION = "model.language_model.layers.1.self_attn"


def quantize_delta_net(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        for part in ("in_proj_qkv", "in_proj_z"):
            module = f"{LAYER}.linear_attn.{part}"
            rows, columns = tensors.pop(f"{module}.weight").shape
            tensors.update(nvfp4(module, (rows, columns)))

    edit_tensors(folder, change)


def quantize_weights_alone(folder: Path) -> None:
    """NVFP4 without scales of inputs, which config.json says in its groups alone."""
    numbers = {"num_bits": 4, "type": "float", "group_size": BLOCK}
    group = {"input_activations": None, "weights": numbers, "targets": ["Linear"]}
    drop_tensors(folder, lambda name: name.endswith(".input_scale"))
    edit_json(
        folder / "config.json",
        lambda config: config["quantization_config"].update(config_groups={"group_0": group}),
    )


def drop_scales_of_inputs(folder: Path) -> None:
    drop_tensors(folder, lambda name: name.endswith(".self_attn.q_proj.input_scale"))


def leave_a_scale_of_awq(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        tensors[f"{LAYER}.mlp.down_proj.pre_quant_scale"] = Stored("BF16", (64,), bytes(128))

    edit_tensors(folder, change)


CASES = [
    Case("S508", quantize_delta_net, "TensorRT-LLM", engines=("tensorrt-llm",)),
    Case("S511", quantize_weights_alone, "0.20", "modelopt", engines=("vllm==0.20.0",)),
    Case(
        "S511",
        quantize_weights_alone,
        "0.28",
        "modelopt",
        engines=("vllm==0.28.0",),
        subject=f"{LAYER}.linear_attn.in_proj_qkv",
    ),
    Case("S511", drop_scales_of_inputs, "FP8", "fp8", subject=f"{ATTENTION}.q_proj"),
    Case("S511", drop_scales_of_inputs, "FP8 beside NVFP4", "mixed", engines=("sglang",)),
    Case("S512", leave_a_scale_of_awq, "NVFP4", "modelopt"),
    Case("S512", leave_a_scale_of_awq, "FP8", "fp8"),
]
