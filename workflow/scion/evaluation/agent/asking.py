"""Every case of every agent task, asked of a server, several at a time."""

from typing import Any, cast

import openai

from scion.common.progress import progress
from scion.common.threads import unawaited_pool
from scion.engines.server import Server
from scion.evaluation.agent.judge import judge
from scion.evaluation.agent.tasks import Case, Task, TaskFile


def ask_all(
    server: Server, task_file: TaskFile, limit: int | None, parallel: int
) -> list[list[dict[str, Any]]]:
    """The results of each task's cases, in the file's order, `parallel` requests at a time.

    Args:
        server: The server that is asked.
        task_file: The tasks.
        limit: Cases of each task, from the start; None for all.
        parallel: Requests at the same time.

    Raises:
        ScionError: A request fails.
    """
    cases = sum(len(task.cases[:limit]) for task in task_file.tasks)
    with (
        progress("agent cases", cases) as told,
        # No proxy of the environment's, as in scion.engines.server; no retries: a failure counts.
        openai.OpenAI(
            base_url=server.openai_url,
            api_key="none",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        ) as client,
        unawaited_pool(parallel) as pool,
    ):
        pending = [
            [
                pool.submit(_run, client, server, task_file, task, case)
                for case in task.cases[:limit]
            ]
            for task in task_file.tasks
        ]
        results: list[list[dict[str, Any]]] = []
        for task, futures in zip(task_file.tasks, pending, strict=True):
            results.append([])
            for future in futures:
                results[-1].append(future.result())
                told.advance(note=task.title)
        return results


def _run(
    client: openai.OpenAI, server: Server, task_file: TaskFile, task: Task, case: Case
) -> dict[str, Any]:
    """One case: the request, the whole answer, the verdict."""
    request: dict[str, Any] = {"model": server.model, **task_file.request(task, case)}
    # What is not part of OpenAI's interface; the client puts it beside the rest.
    extra = {"chat_template_kwargs": {"enable_thinking": task.enable_thinking}}
    where = f"task {task.name}, {case.name}, {server.openai_url}/chat/completions"
    try:
        answer = client.chat.completions.create(**request, extra_body=extra)
        response = cast("dict[str, Any]", answer.model_dump(mode="json"))
        passed, reason = judge(task, case, response)
    # Besides the client's own errors, those of an answer that is no whole chat completion.
    except (openai.OpenAIError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise server.failure(
            "a request to the server failed",
            where=where,
            expected="a chat completion",
            found=f"{type(error).__name__}: {error}",
        ) from error
    return {
        "name": case.name,
        "passed": passed,
        "reason": reason,
        "request": request | extra,
        "response": response,
    }
