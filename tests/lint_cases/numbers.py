"""Scales and sizes that can't be right, or can't be served."""

import struct
from pathlib import Path

from checkpoints import edit_json
from lint_cases import Case
from lint_checkpoints import Stored, edit_tensors, llama, nvfp4, scalar

LAYER = "model.language_model.layers.0"
ATTENTION = "model.language_model.layers.1.self_attn"


def set_scalar(folder: Path, name: str, value: float) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        tensors[name].data = struct.pack("<f", value)

    edit_tensors(folder, change)


def double_a_scale(folder: Path) -> None:
    set_scalar(folder, f"{ATTENTION}.k_proj.weight_scale_2", 0.002)


def double_an_input_scale(folder: Path) -> None:
    set_scalar(folder, f"{LAYER}.mlp.up_proj.input_global_scale", 50.0)


def zero_a_scale(folder: Path) -> None:
    set_scalar(folder, f"{LAYER}.mlp.down_proj.input_scale", 0.0)


def break_a_scale(folder: Path) -> None:
    set_scalar(folder, f"{LAYER}.mlp.down_proj.weight_scale_2", float("nan"))


def invert_a_zero(folder: Path) -> None:
    set_scalar(folder, f"{LAYER}.mlp.down_proj.input_global_scale", float("inf"))


def narrow(folder: Path) -> None:
    """A module of 24 inputs, which are no whole number of blocks."""

    def change(tensors: dict[str, Stored]) -> None:
        tensors |= nvfp4("model.layers.0.mlp.down_proj", (32, 24))

    edit_tensors(folder, change)


def quantize_48_inputs(folder: Path) -> None:
    """48 inputs: whole blocks, but not 32 of them at a time."""

    def change(tensors: dict[str, Stored]) -> None:
        module = "model.layers.0.mlp.down_proj"
        del tensors[f"{module}.weight"]
        tensors |= nvfp4(module, (32, 48))

    edit_tensors(folder, change)


def quantize_down(folder: Path) -> None:
    """64 inputs: 16 on each of 4 GPUs, 8 on each of 8."""

    def change(tensors: dict[str, Stored]) -> None:
        module = "model.layers.0.mlp.down_proj"
        del tensors[f"{module}.weight"]
        tensors |= nvfp4(module, (32, 64))

    edit_tensors(folder, change)


def reshape_a_scale(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        scale = tensors[f"{LAYER}.mlp.down_proj.weight_scale"]
        scale.shape = (scale.shape[0] * scale.shape[1],)

    edit_tensors(folder, change)


def store_a_scale_in_bf16(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        tensors[f"{LAYER}.mlp.down_proj.weight_scale_2"] = Stored("BF16", (), b"\x80\x3a")

    edit_tensors(folder, change)


def drop_a_scale(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        del tensors[f"{LAYER}.mlp.down_proj.input_scale"]

    edit_tensors(folder, change)


def add_a_scale(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        tensors["lm_head.input_scale"] = scalar(0.01)

    edit_tensors(folder, change)


def quantize_delta_net(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        for part in ("in_proj_qkv", "in_proj_z"):
            module = f"{LAYER}.linear_attn.{part}"
            rows, columns = tensors.pop(f"{module}.weight").shape
            tensors.update(nvfp4(module, (rows, columns)))

    edit_tensors(folder, change)


def widen(folder: Path) -> None:
    """66 rows of gate and up, which 4 GPUs can't share; the twin's 64 they can."""
    edit_json(folder / "config.json", lambda config: config.update(intermediate_size=66))


CASES = [
    Case(
        "S501",
        double_a_scale,
        "weight_scale_2",
        "modelopt",
        subject=f"{ATTENTION}.q_proj.weight_scale_2",
    ),
    Case("S501", double_an_input_scale, "input_global_scale", "compressed-tensors"),
    Case("S502", zero_a_scale, "zero", "modelopt", subject=f"{LAYER}.mlp.down_proj.input_scale"),
    Case("S502", break_a_scale, "NaN", "modelopt"),
    Case("S502", invert_a_zero, "infinite", "compressed-tensors"),
    Case("S503", narrow, "24 inputs", config=llama()),
    Case("S503", quantize_down, "8 inputs on each of 8", config=llama(), tensor_parallel=(8,)),
    Case("S504", quantize_48_inputs, "48 inputs", config=llama(intermediate_size=48)),
    Case("S504", quantize_down, "16 inputs on each of 4", config=llama(), tensor_parallel=(4,)),
    Case("S505", widen, "66 rows on 4", config=llama(), tensor_parallel=(4,)),
    Case("S506", reshape_a_scale, "flat", "modelopt"),
    Case("S506", store_a_scale_in_bf16, "bf16", "modelopt"),
    Case("S507", drop_a_scale, "missing", "modelopt", subject=f"{LAYER}.mlp.down_proj"),
    Case("S507", add_a_scale, "stray", "modelopt", subject="lm_head"),
    Case("S508", quantize_delta_net, "TensorRT-LLM", engines=("tensorrt-llm",)),
]
