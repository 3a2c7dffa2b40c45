"""Which class of a family was saved, and under which of the prefixes that its readers take.

A class that generates text ends in a head over the vocabulary, a classifier in one over its labels,
a base model, as embedding models are published, in none. transformers writes a base model's tensors
without `model.`. The language model of a nested family alone it reads from a whole checkpoint's
names too, and then writes it with these.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from scion.architectures.config_keys import MAX_SIZE, Keys
from scion.architectures.families import family_of
from scion.architectures.family import Family

Ending = Literal["lm_head", "score", "score with bias", "none", "unknown"]
_CLASS = re.compile(r"(?P<stem>[A-Z]\w*?)(For(?P<task>[A-Z]\w*))?")
_ENDINGS: dict[str, Ending] = {
    "CausalLM": "lm_head",
    "ConditionalGeneration": "lm_head",
    # https://github.com/huggingface/transformers/blob/v5.14.1/src/transformers/modeling_layers.py
    "SequenceClassification": "score",
    "TokenClassification": "score with bias",
}


@dataclass(frozen=True)
class ClassVariant:
    """How a checkpoint differs from what the workflow makes releases of.

    Attributes:
        ending: What stands behind the last norm.
        names: Whether the language model has the prefix of its config's form, the nested one below
            a flat config, or none of the outermost `model.`.
    """

    ending: Ending = "lm_head"
    names: Literal["own", "nested", "bare"] = "own"

    def spelled(self, family: Family) -> Family:
        """The family with the prefixes of this checkpoint."""
        if self.names == "own":
            return family
        if self.names == "nested":
            return replace(family, flat_prefix=family.nested_prefix)
        return replace(
            family,
            nested_prefix=_bare(family.nested_prefix),
            flat_prefix=_bare(family.flat_prefix),
            vision_prefix=_bare(family.vision_prefix),
        )

    def head(self, top: Keys, *, hidden: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
        """The tensors behind the last norm, where they are not tied to the embeddings."""
        if self.ending == "lm_head":
            return {"lm_head.weight": (vocabulary, hidden)}
        if not self.ending.startswith("score"):
            return {}
        labels = _labels(top)
        bias = {"score.bias": (labels,)} if self.ending == "score with bias" else {}
        return {"score.weight": (labels, hidden), **bias}


GENERATES = ClassVariant()


def variant_of(config: Mapping[str, Any], names: Collection[str], *, embeds: bool) -> ClassVariant:
    """What config.json and the tensors' names say of it.

    Args:
        config: Parsed config.json.
        names: The tensors'.
        embeds: Whether other files say that it is an embedding model: its class is then that of a
            generating model, and its head is left out.
    """
    family = family_of(config)
    if family is None:
        return GENERATES
    ending = "none" if embeds else _ending(config, family)
    both = family.reads_nested and not family.nested
    if both and any(name.startswith(family.nested_prefix) for name in names):
        return ClassVariant(ending, "nested")
    if ending == "none" and f"{_bare(family.embedding)}.weight" in names:
        return ClassVariant(ending, "bare")
    return ClassVariant(ending)


def is_released(config: Mapping[str, Any]) -> bool:
    """Whether the workflow makes releases of what a config.json names: no classifiers, say."""
    family = family_of(config)
    return family is not None and family.released and _ending(config, family) == "lm_head"


def _bare(prefix: str) -> str:
    return prefix.removeprefix("model.")


def _ending(config: Mapping[str, Any], family: Family) -> Ending:
    """By the class that is named; one that is missing, or another family's, is another matter."""
    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else None
    parts = _CLASS.fullmatch(named) if isinstance(named, str) else None
    if parts is None:
        return "lm_head"
    stem = family.architecture.partition("For")[0]
    if parts["task"] is None:
        return "none" if named in (f"{stem}Model", f"{stem}TextModel") else "lm_head"
    return _ENDINGS.get(parts["task"], "unknown")


def _labels(top: Keys) -> int:
    """As transformers counts them: by their names, two where nothing is said."""
    names = top.values.get("id2label")
    if isinstance(names, dict) and 0 < len(names) <= MAX_SIZE:
        return len(names)
    return top.size("num_labels", default=2)
