"""Broken MTP heads."""

from pathlib import Path

from checkpoints import edit_json
from lint_cases import Case
from lint_checkpoints import (
    Stored,
    drop_tensors,
    edit_tensors,
    llama,
    nvfp4,
    rename_tensors,
)
from scion.architectures.families import QWEN3_5_HEAD
from scion.formats.modelopt import HF_QUANT_CONFIG


def drop_head(folder: Path) -> None:
    drop_tensors(folder, lambda name: name.startswith("mtp."))


def drop_fc(folder: Path) -> None:
    drop_tensors(folder, lambda name: name == "mtp.fc.weight")


def move_below_model(folder: Path) -> None:
    rename_tensors(folder, lambda name: f"model.{name}" if name.startswith("mtp.") else name)


def undeclare(folder: Path) -> None:
    edit_json(
        folder / "config.json", lambda config: config["text_config"].update(mtp_num_hidden_layers=0)
    )


def declare_two(folder: Path) -> None:
    edit_json(
        folder / "config.json", lambda config: config["text_config"].update(mtp_num_hidden_layers=2)
    )


def exclude_instead(folder: Path, *patterns: str) -> None:
    """Replace the pattern of the MTP head in both declarations."""

    def replace(names: list[str]) -> list[str]:
        return [name for name in names if name != QWEN3_5_HEAD.pattern] + list(patterns)

    def in_config(config: dict) -> None:
        scheme = config["quantization_config"]
        scheme["ignore"] = replace(scheme["ignore"])

    def in_second(config: dict) -> None:
        quantization = config["quantization"]
        quantization["exclude_modules"] = replace(quantization["exclude_modules"])

    edit_json(folder / "config.json", in_config)
    edit_json(folder / HF_QUANT_CONFIG, in_second)


def miss_fc(folder: Path) -> None:
    exclude_instead(folder, "mtp.layers.0*")


def exclude_by_regex(folder: Path) -> None:
    exclude_instead(folder, "re:^mtp.*")


def quantize_a_projection(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        module = "mtp.layers.0.mlp.down_proj"
        rows, columns = tensors.pop(f"{module}.weight").shape
        tensors.update(nvfp4(module, (rows, columns)))

    edit_tensors(folder, change)


def respell(folder: Path) -> None:
    """Make of a bf16 checkpoint with an MTP head a compressed-tensors one: one NVFP4 module."""

    def change(tensors: dict[str, Stored]) -> None:
        module = "model.language_model.layers.0.linear_attn.out_proj"
        rows, columns = tensors.pop(f"{module}.weight").shape
        tensors.update(nvfp4(module, (rows, columns), compressed=True))

    edit_tensors(folder, change)
    edit_json(
        folder / "config.json",
        lambda config: config.update(quantization_config={"quant_method": "compressed-tensors"}),
    )


def declare_one_of_an_unknown_family(folder: Path) -> None:
    """GLM's heads are one more layer behind the last; this one was never saved."""
    edit_json(
        folder / "config.json",
        lambda config: config.update(model_type="glm4_moe", num_nextn_predict_layers=1),
    )


def quantize_its_mlp(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        for part in ("gate_proj", "up_proj", "down_proj"):
            module = f"mtp.layers.0.mlp.{part}"
            rows, columns = tensors.pop(f"{module}.weight").shape
            tensors.update(nvfp4(module, (rows, columns), compressed=True))

    edit_tensors(folder, change)


CASES = [
    Case("M301", drop_head, "bf16", subject="mtp.*"),
    Case(
        "M301",
        declare_one_of_an_unknown_family,
        "unknown family",
        config=llama(),
        subject="mtp.* or layers.2.*",
    ),
    Case(
        "M306",
        quantize_its_mlp,
        "0.28",
        spelling="compressed-tensors",
        engines=("vllm==0.28.0",),
        subject="mtp.layers.0.mlp.gate_proj",
    ),
    Case("M301", drop_head, "NVFP4", spelling="modelopt"),
    Case("M302", drop_fc, "fc missing", subject="mtp.fc.weight"),
    Case("M302", move_below_model, "model.mtp", spelling="modelopt"),
    Case("M303", undeclare, "declared none", subject="mtp_num_hidden_layers"),
    Case("M303", declare_two, "declared two"),
    Case(
        "M304",
        miss_fc,
        "fc not excluded, 0.19.1",
        spelling="modelopt",
        engines=("vllm==0.19.1",),
        subject="mtp.fc",
    ),
    Case("M304", exclude_by_regex, "regular expression", spelling="modelopt"),
    Case("M304", quantize_a_projection, "excluded yet quantized", spelling="modelopt"),
    Case("M305", respell, "compressed-tensors", engines=("sglang==0.5.23",)),
]
