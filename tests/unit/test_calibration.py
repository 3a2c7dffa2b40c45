import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from conversion import Pico
from scion.calibration import read_rows, tokenize
from scion.config_conversion import Calibration
from scion.errors import ScionError

ASK = {"role": "user", "content": "What is the weather in Rome?"}
REPLY = {"role": "assistant", "content": "It is warm and dry."}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


ROWS = [
    {"messages": [ASK, REPLY], "tools": [tool("weather", city={"type": "string"})]},
    {"messages": [ASK, REPLY]},
    {"messages": [ASK], "tools": [tool("add", a={"type": "number"}, b={"enum": [1, "two"]})]},
    {"text": "Plain text\u2028with a line separator."},
]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def read(path: Path, samples: int) -> list[dict[str, Any]]:
    return read_rows(Calibration(dataset=str(path), samples=samples))


def refusal(path: Path, samples: int = 1) -> ScionError:
    with pytest.raises(ScionError, match="calibration set can't be used") as caught:
        read(path, samples)
    return caught.value


@pytest.fixture(scope="module")
def tokenizer(pico: Pico) -> Any:
    return AutoTokenizer.from_pretrained(pico.agent)


def test_rows_of_different_tools_keep_exactly_their_schemas(tmp_path: Path) -> None:
    assert read(write(tmp_path / "rows.jsonl", ROWS), samples=4) == ROWS


def test_only_the_first_samples_are_taken(tmp_path: Path) -> None:
    assert read(write(tmp_path / "rows.jsonl", ROWS), samples=2) == ROWS[:2]


def test_rows_go_through_the_chat_template_as_they_are(tmp_path: Path, tokenizer: Any) -> None:
    calibration = Calibration(dataset="rows.jsonl", samples=4)
    samples = list(tokenize(ROWS, tokenizer, calibration))
    assert all(sample.shape == (1, sample.numel()) for sample in samples)
    texts = [tokenizer.decode(sample[0]) for sample in samples]
    assert texts[0] == tokenizer.apply_chat_template(
        ROWS[0]["messages"], tools=ROWS[0]["tools"], tokenize=False
    )
    assert '"city"' in texts[0]
    assert "null" not in texts[0] + texts[2]
    assert "weather" not in texts[1].replace(ASK["content"], "")
    assert texts[3] == ROWS[3]["text"]


def test_arguments_that_are_json_text_are_rendered_as_the_object_they_are(tokenizer: Any) -> None:
    def row(arguments: Any) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
        return {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}]}

    calibration = Calibration(dataset="x")
    text, parsed = tokenize(
        [row('{"city": "Rome"}'), row({"city": "Rome"})], tokenizer, calibration
    )
    assert text.tolist() == parsed.tolist()
    assert "<parameter=city>" in tokenizer.decode(text[0])


def test_long_rows_are_cut(tokenizer: Any) -> None:
    calibration = Calibration(dataset="x", max_tokens=5)
    assert [sample.numel() for sample in tokenize(ROWS, tokenizer, calibration)] == [5] * 4


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "rows.jsonl", ROWS), samples=5)
    assert (error.expected, error.found) == ("5 rows", "4 rows")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    assert refusal(tmp_path / "rows.jsonl").where == str(tmp_path / "rows.jsonl")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "rows.jsonl").where == str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "content",
    [b'{"text": ', b"[1]\n", b'"text"\n', b"3\n", b'{"text": "\xff\xfe"}\n', b"\x1f\x8b\x08\0\0"],
    ids=["cut off", "a list", "a string", "a number", "not UTF-8", "compressed"],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    refusal(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"chat": []}, "chat"),
        ({"text": ""}, "text"),
        ({"messages": "hello"}, ""),
        ({"messages": [{"content": "no role"}]}, ""),
        ({"messages": [3]}, ""),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]},
            "",
        ),
        ({"text": 3}, ""),
    ],
)
def test_a_row_that_gives_no_tokens_is_named(
    tokenizer: Any, row: dict[str, Any], found: str
) -> None:
    with pytest.raises(ScionError, match="calibration set can't be used") as caught:
        list(tokenize([ROWS[0], row], tokenizer, Calibration(dataset="rows.jsonl")))
    assert caught.value.where == "rows.jsonl: row 2"
    assert found in caught.value.found
