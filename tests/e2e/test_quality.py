"""evaluate_quality over the real servers, once, and what it refuses before any server starts.

That run asks for the whole vocabulary, so its divergences are exact. While each server is up it is
asked once more for shorter lists, and by hand.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import half_made
from conversion import ENVIRONMENT, Conversion, Pico
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.common.errors import ScionError
from scion.common.progress import Progress
from scion.engines.config import PICO_LAUNCH, Launch, Serving
from scion.engines.server import Server
from scion.evaluation.quality import documents as heldout
from scion.evaluation.quality import served as quality_engine
from scion.evaluation.quality.config import Quality
from scion.evaluation.quality.documents import Document
from scion.evaluation.quality.top_k_scores import Predictions, predictions_record
from scion.stages import evaluate_quality as stage
from scion.stages.fetch_source import fetch_source
from serving_python import PYTHON

PROJECT = Path(__file__).parents[2]
VOCABULARY = 1024
TOP = 64
# Chats of the data file that are short and have answers; each token costs a list of 1024.
SHORT = (2, 6, 8)


@dataclass(frozen=True)
class Measured:
    """The stage's result, and what its servers said besides, by model.

    Attributes:
        result: quality.json.
        documents: What was asked about.
        short: Predictions with lists of `TOP`.
        by_hand: Mean loss of the first chat's answers, from `prompt_logprobs` alone.
    """

    result: dict[str, Any]
    documents: Sequence[Document]
    short: dict[str, list[Predictions]]
    by_hand: dict[str, float]

    def entry(self, name: str) -> dict[str, Any]:
        (model,) = [entry for entry in self.result["models"] if entry["name"] == name]
        return model

    def part(self, name: str, part: str) -> dict[str, Any]:
        return self.entry(name)["parts"][part]


@pytest.fixture(scope="module")
def files(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file of chats and one of texts."""
    folder = tmp_path_factory.mktemp("heldout")
    chats, texts = folder / "chats.jsonl", folder / "texts.jsonl"
    lines = (pico.folder / "heldout.jsonl").read_text().splitlines()
    chats.write_text("\n".join(lines[number] for number in SHORT) + "\n")
    lines = (pico.folder / "heldout_texts.jsonl").read_text().splitlines()
    texts.write_text("\n".join(lines[2:4]) + "\n")
    return chats, texts


def evaluate(
    conversion: Conversion,
    files: tuple[Path, Path | None],
    output: Path,
    *,
    base: Artifact | None = None,
    serving: Serving | None = None,
    launch: Launch = PICO_LAUNCH,
    python: Path = PYTHON,
    **quality: Any,
) -> Artifact:
    return stage.evaluate_quality(
        source=conversion.fetch_source,
        fixed=conversion.extract_text,
        release=conversion.graft_mtp,
        base=base,
        chats=files[0],
        texts=files[1],
        output=Output.at(output),
        serving=serving or Serving(),
        launch=launch,
        quality=Quality.model_validate({"samples": len(SHORT), "top_logprobs": TOP, **quality}),
        python=python,
        log_folder=output.parent / "logs",
        environment=ENVIRONMENT,
    )


@pytest.fixture(scope="module")
def measured(
    conversion: Conversion,
    pico: Pico,
    files: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Measured:
    """One run of the stage: three servers, and one that the engine refuses to start."""
    folder = tmp_path_factory.mktemp("quality")
    base = fetch_source(
        location=str(pico.base),
        output=Output.at(folder / "base"),
        environment=ENVIRONMENT,
        stage="fetch_base",
    )
    short: dict[str, list[Predictions]] = {}
    by_hand: dict[str, float] = {}
    seen: list[Document] = []

    def predict(
        server: Server, documents: Sequence[Document], *, top: int, told: Progress
    ) -> list[Predictions]:
        """What the stage calls, and two more questions to the same server."""
        short[server.model] = heldout.request_predictions(server, documents, top=TOP, told=told)
        by_hand[server.model] = answer_loss(server, documents[0])
        seen[:] = documents
        return heldout.request_predictions(server, documents, top=top, told=told)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "request_predictions", predict)
        patch.setattr(quality_engine, "request_predictions", predict)
        artifact = evaluate(
            conversion,
            files,
            folder / "evaluate_quality",
            base=base,
            max_tokens=120,
            top_logprobs=VOCABULARY,
        )
    result = json.loads((artifact.folder / "quality.json").read_text())
    return Measured(result, seen, short, by_hand)


def answer_loss(server: Server, chat: Document) -> float:
    body = {
        "model": server.model,
        "prompt": chat.tokens,
        "max_tokens": 1,
        "prompt_logprobs": 0,
    }
    rows = server.ask("/v1/completions", body)["choices"][0]["prompt_logprobs"]
    losses = [
        -row[str(token)]["logprob"]
        for row, token, counts in zip(rows, chat.tokens, chat.assistant, strict=True)
        if counts
    ]
    return sum(losses) / len(losses)


@pytest.mark.serve
def test_one_run(measured: Measured):
    """One test, so that the servers start once however tests are spread."""
    result = measured.result
    assert [entry["name"] for entry in result["models"]] == ["source", "fixed", "release", "base"]
    assert (result["reference"], result["top_logprobs"]) == ("fixed", VOCABULARY)
    assert result["engine"]["name"] == "vLLM"
    chats, texts = result["datasets"]["chats"], result["datasets"]["texts"]
    assert (chats["file"], chats["documents"], chats["cut"]) == ("chats.jsonl", len(SHORT), 0)
    assert (texts["documents"], texts["cut"]) == (2, 2), "both are longer than 120 tokens"
    tokens = sum(len(document.tokens) for document in measured.documents)
    assert chats["tokens"] + texts["tokens"] == tokens
    check_source(measured)
    check_values(measured)
    check_by_hand(measured)
    check_bounds(measured)


