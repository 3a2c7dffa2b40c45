"""Broken names and shapes."""

from pathlib import Path

from checkpoints import edit_json
from lint_cases import Case
from lint_checkpoints import (
    Stored,
    drop_tensors,
    edit_tensors,
    llama,
    plain,
    qwen35,
    rename_tensors,
)

NESTED = "model.language_model."


def repeat_prefix(folder: Path) -> None:
    rename_tensors(
        folder,
        lambda name: name.replace(NESTED, "model.language_model.language_model.language_model."),
    )


def repeat_visual_prefix(folder: Path) -> None:
    rename_tensors(folder, lambda name: name.replace("model.visual.", "model.visual.visual."))


def add_adapter(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        tensors[f"{NESTED}layers.0.mlp.gate_proj.lora_A.default.weight"] = plain("lora", (8, 32))

    edit_tensors(folder, change)


def add_layer(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        tensors["model.layers.2.mlp.gate_proj.weight"] = plain("extra", (64, 32))

    edit_tensors(folder, change)


def drop_norm(folder: Path) -> None:
    drop_tensors(folder, lambda name: name == f"{NESTED}norm.weight")


def drop_head(folder: Path) -> None:
    drop_tensors(folder, lambda name: name == "lm_head.weight")


def drop_block_of_the_tower(folder: Path) -> None:
    drop_tensors(folder, lambda name: name.startswith("model.visual.blocks.0.attn.qkv"))


def widen(folder: Path) -> None:
    edit_json(
        folder / "config.json", lambda config: config["text_config"].update(intermediate_size=96)
    )


def extend_vocabulary(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config["text_config"].update(vocab_size=2048))


def flatten_names(folder: Path) -> None:
    rename_tensors(folder, lambda name: name.replace(NESTED, "model."))


def rename_class(folder: Path) -> None:
    edit_json(
        folder / "config.json", lambda config: config.update(architectures=["Qwen3_5ForCausalLM"])
    )


def drop_tower(folder: Path) -> None:
    drop_tensors(folder, lambda name: name.startswith("model.visual."))


def tie(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=True))


def tie_and_drop_head(folder: Path) -> None:
    tie(folder)
    drop_head(folder)


CASES = [
    Case(
        "N201",
        repeat_prefix,
        "text",
        subject="model.language_model.language_model.language_model.",
    ),
    Case("N201", repeat_prefix, "quantized", spelling="modelopt"),
    Case("N201", repeat_visual_prefix, "visual", subject="model.visual.visual."),
    Case("N202", add_adapter, "adapter"),
    Case("N202", add_layer, "layer", config=llama()),
    Case("N203", drop_norm, "norm", subject=f"{NESTED}norm.weight"),
    Case("N203", drop_head, "head", spelling="compressed-tensors"),
    Case("N203", drop_block_of_the_tower, "tower"),
    Case("N204", widen, "width", subject=f"{NESTED}layers.0.mlp.gate_proj.weight"),
    Case("N204", widen, "packed", spelling="modelopt"),
    Case("N204", extend_vocabulary, "vocabulary", subject=f"{NESTED}embed_tokens.weight"),
    Case("N205", flatten_names, "flat names under a nested config", subject="model."),
    Case("N213", rename_class, "0.19.1", engines=("vllm==0.19.1",)),
    Case("N206", drop_tower, "tower", config=qwen35()),
    Case(
        "N207",
        tie_and_drop_head,
        "vllm 0.24",
        spelling="modelopt",
        engines=("vllm==0.24.0",),
    ),
    Case("N208", tie, "dropped", subject="lm_head.weight"),
    Case("N208", tie, "before 0.29", spelling="modelopt", engines=("vllm==0.28.0",)),
]
