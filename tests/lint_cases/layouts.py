"""Checkpoints that a tool has laid out in a way of its own."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import edit_json
from lint_cases import Case
from lint_cases.mtp import exclude_instead
from lint_checkpoints import (
    Stored,
    edit_tensors,
    llama,
    plain,
    qwen35,
    rename_tensors,
    scalar,
    write_shard,
)
from published import filled
from published import qwen35 as published_qwen35
from scion.formats.modelopt import BLOCK

LANGUAGE, HEAD = "model.language_model.", "mtp."
MOE = published_qwen35(moe=True)
TEXT = {
    **qwen35()["text_config"],
    "architectures": ["Qwen3_5ForCausalLM"],
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
EXPERT = re.compile(r"(?P<above>.*\.mlp\.experts)\.(?P<number>\d+)\.(?P<part>\w+)\.(?P<suffix>.+)")
Shapes = dict[str, tuple[int, ...]]


def take_experts(tensors: dict[str, Stored], prefix: str) -> Shapes:
    """Take the experts below a prefix out; the shapes of the stacks that could stand for them."""
    widths: dict[str, dict[str, tuple[int, int]]] = {}
    count = 0
    for name in [name for name in tensors if name.startswith(prefix)]:
        if match := EXPERT.fullmatch(name):
            stored = tensors.pop(name)
            count = max(count, int(match["number"]) + 1)
            if match["suffix"] == "weight":
                codes = 2 if stored.dtype == "U8" else 1
                rows, columns = stored.shape
                widths.setdefault(match["above"], {})[match["part"]] = (rows, columns * codes)
    stacks: Shapes = {}
    for above, parts in widths.items():
        (inner, hidden), down = parts["gate_proj"], parts["down_proj"]
        stacks[f"{above}.gate_up_proj"] = (count, 2 * inner, hidden)
        stacks[f"{above}.down_proj"] = (count, *down)
    return stacks


def restack(
    make: Callable[[str, tuple[int, ...]], dict[str, Stored]], prefix: str = LANGUAGE
) -> Callable[[Path], None]:
    """A way to store the experts below a prefix: whatever `make` writes for each stack."""

    def break_it(folder: Path) -> None:
        def change(tensors: dict[str, Stored]) -> None:
            for name, shape in take_experts(tensors, prefix).items():
                tensors.update(make(name, shape))

        edit_tensors(folder, change)

    return break_it


def in_bf16(name: str, shape: tuple[int, ...]) -> dict[str, Stored]:
    return {name: plain(name, shape)}


def in_fp8(name: str, shape: tuple[int, ...]) -> dict[str, Stored]:
    """As transformers stores them."""
    count = shape[0]
    scale = f"{name}_scale_inv"
    return {name: filled("F8_E4M3", *shape), scale: plain(scale, (count, 1, 1))}


def in_place(name: str, shape: tuple[int, ...]) -> dict[str, Stored]:
    """NVFP4 by a quantizer that took the stack for a weight."""
    *above, columns = shape
    return {
        name: filled("U8", *above, columns // 2),
        f"{name}_weight_scale": filled("F8_E4M3", *above, columns // BLOCK),
        f"{name}_weight_scale_2": scalar(0.001),
        f"{name}_input_scale": scalar(0.01),
    }


def under_other_names(name: str, shape: tuple[int, ...]) -> dict[str, Stored]:
    """The same as compressed-tensors spells it: nothing has the stack's own name."""
    *above, columns = shape
    return {
        f"{name}_packed": filled("U8", *above, columns // 2),
        f"{name}_scale": filled("F8_E4M3", *above, columns // BLOCK),
        f"{name}_global_scale": plain(name, (shape[0], 1)),
    }


def leave_head_in_bf16(folder: Path) -> None:
    """Stacked experts of the head in bf16, and a list that covers all else of it."""
    restack(in_bf16, HEAD)(folder)
    rest = ("self_attn*", "mlp.shared_expert*", "mlp.gate", "*norm")
    exclude_instead(folder, "mtp.fc", *(f"mtp.layers.0.{name}" for name in rest))


def wrap(folder: Path) -> None:
    """What PEFT calls a model's tensors while an adapter of q_proj is attached."""
    rename_tensors(folder, in_peft)


def in_peft(name: str) -> str:
    return f"base_model.model.{name.replace('q_proj.', 'q_proj.base_layer.')}"


def to_mlx(folder: Path) -> None:
    """What mlx-lm makes of the family: names, experts, convolutions, norms, no head or tower."""

    def change(tensors: dict[str, Stored]) -> None:
        for name in [name for name in tensors if name.startswith((HEAD, "model.visual."))]:
            del tensors[name]
        for name, (count, rows, columns) in take_experts(tensors, LANGUAGE).items():
            above, _, projection = name.rpartition(".experts.")
            parts = ("gate_proj", "up_proj") if projection == "gate_up_proj" else ("down_proj",)
            for part in parts:
                shape = (count, rows // len(parts), columns)
                tensors[f"{above}.switch_mlp.{part}.weight"] = plain(name + part, shape)
        for name in list(tensors):
            stored = tensors.pop(name)
            if name.endswith("conv1d.weight"):
                channels, one, width = stored.shape
                stored = Stored(stored.dtype, (channels, width, one), stored.data)
            shorter = name.removeprefix(LANGUAGE)
            tensors[f"language_model.{'model.' * (shorter != name)}{shorter}"] = stored

    edit_tensors(folder, change)


def pack_as_mlx(folder: Path) -> None:
    """MLX's four bits, in the names of a plain decoder, which it leaves as they are."""

    def change(tensors: dict[str, Stored]) -> None:
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            rows, columns = tensors[name].shape
            tensors[name] = filled("U32", rows, columns // 8)
            for suffix in ("scales", "biases"):
                other = f"{name.removesuffix('weight')}{suffix}"
                tensors[other] = plain(other, (rows, columns // 32))

    edit_tensors(folder, change)
    scheme = {"group_size": 32, "bits": 4}
    edit_json(
        folder / "config.json",
        lambda config: config.update(quantization=scheme, quantization_config=scheme),
    )


def shift_norms(folder: Path) -> None:
    """Add 1 to the norms that multiply by 1 + w, as MLX does."""

    def change(tensors: dict[str, Stored]) -> None:
        for name, stored in tensors.items():
            if name.endswith("norm.weight") and "linear_attn" not in name and "visual" not in name:
                tensors[name] = moved(stored, 1)

    edit_tensors(folder, change)


def moved(stored: Stored, by: float) -> Stored:
    """A bf16 tensor with a number added to each of its."""
    bits = np.frombuffer(stored.data, "<u2").astype(np.uint32) << 16
    sums = (bits.view(np.float32) + by).astype(np.float32)
    return Stored("BF16", stored.shape, (sums.view(np.uint32) >> 16).astype("<u2").tobytes())


def leave_adapter(folder: Path) -> None:
    """What is left in a folder after a merge."""
    adapter: dict[str, Any] = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": 4}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    name = f"base_model.model.{LANGUAGE}layers.1.self_attn.q_proj.lora_A.weight"
    write_shard(folder / "adapter_model.safetensors", {name: plain(name, (4, 32))})


def store_as(dtype: str, *ends: str) -> Callable[[Path], None]:
    """Store the tensors whose names end so in another dtype."""

    def break_it(folder: Path) -> None:
        def change(tensors: dict[str, Stored]) -> None:
            for name in [name for name in tensors if name.endswith(ends)]:
                tensors[name] = filled(dtype, *tensors[name].shape)

        edit_tensors(folder, change)

    return break_it


def store_stacks_as(dtype: str) -> Callable[[Path], None]:
    """Stack the decoder's experts, and store the stacks in another dtype."""
    return restack(lambda name, shape: {name: filled(dtype, *shape)})


def widen_stacks(folder: Path) -> None:
    """Stacked experts of 65 rows each, which two GPUs can't share."""
    restack(in_bf16)(folder)

    def widen(config: dict[str, Any]) -> None:
        config["text_config"]["moe_intermediate_size"] = 65

    edit_json(folder / "config.json", widen)


def nest_names(folder: Path) -> None:
    """Give the language model alone the names that it has inside of the whole."""
    rename_tensors(folder, lambda name: re.sub(r"^model\.", LANGUAGE, name))


STACK = f"{LANGUAGE}layers.0.mlp.experts.gate_up_proj"
CASES = [
    Case("Q403", restack(in_bf16), "stacks in bf16", "modelopt", MOE, subject=STACK),
    Case("Q403", restack(in_fp8), "stacks in FP8", "modelopt", MOE, subject=STACK),
    Case(
        "M304",
        leave_head_in_bf16,
        "stacks in bf16",
        "modelopt",
        MOE,
        subject="mtp.layers.0.mlp.experts.gate_up_proj",
    ),
    Case("N209", restack(in_place), "in place", "modelopt", MOE, subject=STACK),
    Case("N209", restack(in_place, HEAD), "the head's", "modelopt", MOE),
    Case("N209", restack(under_other_names), "packed", "modelopt", MOE, subject=STACK),
    Case("N210", wrap),
    Case("N211", to_mlx, "dense"),
    Case("N211", to_mlx, "experts", config=MOE),
    Case("N211", pack_as_mlx, "packed"),
    Case("N212", nest_names, config=TEXT, engines=("vllm==0.27.0",), subject=LANGUAGE),
    Case("N214", store_as("F16", "layers.0.mlp.up_proj.weight"), "a layer in float16"),
    Case("N214", store_as("F32", "embed_tokens.weight"), "embeddings in float32"),
    Case("N214", store_as("F16", "layers.0.mlp.down_proj.weight"), "a decoder", config=llama()),
    Case("N214", store_as("F16", "mtp.fc.weight"), "beside NVFP4", "modelopt"),
    Case("N214", store_stacks_as("F32"), "stacks in float32", config=MOE, subject=STACK),
    Case(
        "S505",
        widen_stacks,
        "stacked experts on 2",
        config=MOE,
        tensor_parallel=(2,),
        subject=f"{LANGUAGE}layers.0.mlp.experts.0.gate_proj",
    ),
    Case("F110", leave_adapter, "indexed"),
    Case("F110", leave_adapter, "one file", shards=1),
    Case("D706", shift_norms, subject=f"{LANGUAGE}layers.0.input_layernorm.weight"),
]
