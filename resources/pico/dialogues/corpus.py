"""Data sets: which mix, which side of the held-out wall, and how a conversation becomes text."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import jinja2.sandbox

from dialogues.agent import Conversation, agent_conversation
from dialogues.chat import chat_conversation
from dialogues.writer import Writer


@dataclass(frozen=True)
class Mix:
    """How a data set is drawn.

    Attributes:
        agent: share of conversations with tools.
        thinking: share of conversations with reasoning.
        skew: the style, see `Writer`.
        held_out: whether argument values come from the held-out side.
    """

    agent: float
    thinking: float
    skew: float
    held_out: bool = False


MIXES: Final = {
    "base": Mix(agent=0.58, thinking=0.5, skew=1.0),
    "agent": Mix(agent=0.9, thinking=0.5, skew=0.45),
    "calibration": Mix(agent=0.9, thinking=0.5, skew=0.45),
    "healing": Mix(agent=0.9, thinking=0.5, skew=0.45),
    "healing-chat": Mix(agent=0.0, thinking=0.5, skew=0.45),
    "base-heldout": Mix(agent=0.58, thinking=0.5, skew=1.0, held_out=True),
    "heldout": Mix(agent=0.9, thinking=0.5, skew=0.45, held_out=True),
    "evaluation": Mix(agent=0.7, thinking=0.8, skew=0.45, held_out=True),
}
"""By data set. The broad mix trains pico-base, the agent mix pico-agent; heldout judges both while
they train, evaluation (more text to choose freely) is the file that releases are judged on."""


def conversation(seed: int, split: str, index: int) -> Conversation:
    """Draws conversation `index` of a data set; depends on nothing but the arguments."""
    mix = MIXES[split]
    rng = random.Random(f"{seed}:{split}:{index}")
    writer = Writer(rng, skew=mix.skew, held_out=mix.held_out)
    draw = agent_conversation if rng.random() < mix.agent else chat_conversation
    return draw(writer, thinking=rng.random() < mix.thinking)


class Renderer:
    """Renders conversations with a chat template as transformers and vLLM do."""

    def __init__(self, template: Path) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self._template = environment.from_string(template.read_text())

    def __call__(self, talk: Conversation) -> str:
        """The whole conversation as training text."""
        return self._template.render(messages=talk.messages, tools=talk.tools or None)

    def prompt(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], thinking: bool
    ) -> str:
        """Messages so far and the opening of the assistant's turn."""
        return self._template.render(
            messages=messages,
            tools=tools or None,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )


def as_row(talk: Conversation) -> dict[str, Any]:
    """One line of a data file: messages in the form that the chat API takes."""
    messages = copy.deepcopy(talk.messages)
    for message in messages:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(
                call["function"]["arguments"], ensure_ascii=False
            )
    return {"messages": messages, "tools": talk.tools}


def conversations(seed: int, split: str, start: int, stop: int) -> Iterator[Conversation]:
    """Draws the conversations of a range of indices."""
    return (conversation(seed, split, index) for index in range(start, stop))
