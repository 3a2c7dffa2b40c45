"""Layers that come to no whole blocks, or to none on each GPU."""

from pathlib import Path

from checkpoints import edit_json
from lint_cases import Case
from lint_checkpoints import Stored, edit_tensors, llama, nvfp4
from published import block_fp8_scheme, fp8_block

WIDE_ATTENTION = llama(num_attention_heads=8)
"""Eight heads of 16, and an MLP of 64."""


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


def widen(folder: Path) -> None:
    """66 rows of gate and up, which 4 GPUs can't share; the twin's 64 they can."""
    edit_json(folder / "config.json", lambda config: config.update(intermediate_size=66))


def quantize_in_blocks(folder: Path) -> None:
    """FP8 in blocks of 16: each GPU has one of attention's, and half a one of the MLP's."""

    def change(tensors: dict[str, Stored]) -> None:
        for name in [name for name in tensors if ".layers." in name and "norm" not in name]:
            module = name.removesuffix(".weight")
            rows, columns = tensors.pop(name).shape
            tensors.update(fp8_block(module, (rows, columns)))

    edit_tensors(folder, change)
    scheme = block_fp8_scheme(["lm_head"])
    edit_json(folder / "config.json", lambda config: config.update(quantization_config=scheme))


CASES = [
    Case("S503", narrow, "24 inputs", config=llama()),
    Case("S503", quantize_down, "8 inputs on each of 8", config=llama(), tensor_parallel=(8,)),
    Case("S504", quantize_48_inputs, "48 inputs", config=llama(intermediate_size=48)),
    Case("S504", quantize_down, "16 inputs on each of 4", config=llama(), tensor_parallel=(4,)),
    Case("S505", widen, "66 rows on 4", config=llama(), tensor_parallel=(4,)),
    Case(
        "S510",
        quantize_in_blocks,
        "8 outputs on each of 8",
        config=WIDE_ATTENTION,
        shards=1,
        tensor_parallel=(1, 8),
        subject="model.layers.0.mlp.gate_proj",
    ),
    Case(
        "S510",
        quantize_in_blocks,
        "8 inputs on each of 8",
        config=WIDE_ATTENTION,
        shards=1,
        engines=("sglang",),
        tensor_parallel=(8,),
        subject="model.layers.0.mlp.down_proj",
    ),
]
