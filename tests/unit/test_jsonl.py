import json
from pathlib import Path
from typing import Any

import pytest

from scion.common import jsonl
from scion.common.errors import ScionError
from scion.common.jsonl import count_json_lines, read_json_lines
from scion.engines.vllm.counters import read_counters
from scion.evaluation.harness import bfcl_driver


def refusal(where: object, found: str) -> ScionError:
    return ScionError(
        "the rows can't be used", where=where, expected="rows", found=found, hint="write rows"
    )


def read(path: Path, limit: int | None = None, name: str | None = None) -> list[tuple[int, Any]]:
    return read_json_lines(
        path, lambda row, number: (number, row["a"]), refusal=refusal, limit=limit, name=name
    )


def write(folder: Path, content: bytes) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    return path


def test_rows_are_numbered_without_the_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path, b'\n{"a": 1}\r\n  \n{"a": 2}\n{"a": 3}')
    assert read(path) == [(1, 1), (2, 2), (3, 3)]
    assert read(path, limit=9) == [(1, 1), (2, 2), (3, 3)]
    assert read(path, limit=2) == [(1, 1), (2, 2)]
    assert read(path, limit=0) == []
    assert read(write(tmp_path, b"")) == []


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, separator: str) -> None:
    text = f"one{separator}two"
    raw = json.dumps({"a": text}, ensure_ascii=False) + "\n" + json.dumps({"a": text}) + "\n"
    assert read(write(tmp_path, raw.encode())) == [(1, text), (2, text)]


def test_what_follows_the_limit_is_not_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"a": 1}\n\xff\n')
    assert read(path, limit=1) == [(1, 1)]
    with pytest.raises(ScionError, match="can't be used"):
        read(path, limit=2)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"a": ', "JSONDecodeError: "),
        (b'{"a": "\xff"}', "UnicodeDecodeError: "),
        (b"\x1f\x8b\x08\0\0", "can't decode"),
        (b'["a"]', "TypeError: no JSON object, but a list"),
        (b'{"b": 1}', "KeyError: 'a' in {\"b\": 1}"),
        (b"[" * 100_000, "nested too deeply"),
        ("\u2028".encode(), "JSONDecodeError: "),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = write(tmp_path, b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(ScionError, match="the rows can't be used") as caught:
        read(path)
    error = caught.value
    assert (error.where, error.expected, error.hint) == (f"{path}, line 3", "rows", "write rows")
    assert found in error.found
    assert len(error.found) < 400
    with pytest.raises(ScionError) as caught:
        read(path, name="hf://datasets/a/b")
    assert caught.value.where == "hf://datasets/a/b, line 3"


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScionError, match="the rows can't be used") as caught:
        read(tmp_path / "none.jsonl")
    assert caught.value.where == str(tmp_path / "none.jsonl")
    assert "No such file" in caught.value.found
    with pytest.raises(ScionError, match="the rows can't be used"):
        read(tmp_path)


def test_a_line_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, b'{"a": 1}\n{"a": "long"}\n')
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 14)
    assert read(path) == [(1, 1), (2, "long")]
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 12)
    with pytest.raises(ScionError) as caught:
        read(path)
    assert caught.value.where == f"{path}, line 2"
    assert "more than the 12 bytes" in caught.value.found


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_an_answer_may_hold_other_separators(tmp_path: Path, separator: str) -> None:
    row = {"result": f"one{separator}two"}
    raw = json.dumps(row, ensure_ascii=False) + "\n"
    assert list(bfcl_driver._lines(write(tmp_path, raw.encode() * 2))) == [row, row]


@pytest.mark.parametrize("separator", ["\u2028", "\x85"])
def test_a_models_name_does_not_end_a_line_of_counters(separator: str) -> None:
    name = f'vllm:spec_decode_num_drafts_total{{model_name="a{separator}b"}} 7.0\n'
    assert read_counters(name).drafts == 7


def test_rows_are_counted_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"b": "\u2028"}\n{}')
    counts = [count_json_lines(path, limit=limit) for limit in (1, 3, 9)]
    assert counts == [1, 3, 3]
