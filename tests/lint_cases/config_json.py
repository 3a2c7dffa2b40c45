"""A config.json that does not say what the model's class needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints import edit_json
from lint_cases import Case
from lint_checkpoints import PROCESSOR, llama
from scion.architectures.families import QWEN3_5


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", change)


def edit_text(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Alter the language model's part in place."""
    return edit_config(lambda config: change(config["text_config"]) and None)


CASES = [
    Case("C801", edit_text(lambda text: text["layer_types"].append("full_attention")), "more"),
    Case("C801", edit_text(lambda text: text.update(hidden_size=None)), "a size"),
    Case(
        "C801",
        edit_config(lambda config: config.update(layer_types=["full_attention"])),
        "fewer, where shapes don't depend on them",
        config=llama(),
        subject="layer_types",
    ),
    Case(
        "C802",
        edit_text(lambda text: text.update(rope_parameters={"rope_type": "default"})),
        subject="rope_parameters",
    ),
    Case(
        "C802",
        edit_config(
            lambda config: config.update(rope_parameters={"full_attention": {"factor": 2}})
        ),
        "of a type of layer",
        config=llama(),
    ),
    Case(
        "C803",
        edit_config(lambda config: config.update(rope_parameters={"rope_theta": 500000.0})),
        config=llama(),
        engines=("vllm==0.19.1",),
    ),
    Case("C804", edit_config(lambda config: config.pop("architectures") and None)),
    Case("C805", edit_config(lambda config: config.update(architectures=["LlamaForCausalLM"]))),
    Case("C806", lambda folder: (folder / PROCESSOR).unlink(), engines=("sglang",)),
    Case(
        "C806",
        edit_config(lambda config: config.update(architectures=[QWEN3_5.architecture])),
        "by the class alone",
        config=llama(),
        engines=("sglang",),
    ),
    Case("C807", lambda folder: (folder / PROCESSOR).unlink(), "bf16"),
    Case("C807", lambda folder: (folder / PROCESSOR).unlink(), "quantized", spelling="modelopt"),
]
