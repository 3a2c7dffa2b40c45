import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from conversion import Pico
from scion.common.errors import ScionError
from scion.evaluation.chats import Chat
from scion.evaluation.offline.prompts import prompt_ids
from scion.lint import chat_prompts
from scion.quantization.calibration.samples import Sample, read_rows, summary, tokenize
from scion.quantization.config import Calibration, CalibrationSet

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


def wanted(dataset: object, samples: int = 1, max_tokens: int = 1000) -> CalibrationSet:
    return CalibrationSet(dataset=str(dataset), samples=samples, max_tokens=max_tokens)


def read(path: Path, samples: int) -> list[dict[str, Any]]:
    (rows,) = read_rows(Calibration(sets=(wanted(path, samples),)))
    return rows


def sampled(
    rows: list[dict[str, Any]], tokenizer: Any, *, max_tokens: int = 1000, context: int = 1000
) -> list[Sample]:
    calibration = Calibration(sets=(wanted("rows.jsonl", len(rows), max_tokens),))
    return list(tokenize([rows], tokenizer, calibration, context=context))


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


def test_rows_go_through_the_chat_template_as_they_are(tokenizer: Any) -> None:
    samples = sampled(ROWS, tokenizer)
    assert all(sample.ids.shape == (1, sample.tokens) for sample in samples)
    assert all(sample.ids.dtype == torch.int64 for sample in samples)
    texts = [tokenizer.decode(sample.ids[0]) for sample in samples]
    assert texts[0] == tokenizer.apply_chat_template(
        ROWS[0]["messages"], tools=ROWS[0]["tools"], tokenize=False
    )
    assert '"city"' in texts[0]
    assert "null" not in texts[0] + texts[2]
    assert "weather" not in texts[1].replace(ASK["content"], "")
    assert texts[3] == ROWS[3]["text"]


# Sound on whatever lint renders: they wait for a row of the calibration set.
HOSTILE = {
    "runs forever": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "no end",
    ),
    "fills the memory": (
        "{% set n = namespace(x='a' * 99) %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}{{ n.x }}",
        "MemoryError",
    ),
    "writes too much": ("{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}", "characters"),
    "refuses": ("{{ raise_exception('not this one') }}", "not this one"),
    "is no template": ("{% if %}", "TemplateSyntaxError"),
}


