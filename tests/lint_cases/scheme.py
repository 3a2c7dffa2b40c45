"""Declarations that don't fit the tensors, or each other."""

import json
from pathlib import Path
from typing import Any

from checkpoints import edit_json
from lint_cases import Case
from lint_checkpoints import Stored, edit_tensors, nvfp4, plain, rename_tensors
from scion.architectures.families import QWEN3_5_HEAD
from scion.formats.modelopt import HF_QUANT_CONFIG

LAYER = "model.language_model.layers.0"
ATTENTION = "model.language_model.layers.1.self_attn"


def quantize(folder: Path, module: str, *, compressed: bool = False) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        rows, columns = tensors.pop(f"{module}.weight").shape
        tensors.update(nvfp4(module, (rows, columns), compressed=compressed))

    edit_tensors(folder, change)


def restore(folder: Path, module: str) -> None:
    """Make a quantized module plain again, and leave the declaration as it is."""

    def change(tensors: dict[str, Stored]) -> None:
        rows, half = tensors[f"{module}.weight"].shape
        for suffix in ("weight_scale", "weight_scale_2", "input_scale"):
            del tensors[f"{module}.{suffix}"]
        tensors[f"{module}.weight"] = plain(module, (rows, half * 2))

    edit_tensors(folder, change)


def set_exclusions(folder: Path, *names: str) -> None:
    """Declare these exclusions beside the MTP head's, in both files."""
    exclude = [*names, QWEN3_5_HEAD.pattern]
    edit_json(
        folder / "config.json",
        lambda config: config["quantization_config"].update(ignore=exclude),
    )
    edit_json(
        folder / HF_QUANT_CONFIG,
        lambda config: config["quantization"].update(exclude_modules=exclude),
    )


def edit_scheme(folder: Path, **keys: object) -> None:
    edit_json(folder / "config.json", lambda config: config["quantization_config"].update(keys))


def quantize_delta_net(folder: Path) -> None:
    """What the release of the default recipe is; the twin keeps the delta net in bf16."""
    for part in ("in_proj_qkv", "in_proj_z"):
        quantize(folder, f"{LAYER}.linear_attn.{part}")


def quantize_q_alone(folder: Path) -> None:
    quantize(folder, f"{ATTENTION}.q_proj")


def exclude_q_alone(folder: Path) -> None:
    scheme = json.loads((folder / "config.json").read_bytes())["quantization_config"]
    set_exclusions(folder, *scheme["ignore"], f"{ATTENTION}.q_proj")


def exclude_by_globs(folder: Path) -> None:
    """The list that misses the fused `in_proj_ba`."""
    globs = ("*linear_attn.in_proj_a*", "*linear_attn.in_proj_b*", "*conv1d*")
    set_exclusions(folder, "lm_head", "model.visual*", "*embed_tokens*", *globs)


def exclude_too_much(folder: Path) -> None:
    """A substring takes the fused gate and up projection with the router's name."""
    scheme = json.loads((folder / "config.json").read_bytes())["quantization_config"]
    set_exclusions(folder, *scheme["ignore"], "mlp.gate")


def quantize_head(folder: Path) -> None:
    quantize(folder, "lm_head")


def include_head(folder: Path) -> None:
    scheme = json.loads((folder / "config.json").read_bytes())["quantization_config"]
    set_exclusions(folder, *(name for name in scheme["ignore"] if name != "lm_head"))


def drift(folder: Path) -> None:
    edit_json(
        folder / HF_QUANT_CONFIG,
        lambda config: config["quantization"]["exclude_modules"].remove("lm_head"),
    )


def drift_in_group_size(folder: Path) -> None:
    edit_json(folder / HF_QUANT_CONFIG, lambda config: config["quantization"].update(group_size=32))


def drift_in_group_of_groups(folder: Path) -> None:
    """ModelOpt writes the size into the groups of config.json."""
    drift_in_group_size(folder)
    edit_json(
        folder / "config.json",
        lambda config: config["quantization_config"].pop("group_size") and None,
    )


def drift_in_layers(folder: Path) -> None:
    def change(config: Any) -> None:
        layers = config["quantization"]["quantized_layers"]
        layers[min(layers)] = {"quant_algo": "W4A16_NVFP4"}

    edit_json(folder / HF_QUANT_CONFIG, change)


def drift_in_cache(folder: Path) -> None:
    edit_json(
        folder / HF_QUANT_CONFIG,
        lambda config: config["quantization"].update(kv_cache_quant_algo="NVFP4"),
    )


def drop_algorithm(folder: Path) -> None:
    edit_json(
        folder / "config.json",
        lambda config: config["quantization_config"].pop("quant_algo") and None,
    )


def leave_second_alone(folder: Path) -> None:
    """Only hf_quant_config.json is left, and lacks a key that vLLM asks for."""
    edit_json(folder / "config.json", lambda config: config.pop("quantization_config") and None)
    edit_json(
        folder / HF_QUANT_CONFIG,
        lambda config: config["quantization"].pop("exclude_modules") and None,
    )


def undeclare(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.pop("quantization_config") and None)


def respell_one(folder: Path) -> None:
    rename_tensors(
        folder,
        lambda name: (
            f"{ATTENTION}.o_proj.weight_packed" if name == f"{ATTENTION}.o_proj.weight" else name
        ),
    )


def declare_weights_alone(folder: Path) -> None:
    group = {"input_activations": None, "weights": {"num_bits": 4}, "targets": ["Linear"]}
    edit_scheme(folder, config_groups={"group_0": group})


def restore_down(folder: Path) -> None:
    restore(folder, f"{LAYER}.mlp.down_proj")


CASES = [
    Case(
        "Q401",
        quantize_delta_net,
        "0.19.1",
        engines=("vllm==0.19.1",),
        subject=f"{LAYER}.linear_attn.in_proj_qkv",
    ),
    Case("Q402", quantize_q_alone, "tensors", subject=f"{ATTENTION}.q_proj"),
    Case("Q402", exclude_q_alone, "list", spelling="modelopt"),
    Case("Q403", exclude_by_globs, "globs miss a fused layer", spelling="modelopt"),
    Case("Q403", exclude_too_much, "substring", spelling="modelopt"),
    Case("Q403", restore_down, "plain yet declared", spelling="modelopt"),
    Case("Q404", quantize_head, "quantized yet excluded", spelling="modelopt", subject="lm_head"),
    Case("Q404", include_head, "plain yet declared", spelling="modelopt", subject="lm_head"),
    Case("Q406", drift, "list", spelling="modelopt", subject="ignore"),
    Case("Q406", drift_in_group_size, "group size", spelling="modelopt", subject="group_size"),
    Case("Q406", drift_in_group_of_groups, "groups", spelling="modelopt", subject="group_size"),
    Case("Q406", drift_in_layers, "layers", spelling="mixed", subject="quantized_layers"),
    Case("Q410", drift_in_cache, "cache", spelling="modelopt", subject="kv_cache"),
    Case("Q407", drop_algorithm, "quant_algo", spelling="modelopt"),
    Case("Q407", leave_second_alone, "hf_quant_config.json", spelling="modelopt"),
    Case("Q408", undeclare, "no scheme", spelling="compressed-tensors"),
    Case("Q408", undeclare, "FP8 without a scheme", spelling="fp8"),
    Case("Q408", respell_one, "the other spelling", spelling="modelopt"),
    Case("Q409", declare_weights_alone, "weights alone", spelling="modelopt"),
]
