"""Files of chats, one JSON object a line, and the tokens that the served model makes of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.common.jsonl import read_json_lines
from scion.engines.server import Server


@dataclass(frozen=True)
class Chat:
    """One line of the file: messages, the tools offered, and how the template renders them.

    Attributes:
        name: The line's `name`, or `line <number>`.
        messages: As /v1/chat/completions takes them.
        tools: As /v1/chat/completions takes them; None where the chat offers none.
        template: Variables of the chat template, such as `enable_thinking`.
        set: The line's `set`: the kind of chats that it belongs to.
    """

    name: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    template: dict[str, Any]
    set: str | None = None


def read_chats(path: Path, *, limit: int | None = None) -> list[Chat]:
    """Read the first `limit` chats of a JSONL file, or all.

    A line holds `messages`, and may hold `name`, `set`, `tools` and `enable_thinking`.

    Raises:
        ScionError: The file can't be read, is empty, has fewer chats than `limit`, or a line is
            not a chat.
    """
    chats = read_json_lines(path, _parse, refusal=_unusable, limit=limit)
    if not chats or (limit is not None and len(chats) < limit):
        raise _unusable(path, f"{len(chats)} chats", f"{limit or 'at least 1'} chats")
    return chats


def token_ids(server: Server, chat: Chat, *, reply: bool) -> list[int]:
    """The tokens of a chat, rendered and tokenized by the server.

    Args:
        server: Serves the model whose template counts.
        chat: The chat.
        reply: Whether the prompt for the assistant's next turn is added.
    """
    body = {
        "model": server.model,
        # /tokenize knows reasoning by this name only; /v1/chat/completions takes both.
        "messages": [
            {**message, "reasoning": message["reasoning_content"]}
            if message.get("reasoning_content")
            else message
            for message in chat.messages
        ],
        "add_generation_prompt": reply,
        "chat_template_kwargs": chat.template,
        **({"tools": chat.tools} if chat.tools else {}),
    }
    return server.ask("/tokenize", body)["tokens"]


def text_ids(server: Server, text: str) -> list[int]:
    """The tokens of a plain text, nothing added."""
    body = {"model": server.model, "prompt": text, "add_special_tokens": False}
    return server.ask("/tokenize", body)["tokens"]


def _parse(row: dict[str, Any], number: int) -> Chat:
    messages, tools = row["messages"], row.get("tools")
    if not messages or not all(isinstance(entry["role"], str) for entry in messages):
        raise ValueError("no messages")
    template = {key: row[key] for key in ("enable_thinking",) if key in row}
    name = row.get("name", f"line {number}")
    return Chat(name, messages, tools or None, template, row.get("set"))


def _unusable(where: object, fault: str, expected: str | None = None) -> ScionError:
    return ScionError(
        "the chats can't be used",
        where=where,
        expected=expected or 'JSON lines such as {"messages": [{"role": "user", "content": "…"}]}',
        found=fault,
        hint="name another file in the configuration, or ask for fewer chats",
    )
