"""The agent capability test as data: tasks, what they expect, and the verdict on an answer."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from scion.config import Section
from scion.errors import ScionError

_Presence = Literal["required", "absent", "any"]
_TABLE = re.compile(r"^ *\|.*\| *\n *\|(?: *:?-+:? *\|)+ *$", re.MULTILINE)


class ToolCall(Section):
    """A call that the answer must make."""

    name: str
    arguments: dict[str, Any]


class Expectation(Section):
    """What counts as passed; what is left out is not judged."""

    finish_reason: str
    reasoning: _Presence = "any"
    content: _Presence = "any"
    content_contains: tuple[str, ...] = ()
    content_is_table: bool = False
    tool_calls: tuple[ToolCall, ...] | None = None


class Task(Section):
    """One request to the model and its expectation; `tools` are names in the file's tools."""

    name: str
    title: str
    enable_thinking: bool
    max_tokens: int = Field(gt=0)
    messages: list[dict[str, Any]]
    tools: tuple[str, ...] = ()
    expect: Expectation


class TaskFile(Section):
    """A file of tasks: the tools by name, as the API takes them, and the tasks."""

    tools: dict[str, dict[str, Any]]
    tasks: tuple[Task, ...] = Field(min_length=1)

    def tools_of(self, task: Task) -> list[dict[str, Any]]:
        """The tools that a task offers, in its order."""
        return [self.tools[name] for name in task.tools]


def read_tasks(path: Path) -> TaskFile:
    """Read and check a file of tasks.

    Raises:
        ScionError: It can't be read, is not of the form above, or a task names an unknown tool.
    """
    try:
        tasks = TaskFile.model_validate(yaml.safe_load(path.read_text()))
        for task in tasks.tasks:
            tasks.tools_of(task)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, KeyError) as error:
        found = f"unknown tool {error}" if isinstance(error, KeyError) else error
        raise ScionError(
            "the agent tasks can't be used",
            where=path,
            expected="`tools` by name and a list of `tasks`, as the file's first lines explain",
            found=found,
            hint="compare it with workflow/scion/agent_tasks.yaml",
        ) from error
    return tasks


def judge(task: Task, response: Mapping[str, Any]) -> tuple[bool, str]:
    """Decide whether an answer passes a task.

    Args:
        task: The task.
        response: The chat completion as JSON; only its first choice counts.

    Returns:
        Whether it passes, and why: what the answer did, or all that it should have done otherwise.
    """
    choice = response["choices"][0]
    message, expect = choice["message"], task.expect
    # vLLM's name for the split-off part was `reasoning_content` up to 0.10.
    reasoning = message.get("reasoning") or message.get("reasoning_content") or ""
    content = message.get("content") or ""
    calls = message.get("tool_calls") or []
    faults = [
        *_compare("finish_reason", expect.finish_reason, choice["finish_reason"]),
        *_presence("reasoning", expect.reasoning, reasoning),
        *_presence("content", expect.content, content),
        *(f"content lacks {text!r}" for text in expect.content_contains if text not in content),
    ]
    if expect.content_is_table and not _TABLE.search(content):
        faults.append("content holds no markdown table")
    if expect.tool_calls is not None:
        faults += _judge_calls(expect.tool_calls, calls)
    if faults:
        return False, "; ".join(faults)
    return True, _describe(choice["finish_reason"], reasoning, content, calls)


def _compare(what: str, expected: object, found: object) -> list[str]:
    return [] if found == expected else [f"{what}: expected {expected}, found {found}"]


def _presence(what: str, expected: _Presence, text: str) -> list[str]:
    if expected == "required" and not text.strip():
        return [f"no {what}"]
    if expected == "absent" and text.strip():
        return [f"unexpected {what}: {text.strip()[:80]!r}"]
    return []


def _judge_calls(expected: tuple[ToolCall, ...], calls: list[dict[str, Any]]) -> list[str]:
    """Compare calls with the expected ones in any order; arguments must be one JSON object each."""
    found: list[str] = []
    for call in calls:
        function = call["function"]
        try:
            arguments = json.loads(function["arguments"])
        except ValueError:
            return [f"arguments of {function['name']} are not JSON: {function['arguments'][:80]!r}"]
        found.append(_call_text(function["name"], arguments))
    wanted = [_call_text(call.name, call.arguments) for call in expected]
    return _compare("tool calls", _join(wanted), _join(found))


def _call_text(name: str, arguments: Any) -> str:
    return f"{name}({json.dumps(arguments, sort_keys=True, ensure_ascii=False)})"


def _join(calls: list[str]) -> str:
    return ", ".join(sorted(calls)) or "none"


def _describe(finish_reason: str, reasoning: str, content: str, calls: list[Any]) -> str:
    parts = [f"finish_reason={finish_reason}"]
    if reasoning.strip():
        parts.append("reasoning split off")
    if content.strip():
        parts.append("answer with a table" if _TABLE.search(content) else "answer")
    if calls:
        parts.append(f"{len(calls)} tool call{'s' if len(calls) > 1 else ''}, valid JSON")
    return ", ".join(parts)
