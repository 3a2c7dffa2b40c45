import math

import pytest

from scion.common import bounded_json
from scion.common.bounded_json import parse_json


def test_python_s_own_additions_are_read_unless_refused() -> None:
    raw = b'{"a": [0.0, Infinity], "a": [NaN, -Infinity, 1e400]}'
    assert parse_json(raw)["a"][1:] == [-math.inf, math.inf]
    with pytest.raises(ValueError, match="no JSON number"):
        parse_json(raw, strict=True)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b'{"a":1,"a":1}', "stands twice"),
        (b"[-Infinity]", "-Infinity is no JSON number"),
        (b"[1e400]", "beyond all bounds"),
    ],
)
def test_what_only_strict_parsing_refuses(raw: bytes, problem: str) -> None:
    parse_json(raw)
    with pytest.raises(ValueError, match=problem):
        parse_json(raw, strict=True)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000, b'"\x01"'])
@pytest.mark.parametrize("strict", [False, True])
def test_what_is_no_json_is_a_value_error(raw: bytes, strict: bool) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (each parser's words are its own)
        parse_json(raw, strict=strict)
    assert str(caught.value)


def test_values_are_counted_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    # Eight, and one more for the empty list, which might have held one.
    monkeypatch.setattr(bounded_json, "MAX_VALUES", 9)
    assert parse_json(b'[1,[],{"a":2},"x",[3]]') == [1, [], {"a": 2}, "x", [3]]
    monkeypatch.setattr(bounded_json, "MAX_VALUES", 8)
    with pytest.raises(ValueError, match="more than the 8 that are read"):
        parse_json(b'[1,[],{"a":2},"x",[3]]')


@pytest.mark.parametrize(
    ("raw", "most"), [(b'"aaaa"', 6), ('"aaä"'.encode(), 24), (b'"\\u00e4"', 32)]
)
def test_a_text_is_bounded_by_what_its_characters_may_take(
    raw: bytes, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_json, "MAX_TEXT_BYTES", most)
    parse_json(raw)
    monkeypatch.setattr(bounded_json, "MAX_TEXT_BYTES", most - 1)
    with pytest.raises(ValueError, match="bytes, more than"):
        parse_json(raw)
