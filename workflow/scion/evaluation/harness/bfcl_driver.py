"""Tool calls by the Berkeley Function Calling Leaderboard's package: its data, handler and checker.

The request holds `categories`, `limit`, `skip` (leave out what does not fit the context), `server`,
its address, `model`, `context`, `parallel`, `max_tokens`, `enable_thinking`, `timeout_seconds`.

The package's own path, in its function-calling mode: `load_dataset_entry` gives the cases,
`OpenAICompletionsHandler` makes the tools, the request and the result of an answer, `evaluate_task`
decodes and judges. What differs, because the server is one's own:

- The registry of models, `bfcl_eval.constants.model_config`, has this model as its one entry. The
  package's own registry imports the clients of all hosted models.
- The handler's client goes to the server, through no proxy; it asks for `max_tokens` and sets
  `enable_thinking`. A failed request is not repeated and ends the run: the package's own loop
  would record it as the model's answer, which then counts as wrong, or as right in `irrelevance`.
"""

import importlib
import json
import os
import sys
import time
import types
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.evaluation.harness.driver import RequestProgress, answer_request, refused, say

_REGISTRY = "bfcl_eval.constants.model_config"
_MODEL = "scion-FC"
_CALL_MARKS = ("<tool_call>", "<function=")


@dataclass(frozen=True)
class ModelEntry:
    """What the checker reads of a model in the registry."""

    underscore_to_dot: bool = True  # Names of functions have no dots in OpenAI's interface.


def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Choose the cases, ask them and judge the answers.

    Returns:
        `harness`, and for each category `name`, `passed`, `accuracy` as the package computes it,
        `answers` in the data's order, and `left_out`.

    Raises:
        ScionError: Cases do not fit, a request failed, or tool calls are not parsed.
    """
    _register()
    handler = _handler(request)
    chosen = {name: _choose(name, handler, request) for name in request["categories"]}
    named_cases = [(name, case) for name, (cases, _) in chosen.items() for case in cases]
    say(f"{len(named_cases)} cases of {len(chosen)} categories")
    answers = _ask(handler, named_cases, request)
    _require_calls(answers, request["server"])
    return {
        "harness": {"name": "bfcl-eval", "version": metadata.version("bfcl-eval")},
        "categories": [
            {**_judge(name, handler, answers[name]), "left_out": left_out}
            for name, (_, left_out) in chosen.items()
        ],
    }


def _register() -> None:
    """Put a registry with this one model in place of the package's."""
    os.makedirs(os.environ["BFCL_PROJECT_ROOT"], exist_ok=True)
    registry = types.ModuleType(_REGISTRY)
    registry.__dict__["MODEL_CONFIG_MAPPING"] = {_MODEL: ModelEntry()}
    sys.modules[_REGISTRY] = registry


def _handler(request: dict[str, Any]) -> Any:
    """The package's handler of OpenAI's interface, with a client of this server."""
    module: Any = importlib.import_module("bfcl_eval.model_handler.api_inference.openai_completion")
    openai: Any = importlib.import_module("openai")
    base: Any = module.OpenAICompletionsHandler
    url = f"{request['server']}/v1"

    class Handler(base):
        def _build_client_kwargs(self) -> dict[str, Any]:
            return {
                "base_url": url,
                "api_key": "none",
                "max_retries": 0,
                "timeout": request["timeout_seconds"],
                "http_client": openai.DefaultHttpxClient(trust_env=False),
            }

        def generate_with_backoff(self, **query: Any) -> tuple[Any, float]:
            thinking = {"enable_thinking": request["enable_thinking"]}
            begin = time.monotonic()
            response = self.client.chat.completions.create(
                **query,
                max_tokens=request["max_tokens"],
                extra_body={"chat_template_kwargs": thinking},
            )
            return response, time.monotonic() - begin

        def _parse_query_response_FC(self, api_response: Any) -> dict[str, Any]:
            parsed = super()._parse_query_response_FC(api_response)
            choice = api_response.choices[0].model_dump(mode="json", exclude_none=True)
            # Kept with the answer: `inference` passes reasoning content on, and nothing else.
            return parsed | {"reasoning_content": choice}

    return Handler(
        model_name=request["model"], temperature=0, registry_name=_MODEL, is_fc_model=True
    )


