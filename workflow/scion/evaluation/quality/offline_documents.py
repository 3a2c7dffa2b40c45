"""Held-out documents as tokens, by the checkpoint's own tokenizer and chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.evaluation.chats import Chat
from scion.evaluation.offline.prompts import load_tokenizer, prompt_ids
from scion.evaluation.quality.documents import Document, Text, answer_marks
from scion.evaluation.quality.top_k_scores import assistant_mask


def read_documents(
    folder: Path, contents: Sequence[Chat | Text], *, limit: int
) -> tuple[Document, ...]:
    """Tokenize documents.

    Args:
        folder: A checkpoint with its config.json and tokenizer.
        contents: Chats and plain texts.
        limit: Longer ones are cut to so many tokens.

    Raises:
        ScionError: The tokenizer can't be used, a chat can't be rendered, or a document has
            nothing to predict.
    """
    tokenizer = load_tokenizer(folder)
    marks = answer_marks(folder)
    header = _plain_ids(tokenizer, marks.answer)
    (end,) = _plain_ids(tokenizer, marks.end)
    documents: list[Document] = []
    for content in contents:
        chat = isinstance(content, Chat)
        whole = (
            prompt_ids(tokenizer, content, reply=False)
            if isinstance(content, Chat)
            else _plain_ids(tokenizer, content.text)
        )
        tokens = whole[:limit]
        if len(tokens) < 2:
            raise ScionError(
                "a held-out document has no token to predict",
                where=content.name,
                expected="two tokens at least",
                found=len(tokens),
                hint="leave the line out of quality.chats or quality.texts",
            )
        mask = assistant_mask(tokens, header, end) if chat else [False] * len(tokens)
        documents.append(Document(content, whole, tokens, mask))
    return tuple(documents)


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
