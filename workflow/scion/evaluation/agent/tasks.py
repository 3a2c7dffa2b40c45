"""The agent tasks as data: tools, tasks, their cases, and the requests that these become.

`agent_tasks.yaml` explains the keys. `scion.evaluation.agent.judge` decides on the answers.
"""

import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from scion.common.errors import ScionError
from scion.common.section import Section

_Presence = Literal["required", "absent", "any"]


class ToolCall(Section):
    """A call that was made, or that the answer must make."""

    name: str
    arguments: dict[str, Any]


class Step(Section):
    """A turn that lies behind: one call and its result."""

    call: ToolCall
    result: dict[str, Any]


class Pick(Section):
    """One of two numbers is the answer to which of them `is` something, such as larger."""

    answer: int
    over: int
    words: tuple[str, ...] = Field(alias="as", min_length=1)


class Outcome(Section):
    """What the answer to each case of a task looks like."""

    finish_reason: Literal["stop", "tool_calls"]
    reasoning: _Presence
    content: _Presence


class Case(Section):
    """One question, how far it has come, and what the answer must hold.

    Attributes:
        contains: Texts and numbers, each a list of alternatives or a single one.
        numbers: Integers that must follow one another in the answer.
    """

    name: str
    user: str
    tools: tuple[str, ...] = ()
    done: tuple[Step, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    contains: tuple[str | int | tuple[str | int, ...], ...] = ()
    numbers: tuple[int, ...] = ()
    picks: Pick | None = None
    is_table: bool = False


class Task(Section):
    """One ability: how the model is asked, and the cases; a card shows the first."""

    name: str
    title: str
    enable_thinking: bool
    max_tokens: int = Field(gt=0)
    outcome: Outcome
    cases: tuple[Case, ...] = Field(min_length=1)


class TaskFile(Section):
    """A file of tasks."""

    tools: dict[str, dict[str, Any]]
    system: str
    tasks: tuple[Task, ...] = Field(min_length=1)

    def request(self, task: Task, case: Case) -> dict[str, Any]:
        """What OpenAI's interface is asked with, but for the model."""
        request: dict[str, Any] = {
            "messages": self.messages(case),
            "temperature": 0,
            "max_tokens": task.max_tokens,
        }
        if case.tools:
            tools = [self.tools[name] for name in case.tools]
            request |= {"tools": tools, "tool_choice": "auto", "parallel_tool_calls": True}
        return request

    def canonical_request(self, name: str) -> dict[str, Any]:
        """The request of a task's first case."""
        task = next(task for task in self.tasks if task.name == name)
        return self.request(task, task.cases[0])

    def messages(self, case: Case) -> list[dict[str, Any]]:
        """The messages of a case so far, as the API takes them."""
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": self.system},
            {"role": "user", "content": case.user},
        ]
        for number, step in enumerate(case.done, 1):
            function = {"name": step.call.name, "arguments": _json(step.call.arguments)}
            call = {"id": f"call_{number}", "type": "function", "function": function}
            messages += [
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": call["id"], "content": _json(step.result)},
            ]
        return messages


def read_tasks(path: Path) -> TaskFile:
    """Read and check a file of tasks.

    Raises:
        ScionError: It can't be read, is not of the form above, two tasks or two cases of one task
            have one name, or a case names an unknown tool.
    """
    try:
        tasks = TaskFile.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise _unusable(path, error) from error
    if twice := _repeated([task.name for task in tasks.tasks]):
        raise _unusable(path, f"two tasks {twice!r}")
    for task in tasks.tasks:
        if twice := _repeated([case.name for case in task.cases]):
            raise _unusable(path, f"two cases {twice!r} of {task.name}")
        for case in task.cases:
            called = [call.name for call in (*case.tool_calls, *(step.call for step in case.done))]
            if unknown := set(case.tools) - set(tasks.tools):
                raise _unusable(path, f"unknown tool {min(unknown)!r} in {task.name}, {case.name}")
            if missing := set(called) - set(case.tools):
                fault = f"{task.name}, {case.name} calls {min(missing)!r}, which it does not offer"
                raise _unusable(path, fault)
    return tasks


def _repeated(names: list[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def _unusable(path: Path, fault: object) -> ScionError:
    return ScionError(
        "the agent tasks can't be used",
        where=path,
        expected="`tools` by name, `system`, and `tasks`, as the file's first lines explain",
        found=fault,
        hint="compare it with workflow/scion/evaluation/agent/agent_tasks.yaml",
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