@pytest.mark.parametrize(("body", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_named_and_ends(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    if said == "no end":
        monkeypatch.setattr(chat_prompts, "SECONDS", 1)
    copy_of = copy.deepcopy(tokenizer)
    copy_of.chat_template = f"{{% if 'Rome' in messages[0].content %}}{body}{{% endif %}}prompt"
    harmless = {"messages": [{"role": "user", "content": "Hello"}]}
    if said != "TemplateSyntaxError":
        assert len(sampled([harmless], copy_of)) == 1
    with pytest.raises(ScionError, match="calibration set can't be used") as caught:
        sampled([harmless, ROWS[0]], copy_of)
    assert said in caught.value.found
    with pytest.raises(ScionError, match="can't render a prompt") as caught:
        prompt_ids(copy_of, Chat("x", [ASK], None, {}))
    assert said in caught.value.found


def test_no_template_is_rendered_without_bounds() -> None:
    package = Path(chat_prompts.__file__).parents[1]
    assert [
        path for path in package.rglob("*.py") if ".apply_chat_template(" in path.read_text()
    ] == []


def test_long_conversations_are_rendered_whole(tokenizer: Any) -> None:
    long = [{"role": "user", "content": "a b " * 400_000}]
    (sample,) = sampled([{"messages": long}], tokenizer, max_tokens=3)
    assert sample.full_tokens > 400_000


def test_arguments_that_are_json_text_are_rendered_as_the_object_they_are(tokenizer: Any) -> None:
    def row(arguments: Any) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
        return {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}]}

    text, parsed = sampled([row('{"city": "Rome"}'), row({"city": "Rome"})], tokenizer)
    assert text.ids.tolist() == parsed.ids.tolist()
    assert "<parameter=city>" in tokenizer.decode(text.ids[0])


def test_long_rows_are_cut_and_say_from_how_many_tokens(tokenizer: Any) -> None:
    whole = sampled(ROWS, tokenizer)
    cut = sampled(ROWS, tokenizer, max_tokens=5)
    assert [sample.ids.tolist() for sample in cut] == [
        sample.ids[:, :5].tolist() for sample in whole
    ]
    assert [sample.full_tokens for sample in cut] == [sample.tokens for sample in whole]
    assert all(sample.is_cut and not sample.is_cut_to_context for sample in cut)
    assert not any(sample.is_cut or sample.is_cut_to_context for sample in whole)


def test_rows_longer_than_the_context_are_cut_to_it(tokenizer: Any) -> None:
    assert [sample.tokens for sample in sampled(ROWS, tokenizer, context=7)] == [7] * 4
    cut = sampled(ROWS, tokenizer, max_tokens=8, context=7)
    assert all(sample.is_cut and sample.is_cut_to_context for sample in cut)


def test_a_row_of_just_the_budget_is_not_cut(tokenizer: Any) -> None:
    (whole,) = sampled(ROWS[:1], tokenizer)
    (same,) = sampled(ROWS[:1], tokenizer, max_tokens=whole.tokens, context=whole.tokens)
    assert same.ids.tolist() == whole.ids.tolist()
    assert not same.is_cut


def test_sets_are_read_in_order_each_with_its_own_budget(tmp_path: Path, tokenizer: Any) -> None:
    chats, texts = write(tmp_path / "chats.jsonl", ROWS[:3]), write(tmp_path / "t.jsonl", ROWS[3:])
    calibration = Calibration(sets=(wanted(chats, 3, 9), wanted(texts, 1), wanted(chats, 2)))
    rows = read_rows(calibration)
    assert rows == [ROWS[:3], ROWS[3:], ROWS[:2]]
    samples = list(tokenize(rows, tokenizer, calibration, context=1000))
    assert [sample.place for sample in samples] == [0, 0, 0, 1, 2, 2]
    assert [sample.origin.dataset for sample in samples[2:5]] == [
        str(chats),
        str(texts),
        str(chats),
    ]
    assert [sample.is_cut for sample in samples] == [True] * 3 + [False] * 3


def test_the_summary_counts_by_set_and_in_all(tokenizer: Any) -> None:
    calibration = Calibration(sets=(wanted("a", 2, 9), wanted("b", 1), wanted("a", 1, 30)))
    rows = [ROWS[:2], [{"text": "Hi"}], ROWS[:1]]
    counted = summary(list(tokenize(rows, tokenizer, calibration, context=20)))
    short = len(tokenizer("Hi")["input_ids"])
    assert [entry["dataset"] for entry in counted["sets"]] == ["a", "b", "a"]
    assert [entry["max_tokens"] for entry in counted["sets"]] == [9, 1000, 30]
    assert [entry["samples"] for entry in counted["sets"]] == [2, 1, 1]
    assert [entry["tokens"] for entry in counted["sets"]] == [18, short, 20]
    assert [entry["cut_samples"] for entry in counted["sets"]] == [2, 0, 1]
    assert [entry["cut_to_context"] for entry in counted["sets"]] == [0, 0, 1]
    del counted["sets"]
    assert counted == {
        "samples": 4,
        "tokens": 38 + short,
        "cut_samples": 3,
        "cut_to_context": 1,
    }


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "rows.jsonl", ROWS), samples=5)
    assert (error.expected, error.found) == ("5 rows", "4 rows")


def test_the_set_that_is_too_short_is_named(tmp_path: Path) -> None:
    long, short = write(tmp_path / "a.jsonl", ROWS), write(tmp_path / "b.jsonl", ROWS[:1])
    with pytest.raises(ScionError, match="calibration set can't be used") as caught:
        read_rows(Calibration(sets=(wanted(long, 4), wanted(short, 2))))
    error = caught.value
    assert (error.where, error.expected, error.found) == (str(short), "2 rows", "1 rows")


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
        sampled([ROWS[0], row], tokenizer)
    assert caught.value.where == "rows.jsonl: row 2"
    assert found in caught.value.found
