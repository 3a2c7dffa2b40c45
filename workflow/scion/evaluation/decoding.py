"""Replies of a running server, and whether two servers generated the same tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from scion.engines.server import Server

_GREEDY = MappingProxyType({"temperature": 0})


@dataclass(frozen=True)
class Prompt:
    """A prompt as the served template renders it.

    Attributes:
        name: As its file names it.
        set: The kind of prompts that it belongs to.
        thinking: Whether the template lets the model think.
        tokens: What is sent: as they are, so no parser touches what comes back.
    """

    name: str
    set: str
    thinking: bool
    tokens: list[int]

    @property
    def label(self) -> str:
        """Name and mode, as results quote it."""
        return f"{self.name}, {'with' if self.thinking else 'without'} thinking"


@dataclass(frozen=True)
class Answer:
    """What one request generated, and how many tokens it asked for at most."""

    prompt: str
    length: int
    tokens: list[int]


def generate(
    server: Server, prompt: Prompt, length: int, *, sampling: Mapping[str, Any] = _GREEDY
) -> Answer:
    """Decode one prompt until the model ends its reply.

    Args:
        server: The server.
        prompt: The prompt.
        length: Tokens to generate at most.
        sampling: How tokens are chosen, in the words of /v1/completions.

    Raises:
        ScionError: The request fails, or the reply was cut short.
    """
    body = {
        "model": server.model,
        "prompt": prompt.tokens,
        "max_tokens": length,
        "return_token_ids": True,
        **sampling,
    }
    answer = server.ask("/v1/completions", body)
    try:
        choice = answer["choices"][0]
        tokens, reason = list(choice["token_ids"]), choice["finish_reason"]
        counted = answer["usage"]["completion_tokens"]
    except (LookupError, TypeError) as error:
        raise server.failure(
            "an answer of the server can't be used",
            where=f"prompt {prompt.label}",
            expected="choices with token_ids and finish_reason, and usage",
            found=f"{type(error).__name__}: {error}",
        ) from error
    whole = len(tokens) == length if reason == "length" else reason == "stop" and tokens
    if not whole or counted != len(tokens):
        raise server.failure(
            "a request was answered short",
            where=f"prompt {prompt.label}",
            expected=f"{length} tokens, or fewer and the model's own end (finish_reason stop)",
            found=f"{counted} counted, {len(tokens)} returned, finish_reason {reason}",
        )
    return Answer(prompt.label, length, tokens)


def compare_answers(baseline: Sequence[Answer], answers: Sequence[Answer]) -> dict[str, Any]:
    """Count the answers whose tokens are those of the baseline, and say where others part.

    Args:
        baseline: Answers of the server without speculation.
        answers: Answers to the same requests, in the same order.

    Returns:
        `identical` and `total` answers, and `differences`: for each other answer its `prompt`,
        `length` asked for, and `first_difference`, the place (from 0) where the tokens part.
    """
    differences = [
        {
            "prompt": answer.prompt,
            "length": answer.length,
            "first_difference": _first_difference(expected.tokens, answer.tokens),
        }
        for expected, answer in zip(baseline, answers, strict=True)
        if expected.tokens != answer.tokens
    ]
    return {
        "identical": len(answers) - len(differences),
        "total": len(answers),
        "differences": differences,
    }


def _first_difference(first: Sequence[int], second: Sequence[int]) -> int:
    for place, (token, counterpart) in enumerate(zip(first, second, strict=False)):
        if token != counterpart:
            return place
    return min(len(first), len(second))
