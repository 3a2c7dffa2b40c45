"""Loss, divergence and agreement of models on the same tokens, over the whole vocabulary.

Every model runs in torch, one document a pass. Of the reference its hidden states after the final
norm are kept, not its logits: those of a vocabulary of 248,320 would be 50 times as large.

A *place* is a token of a document that has others before it: all but the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from scion.evaluation.intervals import Estimate, bounded_ratio, positive_ratio, ratio_of_sums
from scion.evaluation.quality.documents import Document
from scion.evaluation.quality.top_k_scores import Flags, Floats, exponential

# Logits computed at a time.
_ENTRIES = 1 << 24
PARTS = ("all", "chats", "assistant", "texts")


class Model(Protocol):
    """A language model that reads a text in one pass."""

    @property
    def head(self) -> nn.Module:
        """[places, H] to logits, [places, vocabulary]."""
        ...

    def hidden(self, tokens: Sequence[int]) -> Tensor:
        """Hidden states after the final norm, [tokens, H]."""
        ...


@dataclass(frozen=True)
class Reference:
    """What the others are compared with.

    Attributes:
        head: Its head.
        states: By document, hidden states of all tokens but the last, on the CPU.
    """

    head: nn.Module
    states: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: Model, documents: Sequence[Document]) -> "Reference":
        """Let a model read the documents."""
        states = (model.hidden(document.tokens)[:-1].cpu() for document in documents)
        return cls(model.head, tuple(states))


@dataclass(frozen=True)
class Places:
    """One model on one document, by place.

    Attributes:
        loss: In nats.
        kl: KL(reference || model) in nats.
        agrees: Whether both hold the same token for the most likely one.
    """

    loss: Floats
    kl: Floats
    agrees: Flags


@dataclass(frozen=True)
class Sums:
    """Sums over the places of a part, by document; a document without any has zeros.

    Attributes:
        tokens: Number of places.
        loss: Sum of the losses.
        kl: Sum of the divergences.
        agreements: Places at which the most likely token is the reference's.
    """

    tokens: list[int]
    loss: list[float]
    kl: list[float]
    agreements: list[int]


def score(
    model: Model, documents: Sequence[Document], reference: Reference
) -> dict[str, Sums | None]:
    """Compare a model with the reference on the same tokens.

    Returns:
        By part, of `PARTS`: all places, those of chats, those that the assistant wrote, those of
        plain texts; None for a part that no document has.
    """
    pairs = zip(documents, reference.states, strict=True)
    places = [_places(model, document, states, reference.head) for document, states in pairs]
    chosen = {
        "all": [np.full(len(document.tokens) - 1, True) for document in documents],
        "chats": [
            np.full(len(document.tokens) - 1, document.kind == "chats") for document in documents
        ],
        "assistant": [np.array(document.assistant[1:], bool) for document in documents],
        "texts": [
            np.full(len(document.tokens) - 1, document.kind == "texts") for document in documents
        ],
    }
    return {
        part: _sums(places, flags) if any(mask.any() for mask in flags) else None
        for part, flags in chosen.items()
    }


@torch.inference_mode()
def _places(model: Model, document: Document, theirs: Tensor, head: nn.Module) -> Places:
    ours = model.hidden(document.tokens)[:-1]
    actual = torch.tensor(document.tokens[1:], device=ours.device)
    loss: list[Tensor] = []
    kl: list[Tensor] = []
    agrees: list[Tensor] = []
    size = _chunk(model.head, ours)
    for our, their, token in zip(
        ours.split(size), theirs.to(ours.device).split(size), actual.split(size), strict=True
    ):
        q = model.head(our).double().log_softmax(-1)
        p = head(their).double().log_softmax(-1)
        loss.append(-q.gather(-1, token[:, None]).squeeze(-1))
        kl.append((p.exp() * (p - q)).sum(-1).clamp(min=0))
        agrees.append(p.argmax(-1) == q.argmax(-1))
    joined = [torch.cat(part).cpu().numpy() for part in (loss, kl, agrees)]
    return Places(*joined)


def _chunk(head: nn.Module, hidden: Tensor) -> int:
    vocabulary = head(hidden[:1]).shape[-1]
    return max(1, _ENTRIES // vocabulary)


def _sums(places: Sequence[Places], chosen: Sequence[Flags]) -> Sums:
    pairs = list(zip(places, chosen, strict=True))
    return Sums(
        tokens=[int(flags.sum()) for flags in chosen],
        loss=[float(place.loss[flags].sum()) for place, flags in pairs],
        kl=[float(place.kl[flags].sum()) for place, flags in pairs],
        agreements=[int(place.agrees[flags].sum()) for place, flags in pairs],
    )


def sums_record(sums: Sums, reference: Sums, default: Sums | None) -> dict[str, Any]:
    """The scores of a model over a part, as `recipes.json` holds them.

    Tokens of one document are not independent: the document is the unit of all intervals, and
    differences are taken document by document.

    Args:
        sums: The model's.
        reference: The bf16 source's.
        default: The variant's that the others are held against, if it is among them.
    """

    def over(values: Sequence[float]) -> Estimate:
        return ratio_of_sums(values, sums.tokens)

    def change(key: str, baseline: Sums) -> dict[str, Any]:
        pairs = zip(getattr(sums, key), getattr(baseline, key), strict=True)
        return over([value - baseline_value for value, baseline_value in pairs]).record()

    loss = over(sums.loss)
    beside = None
    if default is not None:
        beside = {"loss_change": change("loss", default), "kl_change": change("kl", default)}
    return {
        "tokens": loss.count,
        "loss": loss.record(),
        "perplexity": exponential(loss).record(),
        "loss_change": change("loss", reference),
        "kl": positive_ratio(sums.kl, sums.tokens).record(),
        "top1_agreement": bounded_ratio(sums.agreements, sums.tokens).record(),
        "beside_default": beside,
    }
