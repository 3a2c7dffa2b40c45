"""A release whose MTP head was trained, made from the tests' conversion in seconds."""

from pathlib import Path

import pytest
import torch

from conversion import ENVIRONMENT, Pico
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.evaluation.chats import read_chats
from scion.evaluation.offline.prompts import load_tokenizer
from scion.evaluation.offline.weights import Weights
from scion.healing import body, heal
from scion.healing.config import Training
from scion.healing.head import UnrolledHead
from scion.healing.replies import given_texts
from scion.healing.texts import TEXTS, LearnedText, write_texts

# Two tests run at a time, and threads that wait for each other's turn on a core take minutes.
body.THREADS = heal.THREADS = 1

QUICK = Training(steps=6, batch_tokens=1500, held_out_share=0.25, device="cpu")


def short_texts(pico: Pico) -> list[LearnedText]:
    """The shortest dialogues of the calibration set."""
    chats = read_chats(pico.calibration, limit=40)
    texts = given_texts(load_tokenizer(pico.base), chats)
    return sorted(texts, key=lambda text: len(text.ids))[:10]


def replies_artifact(release: Artifact, texts: list[LearnedText], folder: Path) -> Artifact:
    """What `sample_replies` leaves, of texts that no server was asked for."""

    def build(draft: Draft) -> None:
        write_texts(draft.folder / TEXTS, texts)

    return remake(
        Output.at(folder),
        stage="sample_replies",
        inputs={"release": release},
        settings={},
        environment=ENVIRONMENT,
        build=build,
    )


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every head that is trained begin with noise in its weights, so that training helps."""
    build = UnrolledHead.__init__

    def spoiled(self: UnrolledHead, weights: Weights) -> None:
        build(self, weights)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.add_(1.5 * parameter.std() * torch.randn_like(parameter))

    monkeypatch.setattr(UnrolledHead, "__init__", spoiled)
