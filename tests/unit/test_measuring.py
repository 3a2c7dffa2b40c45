"""Comparisons and chats: what the measuring stages compute without a server."""

import socket
from pathlib import Path

import pytest

from scion.common.errors import ScionError
from scion.engines.server import check_port, connect
from scion.evaluation.chats import read_chats
from scion.evaluation.decoding import Answer, compare_answers


def test_compare_counts_and_finds_where_texts_part():
    baseline = [Answer("a", 3, [1, 2, 3]), Answer("b", 3, [1, 2, 3]), Answer("c", 9, [1, 2])]
    answers = [Answer("a", 3, [1, 2, 3]), Answer("b", 3, [1, 9, 3]), Answer("c", 9, [1, 2, 3])]
    assert compare_answers(baseline, answers) == {
        "identical": 1,
        "total": 3,
        "differences": [
            {"prompt": "b", "length": 3, "first_difference": 1},
            {"prompt": "c", "length": 9, "first_difference": 2},
        ],
    }


def test_chats(tmp_path: Path):
    path = tmp_path / "chats.jsonl"
    path.write_text(
        '{"name": "one", "messages": [{"role": "user", "content": "?"}], '
        '"enable_thinking": false}\n'
        '\n{"messages": [{"role": "user", "content": "?"}], "tools": [], "extra": 1}\n'
    )
    first, second = read_chats(path)
    assert (first.name, first.template, first.tools) == ("one", {"enable_thinking": False}, None)
    assert (second.name, second.template, second.tools) == ("line 2", {}, None)
    assert read_chats(path, limit=1) == [first]


@pytest.mark.parametrize(
    ("content", "limit", "found"),
    [
        (b"", None, "0 chats"),
        (b"\n\n", None, "0 chats"),
        (b'{"messages": [{"role": "user", "content": "?"}]}', 2, "1 chats"),
        (b"{", None, "JSONDecodeError"),
        (b"[1]", None, "TypeError"),
        (b'{"text": "?"}', None, "KeyError: 'messages'"),
        (b'{"messages": []}', None, "no messages"),
        (b"\xff\xfe", None, "can't decode"),
    ],
)
def test_unusable_chats(tmp_path: Path, content: bytes, limit: int | None, found: str):
    path = tmp_path / "chats.jsonl"
    path.write_bytes(content)
    with pytest.raises(ScionError, match="chats can't be used") as caught:
        read_chats(path, limit=limit)
    assert found in caught.value.found
    assert str(path) in caught.value.where


def test_a_taken_port_is_named_with_its_key():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ScionError, match=f"port {port} is taken") as caught:
            check_port(port)
        assert caught.value.where == "serving.port"
    check_port(port)


def test_a_named_server_that_does_not_answer():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ScionError, match="not ready") as caught:
        connect(f"http://127.0.0.1:{port}/v1")
    assert "serving.server_url" in caught.value.where
