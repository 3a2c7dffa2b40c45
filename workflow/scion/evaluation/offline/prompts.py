"""Prompts as a vLLM server renders them, and the tokens that end its replies."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from scion.common.errors import ScionError
from scion.evaluation.chats import Chat
from scion.lint import chat_prompts


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a release, with its chat template.

    Raises:
        ScionError: There is none, it can't be read, or it has no template.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if tokenizer.chat_template is None:
            raise ValueError("no chat template")
    except (OSError, ValueError, LookupError) as error:
        raise ScionError(
            "the tokenizer can't be used",
            where=folder,
            expected="tokenizer.json, tokenizer_config.json and chat_template.jinja",
            found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            hint=f"`scion lint {folder}` says what is wrong with them",
        ) from error
    return tokenizer


def prompt_ids(tokenizer: Any, chat: Chat, *, reply: bool = True) -> list[int]:
    """The tokens of one chat: as `all_prompt_ids`."""
    return all_prompt_ids(tokenizer, [chat], reply=reply)[0]


def all_prompt_ids(tokenizer: Any, chats: Sequence[Chat], *, reply: bool = True) -> list[list[int]]:
    """The tokens of chats, as a server renders them.

    Args:
        tokenizer: The model's, with its chat template.
        chats: The chats.
        reply: Whether the prompt for the assistant's next turn is added.

    Raises:
        ScionError: The template refuses a chat, or does not end within the bounds.
    """
    found = list[list[int]]()
    try:
        prompts = (_prompt(chat, reply) for chat in chats)
        for ids in chat_prompts.prompt_ids(tokenizer, prompts):
            found.append(ids)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ScionError(
            "the chat template can't render a prompt",
            where=f"prompt {chats[len(found)].name}",
            expected="messages and tools as /v1/chat/completions takes them",
            found=f"{type(error).__name__}: {error}",
            hint="mend the line in the file of prompts, or leave it out",
        ) from error
    return found


def _prompt(chat: Chat, reply: bool) -> chat_prompts.ChatPrompt:
    messages = [_as_the_server_reads_it(message) for message in chat.messages]
    return chat_prompts.ChatPrompt(messages, chat.tools, reply, chat.template)


def end_tokens(folder: Path, tokenizer: Any) -> set[int]:
    """The tokens at which vLLM ends a reply: the tokenizer's, and those of the configuration."""
    try:
        declared = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        declared = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    ids: Any = declared.eos_token_id
    listed = ids if isinstance(ids, list) else [ids]
    return {token for token in (tokenizer.eos_token_id, *listed) if token is not None}


def _as_the_server_reads_it(message: dict[str, Any]) -> dict[str, Any]:
    """A message of the chat API as vLLM hands it to the template.

    Arguments of calls, JSON text in the API, become objects; reasoning goes by both of its names.
    """
    read = {**message, "content": message.get("content") or ""}
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    if reasoning:
        read |= {"reasoning": reasoning, "reasoning_content": reasoning}
    calls: list[dict[str, Any]] = []
    for call in message.get("tool_calls") or []:
        function = call["function"]
        if isinstance(arguments := function.get("arguments") or {}, str):
            arguments = json.loads(arguments)
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return read | ({"tool_calls": calls} if calls else {})
