"""Token batches: generated in parallel, sorted by length, right-padded, with loss weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from dialogues.corpus import Renderer, conversations

IM_START, IM_END, THINK = 1, 2, 8
LONGEST: Final = 1024
_CHUNK: Final = 2000

Ids = NDArray[np.uint16]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Dataset:
    """Tokenized conversations.

    Attributes:
        rows: token ids of each conversation.
        masks: for each token, whether the assistant wrote it.
        digest: sha256 over all ids and masks, in order.
    """

    rows: list[Ids]
    masks: list[Mask]
    digest: str

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return sum(map(len, self.rows))


def joined(parts: Sequence[Dataset]) -> Dataset:
    """All conversations of some data sets; its digest is over theirs."""
    rows = [row for part in parts for row in part.rows]
    masks = [mask for part in parts for mask in part.masks]
    digest = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
    return Dataset(rows, masks, digest)


@dataclass(frozen=True)
class Batch:
    """Ids [B, T] right-padded, and masks [B, T] of real tokens and of the assistant's tokens.

    Causal models need no attention mask for padding on the right.
    """

    ids: Tensor
    real: Tensor
    assistant: Tensor


def build_dataset(assets: Path, *, seed: int, split: str, count: int) -> Dataset:
    """Generates and tokenizes `count` conversations on all cores; the order is fixed."""
    starts = range(0, count, _CHUNK)
    jobs = [(assets, seed, split, start, min(start + _CHUNK, count)) for start in starts]
    rows: list[Ids] = []
    masks: list[Mask] = []
    digest = hashlib.sha256()
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for chunk in pool.map(_tokenize, *zip(*jobs, strict=True)):
            for ids, mask in chunk:
                digest.update(ids.tobytes() + mask.tobytes())
                rows.append(ids)
                masks.append(mask)
    return Dataset(rows, masks, digest.hexdigest())


def _tokenize(assets: Path, seed: int, split: str, start: int, stop: int) -> list[tuple[Ids, Mask]]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(str(assets / "tokenizer.json"))
    render = Renderer(assets / "chat_template.jinja")
    header = tokenizer.encode("assistant\n", add_special_tokens=False).ids
    empty = tokenizer.encode("\n\n", add_special_tokens=False).ids
    encoded: list[tuple[Ids, Mask]] = []
    for talk in conversations(seed, split, start, stop):
        ids = tokenizer.encode(render(talk), add_special_tokens=False).ids[:LONGEST]
        mask = assistant_mask(ids, header, empty)
        encoded.append((np.array(ids, np.uint16), np.array(mask, np.bool_)))
    return encoded


def assistant_mask(ids: list[int], header: list[int], empty: list[int]) -> list[bool]:
    """Marks what the assistant generates: not what the generation prompt already gives.

    Args:
        ids: one conversation.
        header: tokens of the role line that opens an assistant turn.
        empty: the token of a blank line, which stands in `<think>` when thinking is off.
    """
    mask = [False] * len(ids)
    for start, token in enumerate(ids):
        first = start + 1 + len(header)
        if token != IM_START or ids[start + 1 : first] != header:
            continue
        if ids[first : first + 1] == [THINK]:
            first += 4 if ids[first + 1 : first + 2] == empty else 2
        for i in range(first, len(ids)):
            mask[i] = True
            if ids[i] == IM_END:
                break
    return mask


def make_batches(
    data: Dataset, *, batch_tokens: int, seed: int, multiple: int = 64
) -> list[list[int]]:
    """Groups rows of like length into batches of at most `batch_tokens`; both shuffled by seed."""
    rng = np.random.default_rng(seed)
    order = sorted(
        rng.permutation(len(data.rows)).tolist(), key=lambda i: _padded(data, i, multiple)
    )
    batches: list[list[int]] = []
    current: list[int] = []
    for i in order:
        if current and (len(current) + 1) * _padded(data, i, multiple) > batch_tokens:
            batches.append(current)
            current = []
        current.append(i)
    batches.append(current)
    return [batches[i] for i in rng.permutation(len(batches))]


def _padded(data: Dataset, row: int, multiple: int) -> int:
    return -(-len(data.rows[row]) // multiple) * multiple


def collate(data: Dataset, rows: list[int], device: torch.device, multiple: int = 64) -> Batch:
    """Builds one batch on the device."""
    width = max(_padded(data, row, multiple) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    assistant = np.zeros((len(rows), width), np.bool_)
    lengths = np.array([len(data.rows[row]) for row in rows])
    for i, row in enumerate(rows):
        ids[i, : lengths[i]] = data.rows[row]
        assistant[i, : lengths[i]] = data.masks[row]
    real = np.arange(width)[None] < lengths[:, None]
    ids_, real_, assistant_ = (torch.from_numpy(x).to(device) for x in (ids, real, assistant))
    return Batch(ids_, real_, assistant_)
