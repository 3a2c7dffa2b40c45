"""Scales and sizes that can't be right, or can't be served."""

import struct
from pathlib import Path

from lint_cases import Case
from lint_checkpoints import Stored, edit_tensors, scalar

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


def invert(folder: Path, *suffixes: str) -> None:
    """Rename scales from one spelling to the other, and leave the numbers as they are."""

    def change(tensors: dict[str, Stored]) -> None:
        for name, tensor in tensors.items():
            if name.endswith(suffixes):
                [value] = struct.unpack("<f", tensor.data)
                tensor.data = struct.pack("<f", 1 / value)

    edit_tensors(folder, change)


def invert_scales_of_weights(folder: Path) -> None:
    invert(folder, ".weight_scale_2", ".weight_global_scale")


def invert_a_scale_of_fp8(folder: Path) -> None:
    invert(folder, f"{ATTENTION}.q_proj.weight_scale")


def invert_scales_of_inputs(folder: Path) -> None:
    invert(folder, ".input_scale", ".input_global_scale")


def add_cache_scales(folder: Path, **parts: Stored) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        for part, scale in parts.items():
            tensors[f"{ATTENTION}.{part}_proj.{part}_scale"] = scale

    edit_tensors(folder, change)


def add_an_infinite_cache_scale(folder: Path) -> None:
    add_cache_scales(folder, k=scalar(float("inf")), v=scalar(0.1))


def add_an_infinite_cache_scale_in_bf16(folder: Path) -> None:
    add_cache_scales(folder, v=Stored("BF16", (1,), b"\x80\x7f"))


def add_cache_scales_of_channels(folder: Path) -> None:
    add_cache_scales(folder, v=Stored("F32", (16,), bytes(64)))


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
    Case("S502", add_an_infinite_cache_scale, "cache", "modelopt"),
    Case("S502", add_an_infinite_cache_scale_in_bf16, "cache in bf16", "modelopt"),
    Case("S509", invert_scales_of_weights, "weight_scale_2", "modelopt"),
    Case("S509", invert_scales_of_weights, "weight_global_scale", "compressed-tensors"),
    Case(
        "S509",
        invert_a_scale_of_fp8,
        "FP8",
        "mixed",
        subject=f"{ATTENTION}.q_proj.weight_scale",
    ),
    Case("S509", invert_scales_of_inputs, "input_scale", "modelopt"),
    Case("S509", invert_scales_of_inputs, "input_global_scale", "compressed-tensors"),
    Case(
        "S506",
        add_cache_scales_of_channels,
        "cache",
        "modelopt",
        subject=f"{ATTENTION}.v_proj.v_scale",
    ),
    Case("S506", reshape_a_scale, "flat", "modelopt"),
    Case("S506", store_a_scale_in_bf16, "bf16", "modelopt"),
    Case("S507", drop_a_scale, "missing", "modelopt", subject=f"{LAYER}.mlp.down_proj"),
    Case("S507", add_a_scale, "stray", "modelopt", subject="lm_head"),
]
