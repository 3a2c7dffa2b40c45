"""Conversations that a chat template must be able to render, and what must be in the prompt then.

Their texts are plain words that no template has a reason to change, each in one place only, so that
finding one in the prompt means that this message got there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SYSTEM = "You answer in one sentence."
QUESTION = "How warm is it in the capital of Norway?"
ANSWER = "It is eleven degrees there."
THOUGHT = "The capital must be looked up first."
NEXT_QUESTION = "And is that more than yesterday?"
TOOL = "read_thermometer"
PARAMETER = "municipality"
ARGUMENT = "Oslo"
OTHER_ARGUMENT = "Bergen"
RESULT = "eleven point four"
OTHER_RESULT = "nine point two"

TOOLS: tuple[Mapping[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "Reads the thermometer of a town.",
            "parameters": {
                "type": "object",
                "properties": {PARAMETER: {"type": "string", "description": "The town."}},
                "required": [PARAMETER],
            },
        },
    },
)


@dataclass(frozen=True, eq=False)
class Conversation:
    """One request to a server.

    Attributes:
        name: What it is, for messages.
        messages: As vLLM hands them to the template.
        shown: Texts that the prompt must hold.
        prompted: Whether the assistant shall speak next.
        tools: Whether `TOOLS` are offered.
        variables: Further arguments of the request, such as `enable_thinking`.
        refusable: Whether a template may refuse it: some models have no system role, and some call
            one tool at a time.
    """

    name: str
    messages: Sequence[Mapping[str, Any]]
    shown: tuple[str, ...]
    prompted: bool = True
    tools: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    refusable: bool = False


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


def _thought(text: str) -> dict[str, str]:
    # vLLM hands it over under both names.
    return {"reasoning": text, "reasoning_content": text}


def _call(number: int, argument: str) -> dict[str, Any]:
    # Mistral's templates demand ids of nine letters or digits.
    function = {"name": TOOL, "arguments": {PARAMETER: argument}}
    return {"id": f"call0000{number}", "type": "function", "function": function}


def _result(number: int, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call0000{number}", "name": TOOL, "content": text}


_SYSTEM = {"role": "system", "content": SYSTEM}

ASKED = Conversation("a question", [_user(QUESTION)], (QUESTION,))
UNPROMPTED = Conversation(
    "a question, without add_generation_prompt", [_user(QUESTION)], (QUESTION,), prompted=False
)
ANSWERED = Conversation(
    "a question and its answer",
    [_user(QUESTION), _assistant(ANSWER)],
    (QUESTION, ANSWER),
    prompted=False,
)
INSTRUCTED = Conversation(
    "a system message and a question",
    [_SYSTEM, _user(QUESTION)],
    (SYSTEM, QUESTION),
    refusable=True,
)
PLAIN = (
    ASKED,
    UNPROMPTED,
    ANSWERED,
    INSTRUCTED,
    Conversation(
        "a second question, after an answer with reasoning",
        [_user(QUESTION), _assistant(ANSWER, **_thought(THOUGHT)), _user(NEXT_QUESTION)],
        (QUESTION, ANSWER, NEXT_QUESTION),
    ),
    Conversation(
        "a question with enable_thinking true",
        [_user(QUESTION)],
        (QUESTION,),
        variables={"enable_thinking": True},
    ),
    Conversation(
        "a question with enable_thinking false",
        [_user(QUESTION)],
        (QUESTION,),
        variables={"enable_thinking": False},
    ),
)

OFFERED = Conversation("a question and a tool", [_user(QUESTION)], (QUESTION, TOOL), tools=True)
TOOL_USE = (
    OFFERED,
    Conversation(
        "a tool call and its result",
        [
            _user(QUESTION),
            _assistant("", **_thought(THOUGHT), tool_calls=[_call(1, ARGUMENT)]),
            _result(1, RESULT),
        ],
        (QUESTION, TOOL, PARAMETER, ARGUMENT, RESULT),
        tools=True,
    ),
    Conversation(
        "two tool calls at once, their results, an answer and a second question",
        [
            _user(QUESTION),
            _assistant("", tool_calls=[_call(1, ARGUMENT), _call(2, OTHER_ARGUMENT)]),
            _result(1, RESULT),
            _result(2, OTHER_RESULT),
            _assistant(ANSWER),
            _user(NEXT_QUESTION),
        ],
        (ARGUMENT, OTHER_ARGUMENT, RESULT, OTHER_RESULT, ANSWER, NEXT_QUESTION),
        tools=True,
        refusable=True,
    ),
)

ROLES = (
    Conversation(
        "a developer message and a question",
        [{"role": "developer", "content": SYSTEM}, _user(QUESTION)],
        (SYSTEM, QUESTION),
        refusable=True,
    ),
    Conversation(
        "a system message after an answer",
        [_user(QUESTION), _assistant(ANSWER), _SYSTEM, _user(NEXT_QUESTION)],
        (QUESTION, ANSWER, SYSTEM, NEXT_QUESTION),
        refusable=True,
    ),
)
"""What clients of agents send, and many models were not made for."""
