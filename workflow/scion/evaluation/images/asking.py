"""Every question asked of a server, several at a time."""

from collections.abc import Sequence
from typing import Any

from scion.common.progress import Progress
from scion.common.threads import unawaited_pool
from scion.engines.server import Server
from scion.evaluation.images.questions import Question

_PATH = "/v1/chat/completions"


def ask_all(
    server: Server,
    questions: Sequence[Question],
    *,
    max_tokens: int,
    parallel: int,
    told: Progress,
) -> list[dict[str, Any]]:
    """What the server says to each question, greedily, in their order.

    Args:
        server: Serves a model with its vision tower.
        questions: The questions.
        max_tokens: Longest answer.
        parallel: Requests at the same time.
        told: Told of each answer.

    Returns:
        For each question `name`, `set`, `passed`, `answer`, `request` (its pictures as digests) and
        `response`.

    Raises:
        ScionError: A request fails, or an answer is no chat completion.
    """
    with unawaited_pool(parallel) as pool:
        pending = [pool.submit(_ask, server, question, max_tokens) for question in questions]
        results: list[dict[str, Any]] = []
        for future in pending:
            results.append(future.result())
            told.advance()
        return results


def _ask(server: Server, question: Question, max_tokens: int) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": server.model,
        "messages": question.messages,
        "temperature": 0,
        "max_tokens": max_tokens,
        "chat_template_kwargs": question.template,
    }
    response = server.ask(_PATH, request)
    try:
        answer = response["choices"][0]["message"]["content"] or ""
        passed = question.accepts(answer)
    except (LookupError, TypeError, AttributeError) as error:
        raise server.failure(
            "a request to the server failed",
            where=f"question {question.name}, {server.url}{_PATH}",
            expected="a chat completion",
            found=f"{type(error).__name__}: {error}",
        ) from error
    return {
        "name": question.name,
        "set": question.set,
        "passed": passed,
        "answer": answer,
        "request": request | {"messages": question.without_pictures()},
        "response": response,
    }
