"""Declarations of any method that the tensors don't bear out."""

from pathlib import Path
from typing import Any

from checkpoints import edit_json
from lint_cases import Case
from lint_checkpoints import Stored, edit_tensors, llama

ATTENTION = [f"self_attn.{part}_proj" for part in "qkvo"]
MLP = [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}


def declare(folder: Path, **scheme: Any) -> None:
    edit_json(folder / "config.json", lambda config: config.update(quantization_config=scheme))


def declare_bitsandbytes(folder: Path) -> None:
    """What is left when an adapter was merged in 16 bits."""
    declare(folder, quant_method="bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4")


def declare_gptq(folder: Path) -> None:
    declare(folder, **GPTQ)


def declare_fp8(folder: Path) -> None:
    declare(folder, quant_method="fp8", activation_scheme="dynamic")


def declare_modelopt(folder: Path) -> None:
    declare(folder, quant_method="modelopt", quant_algo="NVFP4", ignore=["lm_head"])


def pack(folder: Path, *parts: str) -> None:
    """Store the modules whose names end so as GPTQ and AWQ do, all zeros."""

    def change(tensors: dict[str, Stored]) -> None:
        for name in [name for name in tensors if name.removesuffix(".weight").endswith(parts)]:
            module = name.removesuffix(".weight")
            rows, columns = tensors.pop(name).shape
            tensors[f"{module}.qweight"] = Stored(
                "I32", (columns // 8, rows), bytes(4 * columns // 8 * rows)
            )
            tensors[f"{module}.scales"] = Stored("F16", (1, rows), bytes(2 * rows))

    edit_tensors(folder, change)


def leave_attention_out(folder: Path) -> None:
    pack(folder, *ATTENTION, *MLP)
    declare(folder, **GPTQ, modules_in_block_to_quantize=[MLP])


def list_a_plain_layer(folder: Path) -> None:
    pack(folder, *(f"layers.0.{part}" for part in MLP))
    declare(folder, **GPTQ, modules_in_block_to_quantize=MLP)


def keep_what_is_packed(folder: Path) -> None:
    pack(folder, *ATTENTION, *MLP)
    declare(folder, **AWQ, modules_to_not_convert=["self_attn.o_proj"])


CASES = [
    Case("Q412", declare_bitsandbytes, "bitsandbytes", subject="quantization_config"),
    Case("Q412", declare_gptq, "GPTQ", config=llama()),
    Case("Q412", declare_fp8, "FP8", config=llama()),
    Case("Q412", declare_modelopt, "ModelOpt"),
    Case(
        "Q413",
        leave_attention_out,
        "GPTQ, quantized and not named",
        config=llama(),
        subject="model.layers.0.self_attn.k_proj",
    ),
    Case(
        "Q413",
        list_a_plain_layer,
        "GPTQ, named and plain",
        config=llama(),
        subject="model.layers.1.mlp.down_proj",
    ),
    Case(
        "Q413",
        keep_what_is_packed,
        "AWQ",
        config=llama(),
        subject="model.layers.0.self_attn.o_proj",
    ),
]
