"""Loss and perplexity from per-token log-probabilities, and how sure their difference is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """A sum of token losses.

    Attributes:
        tokens: How many tokens were predicted.
        nats: Sum of their negative log-probabilities.
    """

    tokens: int
    nats: float

    @property
    def loss(self) -> float:
        """Mean negative log-probability in nats a token."""
        return self.nats / self.tokens

    def summary(self) -> dict[str, Any]:
        """Tokens, loss and perplexity as results record them."""
        return {
            "tokens": self.tokens,
            "loss": round(self.loss, 6),
            "perplexity": round(math.exp(self.loss), 6),
        }


def score(logprobs: Sequence[float | None], chosen: Iterable[bool]) -> Score:
    """Add up the losses of the chosen tokens; a first token, which nothing predicts, has None."""
    nats = [
        -value
        for value, counts in zip(logprobs, chosen, strict=True)
        if counts and value is not None
    ]
    return Score(len(nats), math.fsum(nats))


def total(scores: Iterable[Score]) -> Score:
    """The score of all chats as one text."""
    parts = list(scores)
    return Score(sum(part.tokens for part in parts), math.fsum(part.nats for part in parts))


def paired_difference(source: Sequence[Score], release: Sequence[Score]) -> dict[str, Any]:
    """How much more the release loses than the source on the same tokens.

    Tokens of one chat are not independent, so the chat is the unit: the standard error is that of
    a ratio of sums over chats (the difference in nats by the number of tokens).

    Args:
        source: Score of each chat.
        release: Score of the same chats.

    Returns:
        `loss` (release minus source, nats a token), `standard_error` (None for a single chat) and
        `perplexity_ratio`.
    """
    tokens = sum(one.tokens for one in source)
    gaps = [other.nats - one.nats for one, other in zip(source, release, strict=True)]
    mean = math.fsum(gaps) / tokens
    error = None
    if len(gaps) > 1:
        residuals = [gap - mean * one.tokens for gap, one in zip(gaps, source, strict=True)]
        squares = math.fsum(residual**2 for residual in residuals)
        error = math.sqrt(squares * len(gaps) / (len(gaps) - 1)) / tokens
    return {
        "loss": round(mean, 6),
        "standard_error": None if error is None else round(error, 6),
        "perplexity_ratio": round(math.exp(mean), 6),
    }


def assistant_mask(tokens: Sequence[int], header: Sequence[int], end: int) -> list[bool]:
    """Which tokens the assistant wrote: those after each `header` up to and with the next `end`.

    Args:
        tokens: A rendered chat.
        header: Tokens of `<|im_start|>assistant` and its line end.
        end: The token `<|im_end|>`.
    """
    mask = [False] * len(tokens)
    place = 0
    while place + len(header) <= len(tokens):
        if list(tokens[place : place + len(header)]) != list(header):
            place += 1
            continue
        place += len(header)
        while place < len(tokens):
            mask[place] = True
            place += 1
            if tokens[place - 1] == end:
                break
    return mask