def check_source(measured: Measured) -> None:
    """The engine refuses the broken keys, and its own words are the result."""
    source = measured.entry("source")
    assert (source["loads"], source["same_as"], source["parts"]) == (False, None, None)
    assert source["engine_says"].startswith("ValueError: There is no module or parameter named")
    assert "language_model" in source["engine_says"]
    assert "\n" not in source["engine_says"]


def check_values(measured: Measured) -> None:
    for part in ("assistant", "chats", "texts"):
        fixed, release, base = (measured.part(name, part) for name in ("fixed", "release", "base"))
        assert fixed["kl"]["value"] == fixed["loss_change"]["value"] == 0
        assert fixed["top1_agreement"]["value"] == 1
        assert 1e-5 < release["kl"]["value"] < 0.2
        # Its loss may be lower all the same: the fine-tune forgot some of what the base writes.
        assert release["kl"]["value"] < base["kl"]["value"]
        assert 0.8 < release["top1_agreement"]["value"] <= 1
        assert base["top1_agreement"]["value"] < 1
        assert abs(release["loss_change"]["value"]) < 0.2
        for scores in (fixed, release, base):
            assert scores["tokens"] == scores["loss"]["count"] == fixed["tokens"] > 20
            assert scores["loss"]["low"] < scores["loss"]["value"] < scores["loss"]["high"]
            assert scores["perplexity"]["value"] == pytest.approx(
                np.exp(scores["loss"]["value"]), 1e-5
            )
            assert scores["kl_covered"] == pytest.approx(1, abs=1e-5)
        change = release["loss"]["value"] - fixed["loss"]["value"]
        assert release["loss_change"]["value"] == pytest.approx(change, abs=3e-6)


def check_by_hand(measured: Measured) -> None:
    """The stage's own predictions of a chat's answers against `prompt_logprobs` read plainly."""
    for name, loss in measured.by_hand.items():
        chosen = np.array(measured.documents[0].assistant[1:])
        mean_loss = -measured.short[name][0].actual[chosen].mean()
        assert mean_loss == pytest.approx(loss, abs=1e-6), name
    assert sorted(measured.by_hand) == ["base", "fixed", "release"]


def check_bounds(measured: Measured) -> None:
    """Short lists give a little less than the exact divergence, and the same losses."""
    for name in ("release", "base"):
        for kind in ("chats", "texts"):
            flags = [
                np.full(len(document.tokens) - 1, document.kind == kind)
                for document in measured.documents
            ]
            short = predictions_record(measured.short["fixed"], measured.short[name], flags)
            exact = measured.part(name, kind)
            assert 0.8 * exact["kl"]["value"] < short["kl"]["value"] <= exact["kl"]["value"]
            assert 0.95 < short["kl_covered"] < 1
            assert short["loss"] == exact["loss"]
            assert short["top1_agreement"] == exact["top1_agreement"]


# What is refused before a server starts


@pytest.mark.parametrize(
    ("problem", "where", "change"),
    [
        (
            "several models",
            "serving.server_url",
            {"serving": Serving(server_url="http://127.0.0.1:9/v1")},
        ),
        ("do not fit the launch's context", "quality.max_tokens", {"max_tokens": 2048}),
        (
            "more likely tokens are asked for",
            "quality.top_logprobs",
            {"top_logprobs": VOCABULARY + 1},
        ),
        ("the chats can't be used", "chats.jsonl", {"samples": len(SHORT) + 1}),
        ("the server died while", "evaluate_quality.release", {"python": Path("/bin/false")}),
    ],
)
def test_refusals_leave_no_score(
    conversion: Conversion,
    files: tuple[Path, Path],
    tmp_path: Path,
    problem: str,
    where: str,
    change: dict[str, Any],
):
    output = tmp_path / "results" / "evaluate_quality"
    with pytest.raises(ScionError, match=problem) as caught:
        evaluate(conversion, files, output, **change)
    assert where in caught.value.where
    assert not output.exists()
    if output.parent.exists():
        left = {path.name for path in output.parent.iterdir()} - {"logs", ".store"}
        assert left == set()
        assert half_made(output.parent) == []


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_files(
    conversion: Conversion, files: tuple[Path, Path], tmp_path: Path, missing: int
):
    paths = list(files)
    paths[missing] = tmp_path / "absent.jsonl"
    with pytest.raises(ScionError, match="can't be used") as caught:
        evaluate(conversion, (paths[0], paths[1]), tmp_path / "evaluate_quality")
    assert caught.value.where == str(tmp_path / "absent.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == [".store"]
    assert half_made(tmp_path) == []


def test_sound_source_has_the_tensors_of_fixed(conversion: Conversion):
    """A source that needed no repair is not served twice: it holds all that `fixed` does."""
    assert not stage.same_tensors(conversion.fetch_source, conversion.extract_text)
    assert stage.same_tensors(conversion.fix_keys, conversion.extract_text)
    assert not stage.same_tensors(conversion.graft_mtp, conversion.extract_text)
