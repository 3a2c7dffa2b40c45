"""IFEval by lm-evaluation-harness: its task `ifeval`, its chat client, its scorer.

The request holds `dataset` (JSONL in IFEval's form), its `name` for messages and, to ask as well,
`url`, `model`, `parallel`, `max_tokens`, `enable_thinking` and `timeout_seconds`. Without `url` the
prompts are only checked: one counts as good if the harness can score an answer to it.

Changed for a server of one's own, in the harness's client alone: a failed request is not repeated
and ends the run, an answer that is none does too, and a literal thinking part is cut off.
"""

import importlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.evaluation.harness.driver import RequestProgress, answer_request, refused

METRICS = (
    "prompt_level_strict_acc",
    "prompt_level_loose_acc",
    "inst_level_strict_acc",
    "inst_level_loose_acc",
)
_PUNKT = "tokenizers/punkt_tab/english"
_NOTHING = "Nothing. Nothing at all."


def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Check the prompts; ask and score them where the request names a server.

    Returns:
        `harness`, `task_version`, `scores` as the harness computes them, `samples` in the data's
        order, `cut` and `empty` answers; for a mere check the number of `prompts`.

    Raises:
        ScionError: A prompt can't be scored, or a request failed.
    """
    _provide_punkt(Path(os.environ["NLTK_DATA"]))
    manager = _manager()
    task = _load_task(manager, request["dataset"], Path.cwd())
    rows = list(task.eval_docs)
    _check(rows, request["name"])
    if "url" not in request:
        return {"prompts": len(rows)}
    return _ask(manager, task, request, len(rows))


def without_thinking(text: str) -> str:
    """The answer without its thinking, for servers that do not split it off.

    The template may have opened the thinking already; one that never ends has no answer.
    """
    rest = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    rest = rest.rsplit("</think>", 1)[-1].split("<think>", 1)[0]
    return text if rest == text else rest.lstrip()


def _provide_punkt(folder: Path) -> None:
    """Put NLTK's model of English sentences where NLTK looks for it, instead of a download.

    A copy, since NLTK refuses files with several hard links, as uv installs them.
    """
    carrier = metadata.distribution("llama-index-core")
    source = Path(str(carrier.locate_file(f"llama_index/core/_static/nltk_cache/{_PUNKT}")))
    shutil.copytree(source, folder / _PUNKT)


def _manager() -> Any:
    tasks: Any = importlib.import_module("lm_eval.tasks")
    # Without an index of its thousands of tasks, which takes half a minute.
    return tasks.TaskManager(include_defaults=False)


def _load_task(manager: Any, dataset: str, folder: Path) -> Any:
    """The harness's task, its prompts taken from a file."""
    tasks: Any = importlib.import_module("lm_eval.tasks.ifeval")
    # It guesses by chance; the same each time with a seed.
    importlib.import_module("langdetect").DetectorFactory.seed = 0
    own = {
        "include": str(Path(next(iter(tasks.__path__))) / "ifeval.yaml"),
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"train": dataset}},
    }
    # JSON is YAML too.
    changed = folder / "ifeval.yaml"
    changed.write_text(json.dumps(own))
    return manager.load(str(changed))["tasks"]["ifeval"]


