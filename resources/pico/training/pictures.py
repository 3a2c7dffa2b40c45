"""Batches of questions about pictures: pixels as the family's image processor hands them over."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from dialogues.agent import Conversation
from dialogues.corpus import Renderer
from pictures.painting import Pixels, paint
from pictures.questions import Question, question
from pictures.scene import SIDE
from training.data import Batch, Dataset, Ids, Mask, assistant_mask, collate

PATCH: Final = 16
MERGE: Final = 2
GRID: Final = SIDE // PATCH
TOKENS: Final = (GRID // MERGE) ** 2
"""How many tokens a picture takes."""

IMAGE_PAD: Final = "<|image_pad|>"
IMAGE_TOKEN: Final = 4

_CHUNK: Final = 500
_MULTIPLE: Final = 16


@dataclass(frozen=True)
class PictureSet:
    """Tokenized questions and their pictures.

    Attributes:
        chats: Question and answer of each, the picture as `TOKENS` placeholders.
        pixels: uint8 [questions, SIDE, SIDE, 3].
        digest: sha256 over all of it, in order.
    """

    chats: Dataset
    pixels: NDArray[np.uint8]
    digest: str

    def batches(
        self, size: int, *, seed: int, device: torch.device
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Chats and patches of `size` questions each, in random order, without end."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.pixels))
            for start in range(0, len(order) - size + 1, size):
                yield self.batch(order[start : start + size].tolist(), device)

    def batch(self, rows: list[int], device: torch.device) -> tuple[Batch, Tensor]:
        """Chats and patches of some of the questions."""
        return collate(self.chats, rows, device, _MULTIPLE), patches(self.pixels[rows], device)


def build_pictures(assets: Path, *, seed: int, split: str, count: int) -> PictureSet:
    """Draws, paints and tokenizes `count` questions on all cores; the order is fixed.

    Args:
        assets: Folder of tokenizer and chat template.
        seed: Of the questions.
        split: One of `pictures.questions.SPLITS`.
        count: How many.
    """
    starts = range(0, count, _CHUNK)
    jobs = [(assets, seed, split, start, min(start + _CHUNK, count)) for start in starts]
    rows: list[Ids] = []
    masks: list[Mask] = []
    pixels = np.empty((count, SIDE, SIDE, 3), np.uint8)
    digest = hashlib.sha256()
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for chunk in pool.map(_tokenize, *zip(*jobs, strict=True)):
            for ids, mask, picture in chunk:
                digest.update(ids.tobytes() + mask.tobytes() + picture.tobytes())
                pixels[len(rows)] = picture
                rows.append(ids)
                masks.append(mask)
    return PictureSet(Dataset(rows, masks, digest.hexdigest()), pixels, digest.hexdigest())


def _tokenize(
    assets: Path, seed: int, split: str, start: int, stop: int
) -> list[tuple[Ids, Mask, Pixels]]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(str(assets / "tokenizer.json"))
    render = Renderer(assets / "chat_template.jinja")
    header = tokenizer.encode("assistant\n", add_special_tokens=False).ids
    empty = tokenizer.encode("\n\n", add_special_tokens=False).ids
    encoded: list[tuple[Ids, Mask, Pixels]] = []
    for index in range(start, stop):
        asked = question(seed, split, index)
        talk = Conversation(asked.topic, thinking=False)
        talk.messages += [*_asking(asked), {"role": "assistant", "content": asked.answer}]
        text = _with_room(render(talk))
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        mask = assistant_mask(ids, header, empty)
        encoded.append((np.array(ids, np.uint16), np.array(mask, np.bool_), paint(asked.scene)))
    return encoded


def _asking(asked: Question) -> list[dict[str, Any]]:
    content = [{"type": "image_url"}, {"type": "text", "text": asked.text}]
    return [{"role": "user", "content": content}]


def _with_room(text: str) -> str:
    """One placeholder for each token of a picture, as the family's processor writes them."""
    return text.replace(IMAGE_PAD, IMAGE_PAD * TOKENS)


def patches(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """What transformers' `Qwen2VLImageProcessor` makes of pictures that need no resizing.

    Values become (x / 255 - 0.5) / 0.5; a still picture is two equal frames; the patches that
    merge into one token follow each other.

    Args:
        pixels: uint8 [B, SIDE, SIDE, 3].
        device: Where the result goes.

    Returns:
        fp32 [B * GRID**2, 3 * 2 * PATCH**2].
    """
    x = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    half = GRID // MERGE
    x = x.reshape(-1, 3, half, MERGE, PATCH, half, MERGE, PATCH)
    # Batch, rows and columns of tokens, of patches in a token; channel; pixels of a patch.
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = x.unsqueeze(6).expand(*x.shape[:6], 2, *x.shape[6:])
    return x.reshape(len(pixels) * GRID**2, -1)
