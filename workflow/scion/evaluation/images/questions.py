"""Questions about pictures, and which answers are right."""

import binascii
import re
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.common.digest import digest_bytes
from scion.common.errors import ScionError
from scion.common.jsonl import read_json_lines

_DATA_URL = re.compile(r"data:(image/[a-z0-9.+-]+);base64,")
_WORD = re.compile(r"\w+")
_ONE = (
    '{"name": "…", "set": "…", "messages": [{"role": "user", "content": [{"type": "image_url", '
    '"image_url": {"url": "data:image/png;base64,…"}}, {"type": "text", "text": "…"}]}], '
    '"right": ["red"], "wrong": ["blue"]}'
)


@dataclass(frozen=True)
class Question:
    """One line of the file: a chat with pictures, and what is right.

    Attributes:
        name: The line's `name`, or `line <number>`.
        set: The kind of questions that it belongs to.
        messages: As /v1/chat/completions takes them; the pictures are data URLs.
        template: Variables of the chat template, such as `enable_thinking`.
        right: Words or phrases of which a right answer holds one.
        wrong: Those of which it holds none.
    """

    name: str
    set: str
    messages: list[dict[str, Any]]
    template: dict[str, Any]
    right: tuple[str, ...]
    wrong: tuple[str, ...]

    def accepts(self, answer: str) -> bool:
        """Whether an answer says what is right, and nothing that is wrong; case does not count."""
        said = _words(answer)
        return any(_words(word) in said for word in self.right) and not any(
            _words(word) in said for word in self.wrong
        )

    def without_pictures(self) -> list[dict[str, Any]]:
        """The messages as a record keeps them: a picture's type, size and SHA-256 in its place."""
        return [
            message | {"content": [_described(part) for part in message["content"]]}
            if isinstance(message["content"], list)
            else message
            for message in self.messages
        ]


def read_questions(path: Path, *, limit: int | None) -> list[Question]:
    """Read the first `limit` questions of a JSONL file, or all.

    Raises:
        ScionError: The file can't be read, is empty, has fewer questions than `limit`, or a line is
            no question with a picture.
    """
    questions = read_json_lines(path, _parse, refusal=_unusable, limit=limit)
    if not questions or (limit is not None and len(questions) < limit):
        raise ScionError(
            "there are fewer questions about pictures than are asked for",
            where=path,
            expected=f"{limit or 'at least 1'} questions, as images.limit says",
            found=f"{len(questions)} questions",
            hint="lower images.limit, or name another file in images.questions",
        )
    return questions


def _parse(row: dict[str, Any], number: int) -> Question:
    messages = row["messages"]
    parts = [
        part
        for message in messages
        if message["role"] and isinstance(message["content"], list)
        for part in message["content"]
    ]
    pictures = [_picture(part) for part in parts if part["type"] == "image_url"]
    if not pictures:
        raise ValueError("no picture")
    right, wrong = (_phrases(row, key) for key in ("right", "wrong"))
    if not right:
        raise ValueError("no right answer")
    template = {key: row[key] for key in ("enable_thinking",) if key in row}
    name, group = row.get("name", f"line {number}"), row.get("set", "all")
    return Question(str(name), str(group), messages, template, right, wrong)


def _phrases(row: dict[str, Any], key: str) -> tuple[str, ...]:
    phrases = row.get(key, [])
    if not isinstance(phrases, list) or not all(
        isinstance(phrase, str) and _words(phrase).strip() for phrase in phrases
    ):
        raise ValueError(f"{key} is no list of words")
    return tuple(phrases)


def _picture(part: dict[str, Any]) -> tuple[str, bytes]:
    """Media type and bytes of the picture that a part of a message holds."""
    url: str = part["image_url"]["url"]
    start = _DATA_URL.match(url)
    if start is None:
        raise ValueError(f"a picture is no data URL, but {url[:40]}")
    try:
        content = b64decode(url[start.end() :], validate=True)
    except binascii.Error as error:
        raise ValueError(f"a picture's base64 is broken: {error}") from error
    if not content:
        raise ValueError("a picture is empty")
    return start[1], content


def _described(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "image_url":
        return part
    media_type, content = _picture(part)
    told = {"media_type": media_type, "bytes": len(content), "sha256": digest_bytes(content)}
    return {"type": "image_url", "image_url": told}


def _words(text: str) -> str:
    """Lower case, one space around each word, nothing else: what a phrase is looked for in."""
    words = " ".join(_WORD.findall(text.lower()))
    return f" {words} "


def _unusable(where: object, fault: str) -> ScionError:
    return ScionError(
        "the questions about pictures can't be used",
        where=where,
        expected=f"JSON lines such as {_ONE}",
        found=fault,
        hint="name another file in images.questions",
    )
