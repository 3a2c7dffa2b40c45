"""What a head learns from: the body's own replies to prompts, and dialogues as they were given.

Replies are asked of a server of the release, some greedily and some sampled. Prompts that the
release is measured with are refused: a head that has seen them would be accepted more often there
than it is elsewhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.common.progress import progress
from scion.common.threads import unawaited_pool
from scion.engines.server import Server
from scion.evaluation.chats import Chat
from scion.evaluation.decoding import Prompt, generate
from scion.evaluation.offline.prompts import all_prompt_ids
from scion.healing.config import ReplySampling
from scion.healing.texts import Domain, LearnedText, Origin


def require_unmeasured(chats: Sequence[Chat], measured: Mapping[Path, Sequence[Chat]]) -> None:
    """Refuse prompts that the release is measured with, by what users say in them.

    Args:
        chats: What the head would learn from.
        measured: What is measured with, by file.

    Raises:
        ScionError: Some stand in both.
    """
    for path, others in measured.items():
        asked = {_asked(chat): chat.name for chat in others}
        both = [
            (chat.name, asked[turns])
            for chat in chats
            for turns in _beginnings(_asked(chat))
            if turns in asked
        ]
        if both:
            first, second = both[0]
            raise ScionError(
                "prompts that the head would learn from are measured with, too",
                where=path,
                expected="no prompt that is also in healing.replies.prompts or dialogues",
                found=f"{len(both)} of {len(chats)}, such as {first}, which is {second} there",
                hint="take them out of the prompts to learn from",
            )


def _beginnings(turns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The first turn, the first two, and so on."""
    return (turns[:count] for count in range(1, len(turns) + 1))


def _asked(chat: Chat) -> tuple[str, ...]:
    """All that users say in a chat, without its spaces and case."""
    said = (entry.get("content") for entry in chat.messages if entry["role"] == "user")
    return tuple("".join(str(content).split()).casefold() for content in said)


def given_texts(tokenizer: Any, chats: Sequence[Chat]) -> list[LearnedText]:
    """Dialogues as they were given, and which of their tokens the assistant said.

    A turn counts if the dialogue begins, token for token, with the prompt for it and with the turn:
    a template may render a turn otherwise once others follow it.

    Raises:
        ScionError: The template refuses a dialogue.
    """
    turns = [
        (place, number)
        for place, chat in enumerate(chats)
        for number, entry in enumerate(chat.messages)
        if entry["role"] == "assistant"
    ]
    whole = all_prompt_ids(tokenizer, chats, reply=False)
    said = all_prompt_ids(tokenizer, [_until(chats[p], n + 1) for p, n in turns], reply=False)
    prompts = [
        all_prompt_ids(tokenizer, [_until(chats[p], n, enable_thinking=on) for p, n in turns])
        for on in (True, False)
    ]
    spans: list[list[tuple[int, int]]] = [[] for _ in chats]
    for (place, _), turn, *before in zip(turns, said, *prompts, strict=True):
        ids, end = whole[place], _end(turn, tokenizer.eos_token_id)
        begins = [len(ask) for ask in before if len(ask) < end and ids[: len(ask)] == ask]
        if begins and ids[:end] == turn[:end]:
            spans[place].append((max(begins), end))
    return [
        LearnedText(chat.name, "given", tuple(ids), tuple(found))
        for chat, ids, found in zip(chats, whole, spans, strict=True)
    ]


def _until(chat: Chat, count: int, **template: Any) -> Chat:
    return Chat(chat.name, chat.messages[:count], chat.tools, chat.template | template, chat.set)


def _end(turn: Sequence[int], last: int) -> int:
    """How long a turn is without what the template puts behind its end token."""
    backwards = (place for place in range(len(turn), 0, -1) if turn[place - 1] == last)
    return next(backwards, len(turn))


def asked_texts(
    server: Server,
    tokenizer: Any,
    chats: Mapping[Domain, Sequence[Chat]],
    replies: ReplySampling,
    *,
    context: int,
) -> Iterator[LearnedText]:
    """Ask a server of the release for its replies.

    Args:
        server: The server.
        tokenizer: The release's.
        chats: The prompts, by what their replies are for; they are asked together.
        replies: How long replies are, and how many are sampled.
        context: Of the server (tokens); prompts that leave no room for a reply are left out.

    Raises:
        ScionError: No prompt has room; the template refuses one; a request fails.
    """
    asked: list[tuple[Domain, Prompt]] = []
    for domain, those in chats.items():
        tokens = all_prompt_ids(tokenizer, those)
        most = context - replies.reply_tokens
        if tokens and min(map(len, tokens)) > most:
            raise _no_room(domain, tokens, replies, context)
        for chat, ids in zip(those, tokens, strict=True):
            if len(ids) <= most:
                asked.append((domain, Prompt(chat.name, chat.set or "", False, ids)))
    with (
        progress("replies", len(asked)) as told,
        unawaited_pool(replies.parallel_requests) as pool,
    ):
        pending = [
            pool.submit(_asked_text, server, prompt, domain, number, replies)
            for number, (domain, prompt) in enumerate(asked)
        ]
        for future in pending:
            text = future.result()
            told.advance(note=f"{len(text.ids)} tokens")
            yield text


def _no_room(
    domain: Domain, prompts: Sequence[Sequence[int]], replies: ReplySampling, context: int
) -> ScionError:
    key = "prompts" if domain == "in" else "off_domain"
    shortest = min(map(len, prompts))
    return ScionError(
        "no prompt leaves room for a reply",
        where=f"healing.replies.{key}: {len(prompts)} prompts",
        expected=f"prompt and reply of {context} tokens at most",
        found=f"{shortest} tokens of the shortest prompt, {replies.reply_tokens} of a reply",
        hint="name shorter prompts, lower healing.replies.reply_tokens, or raise the launch's "
        "max_model_len",
    )


def _asked_text(
    server: Server, prompt: Prompt, domain: Domain, number: int, replies: ReplySampling
) -> LearnedText:
    share = replies.sampled_share
    # Evenly among the others, whatever the share is.
    sampled = int((number + 1) * share) > int(number * share)
    origin: Origin = "sampled" if sampled else "greedy"
    # The body's whole distribution, which generation_config.json would cut. No seed: vLLM 0.32 ends
    # on a CPU where it reads the prompt of a request that has one in parts.
    drawn = {"temperature": replies.temperature, "top_p": 1.0, "top_k": 0}
    how = drawn if sampled else {"temperature": 0}
    answer = generate(server, prompt, replies.reply_tokens, sampling=how)
    begin = len(prompt.tokens)
    ids = (*prompt.tokens, *answer.tokens)
    return LearnedText(prompt.name, origin, ids, ((begin, len(ids)),), domain)