def _choose(
    category: str, handler: Any, request: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The first `limit` cases that fit the context, and those before them that do not."""
    utils: Any = importlib.import_module("bfcl_eval.utils")
    room = request["context"] - request["max_tokens"]
    cases: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    for case in utils.load_dataset_entry(category):
        if len(cases) == request["limit"]:
            break
        tokens = _tokens(case, handler, request)
        if tokens <= room:
            cases.append(case)
        elif request["skip"]:
            left_out.append({"id": case["id"], "tokens": tokens})
        else:
            raise ScionError(
                "a BFCL case does not fit the server's context",
                where=case["id"],
                expected=f"at most {room} tokens, which leave {request['max_tokens']} "
                f"(bfcl.max_tokens) of {request['context']} for the answer",
                found=f"{tokens} tokens",
                hint="serve with a launch of a longer context, lower bfcl.max_tokens, or set "
                "bfcl.skip_longer_than_context",
            )
    if len(cases) < (request["limit"] or 1):
        raise ScionError(
            "too few BFCL cases fit the server's context",
            where=category,
            expected=f"{request['limit'] or 'at least 1'} cases of at most {room} tokens",
            found=f"{len(cases)} that fit, {len(left_out)} that do not",
            hint="lower bfcl.limit or bfcl.max_tokens, or serve with a launch of a longer context",
        )
    return cases, left_out


def _tokens(case: dict[str, Any], handler: Any, request: dict[str, Any]) -> int:
    """How many tokens the server makes of a case and its tools."""
    body = {
        "model": request["model"],
        "messages": case["question"][0],
        "tools": handler._compile_tools({}, case)["tools"],
        "add_generation_prompt": True,
        "chat_template_kwargs": {"enable_thinking": request["enable_thinking"]},
    }
    url = f"{request['server']}/tokenize"
    headers = {"content-type": "application/json"}
    query = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(query, timeout=request["timeout_seconds"]) as response:
            return json.load(response)["count"]
    except (OSError, ValueError, LookupError) as error:
        raise refused(url, case["id"], error) from error


def _ask(
    handler: Any, named_cases: Sequence[tuple[str, dict[str, Any]]], request: dict[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """All answers by category; the first failure ends the asking."""
    progress = RequestProgress(len(named_cases), "cases")

    def ask(case: dict[str, Any]) -> dict[str, Any]:
        answer = _answer(handler, case, request)
        progress.step()
        return answer

    with ThreadPoolExecutor(request["parallel"]) as pool:
        futures = [pool.submit(ask, case) for _, case in named_cases]
        wait(futures, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
        failed = (future for future in futures if not future.cancelled() and future.exception())
        for future in failed:
            future.result()
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in request["categories"]}
    for (name, _), future in zip(named_cases, futures, strict=True):
        answers[name].append(future.result())
    return answers


def _answer(handler: Any, case: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    openai: Any = importlib.import_module("openai")
    try:
        result, about = handler.inference(case, include_input_log=False, exclude_state_log=True)
    except openai.BadRequestError as error:
        if "enable-auto-tool-choice" in str(error):
            raise _no_parser(request["server"], error) from error
        raise refused(f"{request['server']}/v1/chat/completions", case["id"], error) from error
    except (openai.OpenAIError, LookupError, TypeError, AttributeError) as error:
        # The latter three where the answer is no chat completion.
        fault = f"{type(error).__name__}: {error}"
        raise refused(f"{request['server']}/v1/chat/completions", case["id"], fault) from error
    choice = about.pop("reasoning_content")
    return {"id": case["id"], "result": result, **about, "choice": choice}


def _require_calls(answers: dict[str, list[dict[str, Any]]], server: str) -> None:
    """Refuse answers of which not one has tool calls, and some finished one holds them as text."""
    choices = [answer["choice"] for named in answers.values() for answer in named]
    if any(choice["message"].get("tool_calls") for choice in choices):
        return
    for choice in choices:
        text = choice["message"].get("content") or ""
        if choice["finish_reason"] == "stop" and any(mark in text for mark in _CALL_MARKS):
            raise _no_parser(server, text[:300])


def _no_parser(server: str, evidence: object) -> ScionError:
    return ScionError(
        "the server does not parse tool calls",
        where=server,
        expected="tool calls in the answers' `tool_calls`",
        found=evidence,
        hint="start it with --enable-auto-tool-choice --tool-call-parser qwen3_xml",
    )


def _judge(category: str, handler: Any, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The package's own verdicts on the answers of one category."""
    runner: Any = importlib.import_module("bfcl_eval.eval_checker.eval_runner")
    scores = Path.cwd() / "scores"
    table: dict[str, Any] = {}
    # A copy: the package writes into what it judges.
    judged = json.loads(json.dumps(answers))
    runner.evaluate_task(category, None, scores, judged, _MODEL, handler, table, allow_missing=True)
    (file,) = scores.rglob(f"*_{category}_score.json")
    header, *failures = _lines(file)
    failed = {failure["id"]: failure for failure in failures}
    return {
        "name": category,
        "passed": header["correct_count"],
        "accuracy": header["accuracy"],
        "answers": [
            {
                **answer,
                "passed": answer["id"] not in failed,
                "error": _error(failed.get(answer["id"])),
            }
            for answer in answers
        ],
    }


def _error(failure: dict[str, Any] | None) -> dict[str, Any] | None:
    return failure and {"type": failure.get("error_type"), "messages": failure.get("error")}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    # Not `splitlines`: a model's answer may hold U+2028, which JSON need not escape.
    return (json.loads(line) for line in file.read_bytes().split(b"\n") if line.strip())


if __name__ == "__main__":
    answer_request(evaluate)
