"""The verdict on an answer of the agent capability test.

An answer is judged by what it does, not by its wording: calls by name and exact arguments, prose by
the facts that it must state. A number counts only as a whole one: 118 holds no 18.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from scion.evaluation.agent.tasks import Case, Pick, Task, ToolCall

_TABLE = re.compile(r"^ *\|.*\| *\n *\|(?: *:?-+:? *\|)+ *$", re.MULTILINE)
# Not the parts of 2024-01-05, 3.5 and 21:40.
_INTEGER = re.compile(r"(?<![\w.:-])\d+(?![\w:-]|\.\d)")


def judge(task: Task, case: Case, response: Mapping[str, Any]) -> tuple[bool, str]:
    """Decide whether an answer passes a case.

    Args:
        task: Says what its answers look like.
        case: Says what this one must hold.
        response: The chat completion as JSON; only its first choice counts.

    Returns:
        Whether it passes, and why: what the answer did, or all that it should have done otherwise.
    """
    choice = response["choices"][0]
    message, outcome = choice["message"], task.outcome
    # vLLM's name for the split-off part was `reasoning_content` up to 0.10.
    reasoning = message.get("reasoning") or message.get("reasoning_content") or ""
    content = message.get("content") or ""
    calls = message.get("tool_calls") or []
    faults = [
        *_judge_end(outcome.finish_reason, choice["finish_reason"], task.max_tokens),
        *_presence("reasoning", outcome.reasoning, reasoning),
        *_presence("content", outcome.content, content),
        *_judge_content(case, content),
        *_judge_calls(case.tool_calls, calls),
    ]
    if faults:
        return False, "; ".join(faults)
    return True, _describe(choice["finish_reason"], reasoning, content, calls)


def _judge_end(expected: str, finish_reason: str, limit: int) -> list[str]:
    if finish_reason == "length":
        return [f"truncated: not at its end after {limit} tokens"]
    return _compare("finish_reason", expected, finish_reason)


def _compare(subject: str, expected: object, actual: object) -> list[str]:
    return [] if actual == expected else [f"{subject}: expected {expected}, found {actual}"]


def _presence(part: str, expected: str, text: str) -> list[str]:
    if expected == "required" and not text.strip():
        return [f"no {part}"]
    if expected == "absent" and text.strip():
        return [f"unexpected {part}: {text.strip()[:80]!r}"]
    return []


def _judge_content(case: Case, content: str) -> list[str]:
    faults: list[str] = []
    for entry in case.contains:
        options = entry if isinstance(entry, tuple) else (entry,)
        if not any(_holds(content, option) for option in options):
            faults.append(f"content lacks {' or '.join(repr(str(option)) for option in options)}")
    if case.numbers and not _follow(case.numbers, content):
        faults.append(f"content lacks {', '.join(map(str, case.numbers))} in this order")
    if case.picks is not None:
        faults += _judge_pick(case.picks, content)
    if case.is_table and not _TABLE.search(content):
        faults.append("content holds no markdown table")
    return faults


def _holds(content: str, wanted: str | int) -> bool:
    """Whether a text holds a word or a number by itself, in capitals or not."""
    text = re.escape(str(wanted))
    if str(wanted).replace(",", "").isdecimal():
        # A letter may follow, as in 18C; a digit, decimal or thousand may not, nor a minus precede.
        before, after = r"(?<!\d)(?<!\d[.,])(?<!(?<!\w)[-\u2212])", r"(?![.,]?\d)"
    else:
        before = r"(?<!\w)" if str(wanted)[:1].isalnum() else ""
        after = r"(?!\w)" if str(wanted)[-1:].isalnum() else ""
    return re.search(before + text + after, content, re.IGNORECASE) is not None


def _follow(numbers: Sequence[int], content: str) -> bool:
    integers = [int(text) for text in _INTEGER.findall(content)]
    length = len(numbers)
    return any(tuple(integers[at : at + length]) == tuple(numbers) for at in range(len(integers)))


def _judge_pick(pick: Pick, content: str) -> list[str]:
    """The right number must be named, and the other one must not be called what it is not."""
    faults = [] if _holds(content, pick.answer) else [f"content lacks {str(pick.answer)!r}"]
    words, plain = "|".join(map(re.escape, pick.words)), content.replace("*", "")
    # `58 is the larger`, and `the larger number is 58` with no other number between.
    says = rf"\b{pick.over}\s+is\s+(?:the\s+)?(?:{words})\b"
    names = rf"\b(?:{words})\b[^\d.]*\bis:?\s+{pick.over}\b"
    if re.search(f"{says}|{names}", plain, re.IGNORECASE):
        faults.append(f"content says that {pick.over} is {pick.words[0]}")
    return faults


def _judge_calls(expected: Sequence[ToolCall], calls: Sequence[dict[str, Any]]) -> list[str]:
    """Compare calls with the expected ones in any order; arguments must be one JSON object each."""
    actual: list[str] = []
    for call in calls:
        function = call["function"]
        try:
            arguments = json.loads(function["arguments"])
        except ValueError:
            return [f"arguments of {function['name']} are not JSON: {function['arguments'][:80]!r}"]
        actual.append(_call_text(function["name"], arguments))
    wanted = [_call_text(call.name, call.arguments) for call in expected]
    return _compare("tool calls", _join(wanted), _join(actual))


def _call_text(name: str, arguments: Any) -> str:
    return f"{name}({json.dumps(arguments, sort_keys=True, ensure_ascii=False)})"


def _join(calls: list[str]) -> str:
    return ", ".join(sorted(calls)) or "none"


def _describe(
    finish_reason: str, reasoning: str, content: str, calls: Sequence[dict[str, Any]]
) -> str:
    parts = [f"finish_reason={finish_reason}"]
    if reasoning.strip():
        parts.append("reasoning split off")
    if content.strip():
        parts.append("answer with a table" if _TABLE.search(content) else "answer")
    if calls:
        parts.append(f"{len(calls)} tool call{'s' if len(calls) > 1 else ''}, valid JSON")
    return ", ".join(parts)
