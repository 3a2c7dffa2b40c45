"""A KV cache whose scales are missing, or are not taken."""

from pathlib import Path

from checkpoints import edit_json
from lint_cases import Case
from lint_checkpoints import Stored, edit_tensors, llama, scalar

ATTENTION = "model.language_model.layers.1.self_attn"
FP8 = {"dynamic": False, "num_bits": 8, "type": "float"}


def add_cache_scales(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        tensors[f"{ATTENTION}.k_proj.k_scale"] = scalar(0.1)
        tensors[f"{ATTENTION}.v_proj.v_scale"] = scalar(0.1)

    edit_tensors(folder, change)


def declare_a_cache(folder: Path) -> None:
    edit_json(
        folder / "config.json",
        lambda config: config["quantization_config"].update(kv_cache_scheme=FP8),
    )


def forget_a_layer(folder: Path) -> None:
    declare_a_cache(folder)

    def change(tensors: dict[str, Stored]) -> None:
        tensors["model.layers.0.self_attn.k_proj.k_scale"] = scalar(0.1)
        tensors["model.layers.0.self_attn.v_proj.v_scale"] = scalar(0.1)

    edit_tensors(folder, change)


CASES = [
    Case("Q405", add_cache_scales, "k_scale", spelling="modelopt"),
    Case("Q411", declare_a_cache, "none", spelling="modelopt", subject="kv_cache"),
    Case("Q411", declare_a_cache, "compressed-tensors", spelling="compressed-tensors"),
    Case(
        "Q411",
        forget_a_layer,
        "one layer's",
        spelling="modelopt",
        config=llama(),
        subject="model.layers.1.self_attn",
    ),
]
