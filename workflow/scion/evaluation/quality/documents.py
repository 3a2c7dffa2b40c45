"""Held-out documents, chats and plain texts, as the tokens that several models are asked about."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scion.architectures.families import chat_marks
from scion.architectures.family import ChatMarks
from scion.artifacts.artifact import Artifact
from scion.checkpoint.shards import CONFIG, read_object
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from scion.common.jsonl import read_json_lines
from scion.common.progress import Progress
from scion.engines.server import Server
from scion.evaluation.chats import Chat, text_ids, token_ids
from scion.evaluation.quality.top_k_scores import Predictions, assistant_mask, read_predictions

Kind = Literal["chats", "texts"]

# What is counted of the work: a start ends with the first answer, which is slow by itself.
STARTS, DOCUMENTS = "server starts", "documents"


@dataclass(frozen=True)
class Text:
    """One line of a file of plain texts.

    Attributes:
        name: The line's `name`, or `line <number>`.
        text: The text.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Document:
    """A chat or a text as tokens.

    Attributes:
        content: What was tokenized.
        whole: All of its tokens.
        tokens: Those that are scored: from the start, as many as the limit allows.
        assistant: Which of `tokens` the assistant wrote; none in a text.
    """

    content: Chat | Text
    whole: list[int]
    tokens: list[int]
    assistant: list[bool]

    @property
    def kind(self) -> Kind:
        """The data set that the document comes from."""
        return "chats" if isinstance(self.content, Chat) else "texts"


def read_texts(path: Path, *, limit: int) -> list[Text]:
    """Read the first `limit` texts of a JSONL file, or all if there are fewer.

    Raises:
        ScionError: The file can't be read, is empty, or a line holds no `text`.
    """
    texts = read_json_lines(path, _parse, refusal=_unusable, limit=limit)
    if not texts:
        raise _unusable(path, "0 texts")
    return texts


def _parse(row: dict[str, Any], number: int) -> Text:
    if not isinstance(row["text"], str) or not row["text"].strip():
        raise ValueError("no text")
    return Text(row.get("name", f"line {number}"), row["text"])


def _unusable(where: object, fault: object) -> ScionError:
    return ScionError(
        "the held-out texts can't be used",
        where=where,
        expected='JSON lines such as {"name": "…", "text": "…"}, one at least',
        found=fault,
        hint="name another file in quality.texts, or set it to null",
    )


def answer_marks(folder: Path) -> ChatMarks:
    """What stands around answers in a checkpoint's chats, by its family and its chat template.

    Raises:
        ScionError: The family is not known, or its template writes other marks.
    """
    file = folder / "chat_template.jinja"
    settings = folder / "tokenizer_config.json"
    if file.exists():
        template = file.read_text(errors="replace")
    else:
        template = str(read_object(settings).get("chat_template")) if settings.exists() else ""
    return chat_marks(read_object(folder / CONFIG), template, where=folder)


def tokenize_documents(
    server: Server, contents: Sequence[Chat | Text], *, marks: ChatMarks, limit: int
) -> list[Document]:
    """Let a server render and tokenize documents.

    Args:
        server: Serves the model whose tokenizer and template count.
        contents: The documents.
        marks: What stands around the turns of the model's chats.
        limit: Longer ones are cut to so many tokens.

    Raises:
        ScionError: A document has nothing to predict, or no chat has an answer to score.
    """
    header = text_ids(server, marks.answer)
    (end,) = text_ids(server, marks.end)
    documents: list[Document] = []
    for content in contents:
        whole = ids_of(server, content)
        tokens = whole[:limit]
        chat = isinstance(content, Chat)
        mask = assistant_mask(tokens, header, end) if chat else [False] * len(tokens)
        documents.append(Document(content, whole, tokens, mask))
        if len(tokens) < 2:
            raise server.failure(
                "a held-out document has no token to predict",
                where=content.name,
                expected="two tokens at least",
                found=len(tokens),
            )
    if not any(any(document.assistant) for document in documents):
        raise server.failure(
            "no held-out chat has an answer to score",
            where="quality.chats",
            expected=f"assistant turns that begin within the first {limit} tokens",
            found=f"none in {len(documents)} documents",
        )
    return documents


def ids_of(server: Server, content: Chat | Text) -> list[int]:
    """The tokens that a server makes of a document."""
    if isinstance(content, Chat):
        return token_ids(server, content, reply=False)
    return text_ids(server, content.text)


