"""Scores over the whole vocabulary, and what a comparison of recipes makes of them."""

import itertools
import math
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from scion.evaluation.chats import Chat
from scion.evaluation.quality import full_vocabulary as divergence
from scion.evaluation.quality.documents import Document, Text
from scion.evaluation.quality.full_vocabulary import Reference, Sums, score, sums_record
from scion.quantization.variants import together
from scion.quantization.variants_config import Comparison, Variant
from scion.report.pictures.recipes import recipes_picture, spread
from scion.report.recipes import SOURCE, best, best_line, markdown, parts_record, told

WORDS = 7


class Tiny:
    """A table of hidden states in front of a head."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._table = torch.randn(WORDS, 4, generator=generator)
        self.head: Any = nn.Linear(4, WORDS, bias=False).requires_grad_(False)
        self.head.weight = nn.Parameter(torch.randn(WORDS, 4, generator=generator))

    def hidden(self, tokens: Sequence[int]) -> torch.Tensor:
        return self._table[list(tokens)]

    def logprobs(self, tokens: Sequence[int]) -> np.ndarray:
        logits = (self._table @ self.head.weight.T).detach().double().numpy()[list(tokens)]
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def document(tokens: list[int], assistant: list[bool] | None = None) -> Document:
    if assistant is None:
        return Document(Text("a text", ""), tokens, tokens, [False] * len(tokens))
    return Document(Chat("a chat", [], None, {}), tokens, tokens, assistant)


DOCUMENTS = [
    document([1, 2, 3, 4], [False, False, True, True]),
    document([5, 6, 0]),
    document([3, 3, 1, 0, 2], [False] * 5),
]


@pytest.mark.parametrize("entries", [1, 1 << 24], ids=["a place at a time", "at once"])
def test_scores_are_those_by_hand(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    monkeypatch.setattr(divergence, "_ENTRIES", entries)
    source, model = Tiny(1), Tiny(2)
    scores = score(model, DOCUMENTS, Reference.of(source, DOCUMENTS))
    whole = scores["all"]
    assert whole is not None
    assert whole.tokens == [3, 2, 4]
    for number, document in enumerate(DOCUMENTS):
        p, q = source.logprobs(document.tokens[:-1]), model.logprobs(document.tokens[:-1])
        kl = (np.exp(p) * (p - q)).sum()
        loss = -sum(q[place, token] for place, token in enumerate(document.tokens[1:]))
        assert whole.kl[number] == pytest.approx(kl, rel=1e-5)
        assert whole.loss[number] == pytest.approx(loss, rel=1e-5)
        assert whole.agreements[number] == (p.argmax(-1) == q.argmax(-1)).sum()
    tokens = {part: sums and sums.tokens for part, sums in scores.items()}
    assert tokens == {
        "all": [3, 2, 4],
        "chats": [3, 0, 4],
        "assistant": [2, 0, 0],
        "texts": [0, 2, 0],
    }


def test_a_model_does_not_part_from_itself() -> None:
    model = Tiny(3)
    scores = score(model, DOCUMENTS[1:2], Reference.of(model, DOCUMENTS[1:2]))
    assert scores["chats"] is None
    assert scores["assistant"] is None
    assert scores["all"] is not None
    assert scores["all"].kl == [0]
    assert scores["all"].agreements == [2]


def sums(kl: Sequence[float], loss: Sequence[float]) -> Sums:
    return Sums([10] * len(kl), list(loss), list(kl), [9] * len(kl))


def test_differences_are_taken_document_by_document() -> None:
    # Documents differ much, and the model from the default by nearly the same in each.
    reference, default = sums([0] * 4, [5, 30, 12, 50]), sums([1, 4, 2, 8], [6, 31, 13, 51])
    model = sums([0.9, 3.9, 1.91, 7.89], [5.5, 30.5, 12.51, 50.49])
    record = sums_record(model, reference, default)
    beside = record["beside_default"]["kl_change"]
    assert beside["value"] == pytest.approx(-0.01)
    assert beside["high"] - beside["low"] < 0.003 < record["kl"]["high"] - record["kl"]["low"]
    assert record["loss_change"]["value"] == pytest.approx(0.05)
    assert record["perplexity"]["value"] == pytest.approx(math.exp(98.99 / 40 + 0.0002), rel=1e-2)
    assert sums_record(model, reference, None)["beside_default"] is None


def entry(name: str, kl: Sequence[float], *, kept: str | None = "none", size: int = 1000) -> Any:
    totals = sums(kl, [2 + divergence for divergence in kl])
    return {
        "name": name,
        "recipe": None if kept is None else name,
        "keep_bf16": kept,
        "use_fp8": kept and "none",
        "title": f"title of {name}",
        "bytes": size,
        "seconds": None if kept is None else 12.0,
        "acceptance": None,
        "agent_tasks": {"passed": 3, "total": 5},
        "sums": {"all": vars(totals)},
    }


ENTRIES = [
    entry(SOURCE, [0, 0, 0], kept=None, size=4000),
    entry("nvfp4_default", [3, 5, 4]),
    entry("local_hessian", [1, 2.5, 1.4]),
    entry("mse_sweep", [2, 3, 2.2]),
    entry("kept", [0.1, 0.2, 0.1], kept="attention", size=2000),
]


def result() -> dict[str, Any]:
    by_name = {entry["name"]: {"all": Sums(**entry["sums"]["all"])} for entry in ENTRIES}
    variants = [
        entry | {"parts": parts_record(by_name[entry["name"]], by_name[SOURCE], by_name[name])}
        for entry in ENTRIES
        for name in ["nvfp4_default"]
    ]
    return {"variants": variants, "best": best(ENTRIES)}


def test_the_best_recipe_keeps_nothing_in_bf16() -> None:
    ranking = best(ENTRIES)
    assert ranking is not None
    assert (ranking["name"], ranking["runner_up"]) == ("local_hessian", "mse_sweep")
    assert ranking["kl_change"]["value"] == pytest.approx(-2.3 / 30, abs=1e-6)
    assert "local_hessian, KL 0.163" in best_line(result())
    assert best([ENTRIES[0], ENTRIES[4]]) is None
    alone = best(ENTRIES[:2])
    assert alone is not None
    assert alone["runner_up"] is None


def test_the_table_has_a_line_for_each() -> None:
    lines = markdown(result()).splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(ENTRIES)
    assert len({len(row) for row in rows}) == 1
    # Nobody measured acceptance, so it has no column; and the default is not beside itself.
    assert "MTP accepted" not in rows[0]
    beside = rows[0].index("KL beside maxima")
    assert [row[beside] == "" for row in rows[2:]] == [True, True, False, False, False]
    assert "3/5 agent cases" in told(ENTRIES[1])


def test_the_picture_names_every_recipe() -> None:
    picture = recipes_picture(result())
    ElementTree.fromstring(picture.svg)
    assert picture.svg == recipes_picture(result()).svg
    assert "prefers-color-scheme: dark" in picture.svg
    for entry in ENTRIES[1:]:
        assert entry["title"] in picture.svg
        assert entry["title"] in picture.alt


def test_labels_are_spread() -> None:
    assert spread([0.1, 0.5, 0.9], apart=0.1) == [0.1, 0.5, 0.9]
    placed = spread([0.5, 0.5, 0.51], apart=0.1)
    assert [b - a for a, b in itertools.pairwise(placed)] == pytest.approx([0.1, 0.1])
    assert sum(placed) / 3 == pytest.approx(1.51 / 3)
    assert min(spread([0.0, 0.0], apart=0.1)) == 0


def test_recipes_that_move_weights_have_runs_of_their_own() -> None:
    runs = together(Comparison().variants)
    assert [[variant.name for variant in run] for run in runs[1:]] == [
        ["gptq"],
        ["local_hessian_gptq"],
    ]
    assert len(runs[0]) == 8
    assert together([Variant(recipe="gptq")]) == [[Variant(recipe="gptq")]]


def test_a_variant_is_named_once() -> None:
    twice = [{"recipe": "gptq"}, {"recipe": "gptq", "keep_bf16": "none"}]
    with pytest.raises(ValidationError, match="gptq stands there twice"):
        Comparison.model_validate({"variants": twice})
