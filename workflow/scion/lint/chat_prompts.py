"""Prompts as a checkpoint's tokenizer renders them, its template held to bounds.

`tokenizer.apply_chat_template` runs a stranger's template in this process, without a limit of time
or memory. Here the same text comes from `scion.lint.chat_render`, a process with limits, and only
the text is tokenized.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scion.lint.chat_render import SECONDS, Rendering, Request, render_all

# So many, or so much of their text, that one process renders; its output is held in memory.
_BATCH = 32
_BATCH_CHARACTERS = 1 << 22


@dataclass(frozen=True)
class ChatPrompt:
    """One rendering that a tokenizer is asked for.

    Attributes:
        messages: The conversation, with arguments of tool calls as objects.
        tools: The tools offered, if any.
        reply: Whether the prompt for the assistant's next turn is added.
        variables: Further variables of the template, such as `enable_thinking`.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    reply: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])


def prompt_ids(tokenizer: Any, prompts: Iterable[ChatPrompt]) -> Iterator[list[int]]:
    """The tokens of prompts, in order, as `apply_chat_template` gives them.

    Args:
        tokenizer: A tokenizer of transformers with its chat template.
        prompts: What is to be rendered.

    Raises:
        ValueError: There is no template, or it refuses a prompt, fails, or takes too long, too much
            memory or too many characters.
        TypeError: A prompt holds what JSON can't say.
    """
    for rendering in _renderings(_request(tokenizer, prompt) for prompt in prompts):
        if rendering.text is None:
            raise ValueError(f"the chat template gives no prompt: {rendering.problem}")
        yield tokenizer(rendering.text, add_special_tokens=False)["input_ids"]


def _request(tokenizer: Any, prompt: ChatPrompt) -> Request:
    tools = list(prompt.tools) if prompt.tools else None
    variables = {
        **tokenizer.special_tokens_map,
        "add_generation_prompt": prompt.reply,
        **prompt.variables,
    }
    template = tokenizer.get_chat_template(tools=tools)
    return Request(template, prompt.messages, tools, variables)


def _renderings(requests: Iterable[Request]) -> Iterator[Rendering]:
    """One of each, batch by batch; the last is of the first that outlasted the bounds."""
    for batch in _batches(requests):
        # A machine's slowest second and a tenth of one a prompt: hundreds of times what they take.
        yield from render_all(batch, seconds=SECONDS + len(batch) // 10)


def _batches(requests: Iterable[Request]) -> Iterator[list[Request]]:
    batch, size = list[Request](), 0
    for request in requests:
        batch.append(request)
        size += len(json.dumps([request.messages, request.tools]))
        if len(batch) == _BATCH or size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    yield batch
