"""The verdicts on answers of the agent capability test, and the file of its tasks."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scion.common.errors import ScionError
from scion.evaluation.agent.judge import judge
from scion.evaluation.agent.tasks import Case, Task, read_tasks

PROJECT = Path(__file__).parents[2]
FILE = PROJECT / "workflow/scion/evaluation/agent/agent_tasks.yaml"


def task(outcome: dict[str, str], **case: Any) -> tuple[Task, Case]:
    """A task of a single case."""
    parsed = Task.model_validate(
        {
            "name": "task",
            "title": "Task",
            "enable_thinking": False,
            "max_tokens": 100,
            "outcome": {"reasoning": "any", "content": "any"} | outcome,
            "cases": [{"name": "case", "user": "?"} | case],
        }
    )
    return parsed, parsed.cases[0]


CALLS = task(
    {"finish_reason": "tool_calls", "reasoning": "absent"},
    tools=["get_weather"],
    tool_calls=[
        {"name": "get_weather", "arguments": {"city": "Paris", "unit": "c"}},
        {"name": "get_weather", "arguments": {"city": "Tokyo"}},
    ],
)
TABLE = task(
    {"finish_reason": "stop", "reasoning": "required", "content": "required"},
    contains=["Tokyo", 18, ["cloudy", "clouds"]],
    is_table=True,
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
    content="| City | Temperature | Sky |\n|---|:---:|---|\n| Tokyo | 18 | Cloudy |",
)


def test_calls_pass_in_any_order():
    passed, reason = judge(*CALLS, GOOD_CALLS)
    assert passed
    assert reason == "finish_reason=tool_calls, 2 tool calls, valid JSON"


def test_a_table_passes():
    passed, reason = judge(*TABLE, GOOD_TABLE)
    assert passed
    assert reason == "finish_reason=stop, reasoning split off, answer with a table"


@pytest.mark.parametrize(
    ("question", "good", "change", "reason"),
    [
        (CALLS, GOOD_CALLS, {"finish_reason": "length"}, "truncated: not at its end after 100"),
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
        (TABLE, GOOD_TABLE, {"content": "Tokyo, 18, fog"}, "content lacks 'cloudy' or 'clouds'"),
        (TABLE, GOOD_TABLE, {"tool_calls": [call("get_weather", "{}")]}, "expected none"),
    ],
)
def test_faults(
    question: tuple[Task, Case], good: dict[str, Any], change: dict[str, Any], reason: str
):
    answer = copy.deepcopy(good)
    choice = answer["choices"][0]
    for key, value in change.items():
        (choice if key == "finish_reason" else choice["message"])[key] = value
    passed, why = judge(*question, answer)
    assert not passed
    assert reason in why


def holds(content: str, **case: Any) -> bool:
    """Whether an answer with this text passes."""
    return judge(*task({"finish_reason": "stop"}, **case), response("stop", content=content))[0]


@pytest.mark.parametrize("content", ["18", "It is 18°C.", "18C", "- 18", "at 18, cloudy", "**18**"])
def test_whole_numbers_are_found(content: str):
    assert holds(content, contains=[18])


@pytest.mark.parametrize("content", ["118", "180", "18.5", "0.18", "18,000", "-18", "eighteen", ""])
def test_parts_of_numbers_are_not(content: str):
    assert not holds(content, contains=[18])


def test_a_word_is_no_part_of_another():
    assert holds("It is SUN all day.", contains=["sun"])
    assert not holds("Come on Sunday.", contains=["sun"])
    assert holds("MV-1781: 37 left.", contains=["MV-1781", 37])
    assert not holds("XMV-17812", contains=["MV-1781"])


@pytest.mark.parametrize(
    "content", ["9, 41 and 66", "Sorted: 9 < 41 < 66.", "from 66, 9: 9, 41, 66"]
)
def test_numbers_in_order(content: str):
    assert holds(content, numbers=[9, 41, 66])


@pytest.mark.parametrize("content", ["9, 66, 41", "9, 41, 50, 66", "41, 66", "2009-41-66 9"])
def test_numbers_out_of_order(content: str):
    assert not holds(content, numbers=[9, 41, 66])


PICK = {"answer": 73, "over": 58, "as": ["larger", "greater"]}


@pytest.mark.parametrize(
    "content",
    [
        "73",
        "73 is larger than 58.",
        "The larger number is **73**.",
        "Of 58 and 73, 73 is larger.",
        "58 is smaller than 73, so the larger one is 73.",
        "The larger of 58 and 73 is 73.",
    ],
)
def test_the_right_number_is_picked(content: str):
    assert holds(content, picks=PICK)


@pytest.mark.parametrize(
    "content",
    [
        "58",
        "58 is larger than 73.",
        "**58** is the greater one, 73 the smaller.",
        "73 is not it: the larger number is 58.",
        "The larger is: 58, not 73.",
    ],
)
def test_the_wrong_number_is_picked(content: str):
    assert not holds(content, picks=PICK)


def test_the_older_name_of_reasoning_counts():
    answer = copy.deepcopy(GOOD_TABLE)
    message = answer["choices"][0]["message"]
    message["reasoning_content"] = message.pop("reasoning")
    assert judge(*TABLE, answer)[0]


def test_own_tasks_are_five_of_many_cases():
    tasks = read_tasks(FILE)
    assert [task.name for task in tasks.tasks] == [
        "chat_with_reasoning",
        "single_tool_call",
        "continue_after_tool_result",
        "final_synthesis",
        "parallel_tool_calls",
    ]
    for task in tasks.tasks:
        requests = [str(tasks.request(task, case)) for case in task.cases]
        assert len(set(requests)) == len(requests) >= 20


def test_results_so_far_become_messages():
    tasks = read_tasks(FILE)
    request = tasks.canonical_request("final_synthesis")
    assert [message["role"] for message in request["messages"]] == [
        *("system", "user", "assistant", "tool", "assistant", "tool")
    ]
    first, result, second = request["messages"][2:5]
    function = {"name": "get_weather", "arguments": '{"city": "Tokyo"}'}
    assert first["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
    assert result["tool_call_id"] == "call_1"
    assert result["content"] == '{"city": "Tokyo", "temperature_c": 18, "condition": "cloudy"}'
    assert second["tool_calls"][0]["id"] == "call_2"
    assert request["tools"][0]["function"]["name"] == "get_weather"


def test_a_case_without_tools_offers_none():
    assert "tools" not in read_tasks(FILE).canonical_request("chat_with_reasoning")


def test_no_value_stands_in_the_training_dialogues():
    """The wall of resources/pico between training and evaluation, asked about every value."""
    tasks = read_tasks(FILE)
    values: set[str] = set()
    for task in tasks.tasks:
        for case in task.cases[1 if task.name == "chat_with_reasoning" else 0 :]:
            numbers = re.findall(r"\d+", case.user)
            if not case.tools and len(numbers) == 2:
                values.add(" ".join(numbers))
            for call in (*case.tool_calls, *(step.call for step in case.done)):
                schema = tasks.tools[call.name]["function"]["parameters"]["properties"]
                values |= {
                    value
                    for key, value in call.arguments.items()
                    if isinstance(value, str) and "enum" not in schema[key]
                }
    assert len(values) > 30
    code = "import sys; from dialogues.writer import is_held_out; "
    code += "print([value for value in sys.argv[1:] if not is_held_out(value)])"
    command = [sys.executable, "-c", code, *sorted(values)]
    done = subprocess.run(command, cwd=PROJECT / "resources/pico", capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tools: {}\nsystem: a\ntasks: []\n", "tasks"),
        ("tools: {}\nsystem: a\ntasks:\n  - {name: a, titel: b}\n", "titel"),
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


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("tools: [get_weather, get_time]", "tools: [get_tide]", "unknown tool 'get_tide' in"),
        ("tools: [get_weather, get_time]", "tools: [get_time]", "calls 'get_weather', which it"),
        ("name: sort_four", "name: sort_three", "two cases 'sort_three' of chat_with_reasoning"),
        ("name: final_synthesis", "name: parallel_tool_calls", "two tasks 'parallel_tool_calls'"),
    ],
)
def test_tasks_that_contradict_themselves(tmp_path: Path, old: str, new: str, found: str):
    path = tmp_path / "tasks.yaml"
    path.write_text(FILE.read_text().replace(old, new, 1))
    with pytest.raises(ScionError) as caught:
        read_tasks(path)
    assert found in caught.value.found
