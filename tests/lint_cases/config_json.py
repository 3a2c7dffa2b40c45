"""A config.json that does not say what the model's class needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints import edit_json
from lint_cases import Case
from lint_checkpoints import llama


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
]
