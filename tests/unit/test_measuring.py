"""Scores, masks, comparisons and chats: what the measuring stages compute without a server."""

import math
import socket
from pathlib import Path

import pytest

from scion.chats import read_chats
from scion.decoding import Answer, compare
from scion.engines.server import check_port, connect
from scion.errors import ScionError
from scion.perplexity import Score, assistant_mask, paired_difference, score, total


def test_score_leaves_out_what_nothing_predicts():
    assert score([None, -1.0, -2.0, -4.0], [True, True, False, True]) == Score(2, 5.0)


def test_summary_of_a_uniform_guess():
    summary = Score(10, 10 * math.log(8)).summary()
    assert summary == {"tokens": 10, "loss": 2.079442, "perplexity": 8.0}


def test_total_weighs_by_tokens():
    assert total([Score(1, 1.0), Score(3, 9.0)]).loss == 2.5


def test_equal_scores_differ_by_nothing():
    scores = [Score(3, 1.0), Score(5, 2.0)]
    assert paired_difference(scores, scores) == {
        "loss": 0.0,
        "standard_error": 0.0,
        "perplexity_ratio": 1.0,
    }


def test_standard_error_is_the_usual_one_for_chats_of_one_length():
    # Gaps of 1, 2 and 3 nats a token: mean 2, deviation 1, so the error is 1 / sqrt(3).
    source = [Score(2, 0.0)] * 3
    release = [Score(2, 2.0), Score(2, 4.0), Score(2, 6.0)]
    difference = paired_difference(source, release)
    assert difference["loss"] == 2.0
    assert difference["standard_error"] == pytest.approx(1 / math.sqrt(3), abs=1e-6)


def test_one_chat_has_no_standard_error():
    assert paired_difference([Score(1, 1.0)], [Score(1, 2.0)])["standard_error"] is None


def test_assistant_mask_covers_every_answer_with_its_end():
    header, end = [1, 7, 8], 2
    tokens = [1, 5, 8, 30, 2, *header, 31, 32, 2, 8, 1, 5, 8, 33, 2, *header, 34]
    mask = assistant_mask(tokens, header, end)
    assert [token for token, counts in zip(tokens, mask, strict=True) if counts] == [31, 32, 2, 34]


def test_compare_counts_and_finds_where_texts_part():
    baseline = [Answer("a", 3, [1, 2, 3]), Answer("b", 3, [1, 2, 3]), Answer("c", 9, [1, 2])]
    other = [Answer("a", 3, [1, 2, 3]), Answer("b", 3, [1, 9, 3]), Answer("c", 9, [1, 2, 3])]
    assert compare(baseline, other) == {
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
    one, two = read_chats(path)
    assert (one.name, one.template, one.tools) == ("one", {"enable_thinking": False}, None)
    assert (two.name, two.template, two.tools) == ("line 2", {}, None)
    assert read_chats(path, limit=1) == [one]


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
