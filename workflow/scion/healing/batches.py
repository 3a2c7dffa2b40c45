"""Texts side by side: padded on the right, with the places at which drafts begin."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scion.healing.texts import LearnedText


@dataclass(frozen=True)
class Batch:
    """Some texts, padded on the right, and the chains of drafts in them.

    Attributes:
        ids: int64 [B, T].
        rows: int64 [B, R], the positions that chains begin at; 0 where there is none.
        steps: int64 [B, R], how many steps of each chain are learned; 0 where there is none.
    """

    ids: Tensor
    rows: Tensor
    steps: Tensor


def batches(
    texts: Sequence[LearnedText], places: Iterable[int], tokens: int
) -> list[tuple[int, ...]]:
    """Group texts of like length, so that each group has at most so many tokens once padded.

    Args:
        texts: All texts.
        places: The numbers of those to group.
        tokens: At most; a longer text is a group of its own.
    """
    groups: list[tuple[int, ...]] = []
    group: list[int] = []
    for place in sorted(places, key=lambda place: (len(texts[place].ids), place)):
        if group and (len(group) + 1) * len(texts[place].ids) > tokens:
            groups.append(tuple(group))
            group = []
        group.append(place)
    return [*groups, tuple(group)] if group else groups


def collate(
    texts: Sequence[LearnedText], places: Sequence[int], *, steps: int, device: torch.device
) -> Batch:
    """Put texts into one batch on a device."""
    chains = [texts[place].chains(steps) for place in places]
    width, rows = max(len(texts[place].ids) for place in places), max(map(len, chains))
    padded = [texts[place].ids + (0,) * (width - len(texts[place].ids)) for place in places]
    filled = [each + [(0, 0)] * (rows - len(each)) for each in chains]
    table = torch.tensor(filled, dtype=torch.int64).view(len(places), rows, 2).to(device)
    return Batch(
        ids=torch.tensor(padded, device=device),
        rows=table[..., 0],
        steps=table[..., 1],
    )