def _check(rows: Iterable[dict[str, Any]], dataset: str) -> None:
    registry: Any = importlib.import_module("lm_eval.tasks.ifeval.instructions_registry")
    utils: Any = importlib.import_module("lm_eval.tasks.ifeval.utils")
    known = registry.INSTRUCTION_DICT
    for row in rows:
        where = f"{dataset}: key {row['key']}"
        unknown = [name for name in row["instruction_id_list"] if name not in known]
        if unknown:
            expected = f"one of {', '.join(sorted(known))}"
            raise _unusable(where, expected, f"the instruction {unknown[0]}")
        try:
            utils.process_results(row, [_NOTHING])
        except (TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
            expected = f"kwargs that fit {', '.join(row['instruction_id_list'])}"
            raise _unusable(where, expected, f"{type(error).__name__}: {error}") from error


def _unusable(where: str, expected: str, fault: str) -> ScionError:
    return ScionError(
        "an IFEval prompt can't be scored",
        where=where,
        expected=expected,
        found=fault,
        hint="correct the line, or name another file as ifeval.dataset",
    )


def _ask(manager: Any, task: Any, request: dict[str, Any], total: int) -> dict[str, Any]:
    lm_eval: Any = importlib.import_module("lm_eval")
    complaints = _Complaints()
    logging.getLogger("lm_eval").addHandler(complaints)
    model = _chat_model(request, RequestProgress(total, "prompts"))
    generation = {
        "max_gen_toks": request["max_tokens"],
        "chat_template_kwargs": {"enable_thinking": request["enable_thinking"]},
    }
    try:
        evaluation = lm_eval.simple_evaluate(
            model=model,
            tasks=[task],
            task_manager=manager,
            apply_chat_template=True,
            gen_kwargs=generation,
            bootstrap_iters=0,
        )
    except _connection_errors() as error:
        raise refused(request["url"], "IFEval", complaints.last or repr(error)) from error
    scores, samples = evaluation["results"]["ifeval"], evaluation["samples"]["ifeval"]
    return {
        "harness": {"name": "lm-eval", "version": metadata.version("lm-eval")},
        "task_version": evaluation["versions"]["ifeval"],
        "scores": {name: scores[f"{name},none"] for name in METRICS},
        "samples": [
            _sample(sample) for sample in sorted(samples, key=lambda sample: sample["doc_id"])
        ],
        "cut": model.cut,
    }


def _sample(sample: dict[str, Any]) -> dict[str, Any]:
    kept = ("key", "prompt", "instruction_id_list")
    (answer,) = sample["filtered_resps"]
    return {
        **{name: sample["doc"][name] for name in kept},
        # As plain text: the harness hands on the `_Answer` that the client gave it.
        "answer": str(answer),
        "cut": answer.cut,
        "tokens": answer.tokens,
        "thinking_tokens": answer.thinking_tokens,
        **{name: sample[name] for name in METRICS},
    }


class _Answer(str):
    """An answer as the harness takes it, with what the server says of it.

    Attributes:
        cut: Whether it ended at its limit.
        tokens: Of thinking and answer; None where the server does not say.
        thinking_tokens: Of these, the thinking's; None likewise.
    """

    cut: bool
    tokens: int | None
    thinking_tokens: int | None

    @classmethod
    def of(cls, text: str, reason: str, usage: dict[str, Any]) -> "_Answer":
        answer = cls(text)
        answer.cut = reason == "length"
        answer.tokens = usage.get("completion_tokens")
        details = usage.get("completion_tokens_details") or {}
        answer.thinking_tokens = details.get("reasoning_tokens")
        return answer


class _Complaints(logging.Handler):
    """Keeps the harness's first complaint, which holds the server's own words."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and "API request failed" in record.getMessage():
            self.last = self.last or record.getMessage()[:1000]


def _connection_errors() -> tuple[type[Exception], ...]:
    aiohttp: Any = importlib.import_module("aiohttp")
    requests: Any = importlib.import_module("requests")
    return (aiohttp.ClientError, requests.RequestException, TimeoutError)


def _chat_model(request: dict[str, Any], progress: RequestProgress) -> Any:
    """The harness's client of /v1/chat/completions, strict about what an answer is."""
    base: Any = importlib.import_module("lm_eval.models.openai_completions").LocalChatCompletion

    class Chat(base):
        cut = 0

        def parse_generations(self, outputs: dict[str, Any], **_: Any) -> list[str]:
            try:
                (choice,) = outputs["choices"]
                message, reason = choice["message"], choice["finish_reason"]
                # Null where the tokens did not suffice for more than thinking.
                content = message["content"] or ""
            except (LookupError, TypeError, ValueError) as error:
                raise refused(request["url"], "IFEval", f"no answer: {outputs!r:.500}") from error
            self.cut += reason == "length"
            progress.step()
            # Where the server splits the thinking off, the empty lines after it stay.
            thought = message.get("reasoning") or message.get("reasoning_content")
            text = content.lstrip() if thought else without_thinking(content)
            return [_Answer.of(text, reason, outputs.get("usage") or {})]

    return Chat(
        base_url=request["url"],
        model=request["model"],
        tokenizer_backend=None,
        num_concurrent=request["parallel"],
        max_retries=1,
        timeout=request["timeout_seconds"],
    )


if __name__ == "__main__":
    answer_request(evaluate)
