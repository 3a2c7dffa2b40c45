"""Which files of a checkpoint a release takes along: data that its readers load, by their names.

Code and pickles run in whoever loads them, so none travels, and neither does a config's word that
sends its readers to code (`auto_map`): every class that Scion releases is one of the engines' own.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from scion.checkpoint.shards import CONFIG, INDEX

TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
"""What a processor or a vision model reads; none of it is used by a text model."""
IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Either of them tells an engine what becomes of a picture before the tower sees it."""
NAMING_CODE = (CONFIG, TOKENIZER_CONFIG, *PROCESSOR_FILES)
"""The files in which transformers looks for code to load."""

_NAMES = frozenset(
    {
        CONFIG,
        INDEX,
        TOKENIZER_CONFIG,
        *PROCESSOR_FILES,
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        *(
            f"{stem}{ending}"
            for stem in ("LICENSE", "LICENCE", "NOTICE")
            for ending in ("", ".txt", ".md")
        ),
    }
)
_SHARD = re.compile(r"model[A-Za-z0-9_.-]*\.safetensors")
# https://github.com/huggingface/transformers/blob/main/src/transformers/dynamic_module_utils.py
# loads what these name, from this repository or from another one.
_CODE_KEYS = ("auto_map", "custom_pipelines")


def released(names: Iterable[str]) -> list[str]:
    """The names that a release can use, sorted."""
    return sorted(name for name in names if name in _NAMES or _SHARD.fullmatch(name))


def code_references(content: Mapping[str, Any]) -> list[str]:
    """The keys of a config, and of its sections, that name code to load: `text_config.auto_map`."""
    sections = [(f"{key}.", value) for key, value in content.items() if isinstance(value, dict)]
    return [
        f"{prefix}{key}"
        for prefix, section in (("", content), *sections)
        for key in _CODE_KEYS
        if key in section
    ]


def without_code(content: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the keys that `code_references` finds."""
    kept = {key: value for key, value in content.items() if key not in _CODE_KEYS}
    return {
        key: {name: part for name, part in value.items() if name not in _CODE_KEYS}
        if isinstance(value, dict)
        else value
        for key, value in kept.items()
    }
