"""What `quality.json` says of each model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scion.evaluation.quality.documents import Document
from scion.evaluation.quality.top_k_scores import Predictions, predictions_record

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
        "assistant": [np.array(document.assistant[1:]) for document in documents],
        "chats": [
            np.full(len(document.tokens) - 1, document.kind == "chats") for document in documents
        ],
        "texts": [
            np.full(len(document.tokens) - 1, document.kind == "texts") for document in documents
        ],
    }
    return {
        part: predictions_record(reference, model, flags)
        if any(mask.any() for mask in flags)
        else None
        for part, flags in chosen.items()
    }


def score_line(entry: dict[str, Any]) -> str:
    """A model's scores in one line, for people."""
    name, parts = entry["name"], entry["parts"]
    if parts is None:
        same = f"the same tensors as {entry['same_as']}"
        return f"{name}: {same if entry['loads'] else 'refused: ' + entry['engine_says']}"
    scores = [
        f"{part} {record['perplexity']['value']:.4f} (KL {record['kl']['value']:.5f}, same token "
        f"{record['top1_agreement']['value']:.1%})"
        for part, record in parts.items()
        if record
    ]
    return f"{name}: perplexity {', '.join(scores)}"
