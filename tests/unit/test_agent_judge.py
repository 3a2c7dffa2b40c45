"""The verdicts on answers of the agent capability test."""

import copy
from pathlib import Path
from typing import Any

import pytest

from scion.agent_judge import Task, judge, read_tasks
from scion.errors import ScionError

CALLS = Task.model_validate(
    {
        "name": "calls",
        "title": "Two calls",
        "enable_thinking": False,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "?"}],
        "tools": ["get_weather"],
        "expect": {
            "finish_reason": "tool_calls",
            "reasoning": "absent",
            "tool_calls": [
                {"name": "get_weather", "arguments": {"city": "Paris", "unit": "c"}},
                {"name": "get_weather", "arguments": {"city": "Tokyo"}},
            ],
        },
    }
)
TABLE = Task.model_validate(
    {
        "name": "table",
        "title": "Table",
        "enable_thinking": True,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "?"}],
        "expect": {
            "finish_reason": "stop",
            "reasoning": "required",
            "content": "required",
            "content_contains": ["Tokyo", "18"],
            "content_is_table": True,
            "tool_calls": [],
        },
    }
)


def response(finish_reason: str, **message: Any) -> dict[str, Any]:
    """A chat completion as vLLM 0.32 answers it, less what no verdict looks at."""
    full = {"role": "assistant", "content": None, "reasoning": None, "tool_calls": []} | message
    return {"choices": [{"index": 0, "finish_reason": finish_reason, "message": full}]}


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


GOOD_CALLS = response(
    "tool_calls",
    tool_calls=[
        call("get_weather", '{"city": "Tokyo"}'),
        call("get_weather", '{"unit": "c", "city": "Paris"}'),
    ],
)
GOOD_TABLE = response(
    "stop",
    reasoning="Both results are there.",
    content="| City | Temperature |\n|---|:---:|\n| Tokyo | 18 |",
)


def test_calls_pass_in_any_order():
    passed, reason = judge(CALLS, GOOD_CALLS)
    assert passed
    assert reason == "finish_reason=tool_calls, 2 tool calls, valid JSON"


def test_table_passes():
    passed, reason = judge(TABLE, GOOD_TABLE)
    assert passed
    assert reason == "finish_reason=stop, reasoning split off, answer with a table"


@pytest.mark.parametrize(
    ("task", "good", "change", "reason"),
    [
        (CALLS, GOOD_CALLS, {"finish_reason": "stop"}, "expected tool_calls, found stop"),
        (CALLS, GOOD_CALLS, {"tool_calls": []}, "found none"),
        (
            CALLS,
            GOOD_CALLS,
            {"tool_calls": [call("get_weather", '{"city": "Tok')]},
            "arguments of get_weather are not JSON",
        ),
        (
            CALLS,
            GOOD_CALLS,
            {"tool_calls": [*GOOD_CALLS["choices"][0]["message"]["tool_calls"]] * 2},
            "tool calls: expected",
        ),
        (CALLS, GOOD_CALLS, {"reasoning": "hm"}, "unexpected reasoning: 'hm'"),
        (TABLE, GOOD_TABLE, {"reasoning": " \n"}, "no reasoning"),
        (TABLE, GOOD_TABLE, {"content": None}, "no content"),
        (TABLE, GOOD_TABLE, {"content": "Tokyo has 18 | degrees"}, "no markdown table"),
        (TABLE, GOOD_TABLE, {"content": "| a |\n|---|\n| 18 |"}, "content lacks 'Tokyo'"),
        (TABLE, GOOD_TABLE, {"tool_calls": [call("get_weather", "{}")]}, "expected none"),
    ],
)
def test_faults(task: Task, good: dict[str, Any], change: dict[str, Any], reason: str):
    answer = copy.deepcopy(good)
    choice = answer["choices"][0]
    for key, value in change.items():
        (choice if key == "finish_reason" else choice["message"])[key] = value
    passed, why = judge(task, answer)
    assert not passed
    assert reason in why


def test_the_older_name_of_reasoning_counts():
    answer = copy.deepcopy(GOOD_TABLE)
    message = answer["choices"][0]["message"]
    message["reasoning_content"] = message.pop("reasoning")
    assert judge(TABLE, answer)[0]


def test_own_tasks_are_the_five():
    tasks = read_tasks(Path("workflow/scion/agent_tasks.yaml"))
    assert len(tasks.tasks) == 5
    assert all(tasks.tools_of(task) for task in tasks.tasks if task.tools)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tools: {}\ntasks: []\n", "tasks"),
        ("tools: {}\ntasks:\n  - {name: a, titel: b}\n", "titel"),
        ("[", "flow"),
    ],
)
def test_unusable_task_files(tmp_path: Path, text: str, found: str):
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    with pytest.raises(ScionError, match="can't be used") as caught:
        read_tasks(path)
    assert found in caught.value.found
    assert caught.value.where == str(path)


def test_a_task_with_an_unknown_tool(tmp_path: Path):
    path = tmp_path / "tasks.yaml"
    text = Path("workflow/scion/agent_tasks.yaml").read_text()
    path.write_text(text.replace("tools: [get_weather, get_time]", "tools: [get_tide]"))
    with pytest.raises(ScionError) as caught:
        read_tasks(path)
    assert caught.value.found == "unknown tool 'get_tide'"
