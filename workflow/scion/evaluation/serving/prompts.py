"""The prompts that measure_serving asks: by set, with thinking and without, checked before."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from scion.common.errors import ScionError
from scion.engines.server import Server
from scion.evaluation.chats import Chat, read_chats, token_ids
from scion.evaluation.decoding import Prompt

SETS = ("chat", "code", "tools", "long_form", "off_domain")


def read_prompt_sets(path: Path) -> list[Chat]:
    """The chats of a file, each with thinking and without unless it says which.

    Raises:
        ScionError: As `read_chats`; a chat belongs to no set; two have one name.
    """
    chats = read_chats(path)
    seen: set[str] = set()
    for chat in chats:
        if chat.set not in SETS or chat.name in seen:
            raise ScionError(
                "a prompt can't be told from others in the results",
                where=f"{path}: {chat.name}",
                expected=f"a name of its own, and a set: {', '.join(SETS)}",
                found="a name that stands there before" if chat.set in SETS else f"set {chat.set}",
                hint="give each line its own `name`, and a `set`",
            )
        seen.add(chat.name)
    return [
        replace(chat, template={"enable_thinking": thinking})
        for chat in chats
        for thinking in (
            [bool(chat.template["enable_thinking"])]
            if "enable_thinking" in chat.template
            else [False, True]
        )
    ]


def count_sets(chats: Sequence[Chat]) -> dict[str, int]:
    """How many chats of each set there are, asked once or twice."""
    return {
        name: len({chat.name for chat in chats if chat.set == name})
        for name in SETS
        if any(chat.set == name for chat in chats)
    }


def render_prompts(server: Server, chats: Sequence[Chat]) -> list[Prompt]:
    """The chats as the served template renders them, a set and mode after the other in turn.

    So that the first few of the list, which are decoded, are of all kinds.
    """
    kinds: dict[tuple[str | None, bool], list[Prompt]] = {}
    for chat in chats:
        thinking = chat.template["enable_thinking"]
        prompt = Prompt(chat.name, str(chat.set), thinking, token_ids(server, chat, reply=True))
        kinds.setdefault((chat.set, thinking), []).append(prompt)
    turns = zip_longest(*kinds.values())
    return [prompt for turn in turns for prompt in turn if prompt is not None]


def check_room(prompts: Sequence[Prompt], *, answer: int, context: int, path: Path) -> None:
    """Raise a `ScionError` if a prompt and its answer do not fit the context.

    Args:
        prompts: The prompts.
        answer: The longest answer (tokens).
        context: Of the server (tokens).
        path: The prompts' file.
    """
    longest = max(prompts, key=lambda prompt: len(prompt.tokens))
    if len(longest.tokens) + answer > context:
        raise ScionError(
            "a prompt does not fit the context",
            where=f"{path}: {longest.name}",
            expected=f"a prompt and an answer of {context} tokens at most",
            found=f"{len(longest.tokens)} tokens of prompt, up to {answer} of answer",
            hint="shorten the prompt, lower measurement.decode_tokens and reply_tokens, or raise "
            "the launch's max_model_len",
        )
