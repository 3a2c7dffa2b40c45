"""Greedy decodes on a running server, and whether two servers generated the same tokens."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from scion.engines.server import Server


@dataclass(frozen=True)
class Prompt:
    """A prompt as the served template renders it."""

    name: str
    tokens: list[int]


@dataclass(frozen=True)
class Answer:
    """What one request generated, and how many tokens it asked for at most."""

    prompt: str
    length: int
    tokens: list[int]


def generate(server: Server, prompt: Prompt, length: int, *, to_the_end: bool = True) -> Answer:
    """Decode one prompt greedily.

    Args:
        server: The server.
        prompt: Its tokens are sent as they are, so no parser touches what comes back.
        length: Tokens to generate.
        to_the_end: Generate exactly `length` tokens, past the model's own end. Otherwise the model
            may end sooner.

    Raises:
        ScionError: The request fails, or is answered with fewer tokens than asked.
    """
    body = {
        "model": server.model,
        "prompt": prompt.tokens,
        "max_tokens": length,
        "temperature": 0,
        "ignore_eos": to_the_end,
        "return_token_ids": True,
    }
    answer = server.ask("/v1/completions", body)
    choice = answer["choices"][0]
    tokens: list[int] = choice["token_ids"]
    counted = answer["usage"]["completion_tokens"]
    short = counted != length if to_the_end else counted == 0
    if short or counted != len(tokens):
        raise server.failure(
            "a request was answered short",
            where=f"prompt {prompt.name}",
            expected=f"{length if to_the_end else 'at least 1'} tokens",
            found=f"{counted} counted, {len(tokens)} returned, "
            f"finish_reason {choice['finish_reason']}",
        )
    return Answer(prompt.name, length, tokens)


def generate_together(server: Server, prompts: Sequence[Prompt], length: int) -> list[Answer]:
    """Decode several prompts at the same time, each exactly `length` tokens long."""
    pool = ThreadPoolExecutor(max_workers=len(prompts))
    try:
        return list(pool.map(lambda prompt: generate(server, prompt, length), prompts))
    finally:
        # An interrupt must not wait for the decodes: the server is about to be stopped.
        pool.shutdown(wait=False, cancel_futures=True)


def compare(baseline: Sequence[Answer], answers: Sequence[Answer]) -> dict[str, Any]:
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
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
