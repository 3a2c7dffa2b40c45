"""The texts that a head learns from, as tokens, and which of them the assistant has said.

A line of `replies.jsonl`:

    {"name": …, "origin": "greedy" | "sampled" | "given", "domain": "in" | "off",
     "ids": [token, …], "spans": [[a, b], …]}

`spans` are the ranges [a, b) of what the assistant said, its end token included. What is of another
domain ("off") is never learned: it shows whether the head gets worse elsewhere.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from scion.common.errors import ScionError
from scion.common.files import atomic_file
from scion.common.jsonl import read_json_lines

TEXTS = "replies.jsonl"
Origin = Literal["greedy", "sampled", "given"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)
Domain = Literal["in", "off"]


@dataclass(frozen=True)
class LearnedText:
    """A conversation in tokens.

    Attributes:
        name: What its prompt is called.
        origin: Whether the body has said it, greedily or not, or it was given.
        ids: The tokens.
        spans: Ranges of the assistant's tokens, begin and end.
        domain: Whether it is like what is learned, or is only held against what was.
    """

    name: str
    origin: Origin
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    domain: Domain = "in"

    @property
    def said_tokens(self) -> int:
        """How many tokens the assistant said."""
        return sum(end - begin for begin, end in self.spans)

    def chains(self, steps: int) -> list[tuple[int, int]]:
        """Where drafts begin: the position whose state is drafted from, and how many are learned.

        A draft is made after at least one token of the reply, from the state before that token.
        Its s-th step (from 0) takes the token at `position + s + 1`, and says what follows it.
        """
        return [
            (first - 1, min(steps, end - 1 - first))
            for begin, end in self.spans
            for first in range(max(begin, 1), end - 1)
        ]


def write_texts(path: Path, texts: Iterable[LearnedText]) -> None:
    """Write texts as JSON lines."""
    with atomic_file(path) as file:
        for text in texts:
            file.write((json.dumps(asdict(text), ensure_ascii=False) + "\n").encode())


def read_texts(path: Path) -> list[LearnedText]:
    """Read what `write_texts` wrote.

    Raises:
        ScionError: The file can't be read, or a line is no text.
    """
    return read_json_lines(path, _parse, refusal=_unusable)


def _parse(row: dict[str, Any], _number: int) -> LearnedText:
    spans = tuple((int(begin), int(end)) for begin, end in row["spans"])
    ids = tuple(map(int, row["ids"]))
    return LearnedText(row["name"], row["origin"], ids, spans, row["domain"])


def _unusable(where: object, fault: str) -> ScionError:
    return ScionError(
        "the texts that a head learns from can't be used",
        where=where,
        expected='JSON lines such as {"name": …, "origin": "greedy", "domain": "in", "ids": […], '
        '"spans": […]}',
        found=fault,
        hint="remove the sample_replies artifact, and run the workflow again",
    )
