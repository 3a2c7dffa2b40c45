"""What `quality.json` says of each model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scion.evaluation.quality.documents import Document
from scion.evaluation.quality.top_k_scores import Predictions, part_record

REFERENCE = "fixed"


def model_record(
    name: str,
    documents: Sequence[Document],
    predictions: Mapping[str, list[Predictions]],
    refusal: str | None,
) -> dict[str, Any]:
    """A model as `quality.json` holds it.

    Args:
        name: The model.
        documents: What the models were asked about.
        predictions: By model, for each document.
        refusal: What the engine said of the source, if it did not load it.
    """
    refused = refusal if name == "source" else None
    scored = predictions.get(name)
    return {
        "name": name,
        "loads": refused is None,
        "engine_says": refused,
        "same_as": REFERENCE if scored is None and refused is None else None,
        "parts": None if scored is None else _parts(documents, predictions[REFERENCE], scored),
    }


def _parts(
    documents: Sequence[Document], reference: Sequence[Predictions], model: Sequence[Predictions]
) -> dict[str, Any]:
    chosen = {
        "assistant": [np.array(one.assistant[1:]) for one in documents],
        "chats": [np.full(len(one.tokens) - 1, one.kind == "chats") for one in documents],
        "texts": [np.full(len(one.tokens) - 1, one.kind == "texts") for one in documents],
    }
    return {
        part: part_record(reference, model, flags) if any(one.any() for one in flags) else None
        for part, flags in chosen.items()
    }


def summary(entry: dict[str, Any]) -> str:
    """A model's scores in one line, for people."""
    name, parts = entry["name"], entry["parts"]
    if parts is None:
        same = f"the same tensors as {entry['same_as']}"
        return f"{name}: {same if entry['loads'] else 'refused: ' + entry['engine_says']}"
    told = [
        f"{part} {one['perplexity']['value']:.4f} (KL {one['kl']['value']:.5f}, same token "
        f"{one['top1_agreement']['value']:.1%})"
        for part, one in parts.items()
        if one
    ]
    return f"{name}: perplexity {', '.join(told)}"