def check_same_tokens(
    server: Server, documents: Sequence[Document], *, kinds: Sequence[Kind]
) -> None:
    """Raise a `ScionError` if a server makes other tokens of a document of these kinds."""
    for document in documents:
        if document.kind not in kinds:
            continue
        tokens = ids_of(server, document.content)
        if tokens != document.whole:
            pairs = enumerate(zip(document.whole, tokens, strict=False))
            shorter = min(len(tokens), len(document.whole))
            first = next(
                (at for at, (token, counterpart) in pairs if token != counterpart), shorter
            )
            raise ScionError(
                f"release and {server.model} make different tokens of the same document",
                where=f"quality.{document.kind}: {document.content.name}",
                expected=f"{len(document.whole)} tokens, as the release makes",
                found=f"{len(tokens)} tokens; the first difference is at token {first}",
                hint="losses of different tokens can't be compared: compare tokenizer.json, "
                "tokenizer_config.json and chat_template.jinja of both checkpoints",
            )


def vocabulary_size(artifact: Artifact) -> int:
    """How many tokens a checkpoint knows, as its config.json says."""
    path = artifact.folder / "config.json"
    config = read_object(path)
    size = config.get("text_config", config).get("vocab_size")
    if not isinstance(size, int):
        raise ScionError(
            "a checkpoint does not say how many tokens it knows",
            where=path,
            expected="vocab_size, in text_config or beside it",
            found=size,
            hint="fetch the checkpoint's config.json again",
        )
    return size


def check_vocabulary(artifact: Artifact, documents: Sequence[Document]) -> None:
    """Raise a `ScionError` if a document has a token that a checkpoint does not know."""
    size = vocabulary_size(artifact)
    for document in documents:
        if max(document.tokens) >= size:
            raise ScionError(
                "a held-out document has a token that this checkpoint does not know",
                where=artifact.folder / "config.json",
                expected=f"a vocab_size above {max(document.tokens)}, a token of "
                f"{document.content.name}",
                found=size,
                hint="only models of one vocabulary can be compared: name the base model that the "
                "source was trained from in quality.base, or set it to null",
            )


def scoring_work(models: int, documents: int) -> dict[str, float]:
    """How much there is to do for so many models, as `scion.common.progress` counts it."""
    return {STARTS: models, DOCUMENTS: models * (documents - 1)}


def request_predictions(
    server: Server, documents: Sequence[Document], *, top: int, told: Progress
) -> list[Predictions]:
    """Ask a server about every document, one at a time: batches would round differently.

    Args:
        server: The server.
        documents: The documents.
        top: How many of the most likely tokens to ask for at each place.
        told: Counts as `scoring_work` does.

    Raises:
        ScionError: The server dies, refuses, or answers in part.
    """
    begin = time.monotonic()
    done: list[Predictions] = []
    for document in documents:
        told.doing(f"{server.model}: {len(done)} of {len(documents)} documents")
        done.append(_ask(server, document, top))
        told.advance(DOCUMENTS if len(done) > 1 else STARTS)
    tokens = sum(len(document.tokens) for document in documents)
    seconds = time.monotonic() - begin
    print(f"{server.model}: {tokens} tokens scored in {seconds:.0f} s", file=sys.stderr, flush=True)
    return done


def _ask(server: Server, document: Document, top: int) -> Predictions:
    body = {
        "model": server.model,
        "prompt": document.tokens,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": top,
    }
    answer = server.ask("/v1/completions", body)
    try:
        rows = answer["choices"][0]["prompt_logprobs"]
        return read_predictions(rows, document.tokens, top=top)
    except (ValueError, LookupError, TypeError) as error:
        raise server.failure(
            "a document was scored in part",
            where=f"{server.model}: {document.content.name}",
            expected=f"{top} log-probabilities and the token's own, at each place",
            found=f"{type(error).__name__}: {error}",
        ) from error


def dataset_record(path: Path, documents: Sequence[Document], *, kind: Kind) -> dict[str, Any]:
    """What `quality.json` says of a data set: file, digest, documents, tokens, how many were cut.

    Args:
        path: The file.
        documents: All documents.
        kind: Those that were read from the file.
    """
    own = [document for document in documents if document.kind == kind]
    return {
        "file": path.name,
        "sha256": digest_file(path),
        "documents": len(own),
        "tokens": sum(len(document.tokens) for document in own),
        "cut": sum(len(document.tokens) < len(document.whole) for document in own),
    }
