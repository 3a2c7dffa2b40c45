"""Divergence, agreement, intervals and held-out documents, computed without an engine."""

import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scion.artifacts.artifact import Artifact
from scion.common.errors import ScionError
from scion.common.progress import progress
from scion.engines.server import Server
from scion.evaluation.quality.documents import (
    Document,
    Text,
    check_vocabulary,
    dataset_record,
    read_texts,
    request_predictions,
    scoring_work,
)
from scion.evaluation.quality.record import model_record, score_line
from scion.evaluation.quality.served import refusal_of
from scion.evaluation.quality.top_k_scores import (
    Predictions,
    assistant_mask,
    compare_predictions,
    predictions_record,
    read_predictions,
)

VOCABULARY = 50
PLACES = 40
Rows = list[dict[str, dict[str, float]] | None]


def distributions(seed: int, spread: float = 2.0) -> NDArray[np.float64]:
    """Log-probabilities of a random distribution at each place, [places, vocabulary]."""
    logits = np.random.default_rng(seed).normal(0, spread, (PLACES, VOCABULARY))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def near(logprobs: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Another distribution, not far from the first."""
    logits = logprobs + np.random.default_rng(seed).normal(0, 0.3, logprobs.shape)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


TOKENS = [0, *np.random.default_rng(9).integers(0, VOCABULARY, PLACES).tolist()]


def answer(logprobs: NDArray[np.float64], top: int) -> Rows:
    """What vLLM answers: the most likely tokens at each place, and the one that stands there."""
    rows: Rows = [None]
    for values, token in zip(logprobs, TOKENS[1:], strict=True):
        named = {*np.argsort(-values)[:top].tolist(), token}
        rows.append({str(candidate): {"logprob": float(values[candidate])} for candidate in named})
    return rows


def predictions(logprobs: NDArray[np.float64], top: int) -> Predictions:
    return read_predictions(answer(logprobs, top), TOKENS, top=top)


def test_divergence_is_a_bound_that_grows_with_the_list_and_ends_at_the_exact_value():
    ours = distributions(1)
    theirs = near(ours, 2)
    exact = (np.exp(ours) * (ours - theirs)).sum(1)
    before, covered = np.zeros(PLACES), 0.0
    for top in (1, 2, 4, 8, 16, 32, VOCABULARY):
        divergence = compare_predictions(predictions(ours, top), predictions(theirs, top))
        assert (divergence.kl <= exact + 1e-5).all()
        assert (divergence.kl >= before - 1e-5).all(), "a finer partition tells more"
        assert divergence.covered.mean() > covered
        before, covered = divergence.kl, divergence.covered.mean()
    np.testing.assert_allclose(before, exact, atol=1e-9)
    assert covered == pytest.approx(1)


def test_partition_of_one_place_by_hand():
    # Both name tokens 0 and 1; 2 is named by the first model alone, so it goes to the rest.
    ours = read_predictions([None, logprobs({0: 0.5, 1: 0.3, 2: 0.1})], [7, 1], top=3)
    theirs = read_predictions([None, logprobs({0: 0.4, 1: 0.5, 3: 0.05})], [7, 1], top=3)
    divergence = compare_predictions(ours, theirs)
    expected = 0.5 * math.log(0.5 / 0.4) + 0.3 * math.log(0.3 / 0.5) + 0.2 * math.log(0.2 / 0.1)
    assert divergence.kl[0] == pytest.approx(expected)
    assert divergence.covered[0] == pytest.approx(0.8)
    assert not divergence.agrees[0], "the first holds 0 for the most likely, the second 1"


def logprobs(shares: dict[int, float]) -> dict[str, dict[str, float]]:
    return {str(token): {"logprob": math.log(share)} for token, share in shares.items()}


@pytest.mark.parametrize("top", [1, 8, VOCABULARY])
def test_equal_models_do_not_part(top: int):
    model = predictions(distributions(3), top)
    divergence = compare_predictions(model, model)
    assert (divergence.kl == 0).all()
    assert divergence.agrees.all()


def test_models_that_name_no_token_in_common():
    """All that is known of them is that they differ: the bound stays finite."""
    ours = read_predictions([None, logprobs({0: 0.999999, 1: 1e-6})], [7, 1], top=1)
    theirs = read_predictions([None, logprobs({2: 0.999999, 1: 1e-6})], [7, 1], top=1)
    divergence = compare_predictions(ours, theirs)
    assert divergence.kl[0] == pytest.approx(0, abs=1e-6)
    assert divergence.covered[0] == pytest.approx(1e-6)


def test_most_likely_of_equals_is_the_smallest_number():
    rows: Rows = [None, logprobs({5: 0.4, 3: 0.4, 4: 0.2})]
    assert read_predictions(rows, [0, 4], top=3).likely.tolist() == [3]


GOOD = logprobs({1: 0.5, 2: 0.3})
BROKEN: dict[str, tuple[list[Any], str]] = {
    "fewer places than tokens": ([None, GOOD], "2 places for 3 tokens"),
    "an empty place": ([None, GOOD, None], "place 2, token 2: nothing"),
    "a short list": ([None, GOOD, logprobs({2: 0.5})], "place 2, token 2: 1 entries"),
    "without the token itself": ([None, GOOD, logprobs({1: 0.5, 3: 0.2})], "place 2, token 2"),
    "not a number": ([None, GOOD, {**GOOD, "2": {"logprob": math.nan}}], "place 2: nan"),
    "no number": ([None, GOOD, {**GOOD, "2": {"logprob": None}}], "place 2: nan"),
    "infinite": ([None, GOOD, {**GOOD, "1": {"logprob": -math.inf}}], "place 2: -inf"),
    "a probability above 1": ([None, GOOD, {**GOOD, "1": {"logprob": 0.5}}], "to 0.5"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_answers_in_part_are_refused(name: str):
    rows, problem = BROKEN[name]
    with pytest.raises(ValueError, match=problem):
        read_predictions(rows, [0, 1, 2], top=2)


@pytest.fixture
def answering() -> Iterator[Callable[[Any], Server]]:
    """A server that answers every request with one value, as no engine in order would."""
    servers: list[ThreadingHTTPServer] = []

    def start(value: Any) -> Server:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(value).encode())

            def log_message(self, format: str, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return Server(f"http://127.0.0.1:{server.server_port}", "release")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server: Server, documents: list[Document]) -> list[Predictions]:
    with progress("scoring", scoring_work(1, len(documents))) as told:
        return request_predictions(server, documents, top=2, told=told)


def document(tokens: list[int], *, name: str = "one") -> Document:
    return Document(Text(name, "…"), tokens, tokens, [False] * len(tokens))


@pytest.mark.parametrize(
    "value",
    [
        *({"choices": [{"prompt_logprobs": rows}]} for rows, _ in BROKEN.values()),
        {"choices": [{"prompt_logprobs": None}]},
        {"choices": []},
        {"error": "no"},
    ],
)
def test_an_answer_in_part_names_model_and_document(value: Any, answering: Callable[[Any], Server]):
    with pytest.raises(ScionError, match="scored in part") as caught:
        ask(answering(value), [document([0, 1, 2])])
    assert caught.value.where == "release: one"


def test_a_whole_answer_is_taken(answering: Callable[[Any], Server]):
    server = answering({"choices": [{"prompt_logprobs": [None, GOOD, GOOD]}]})
    (predicted,) = ask(server, [document([0, 1, 2])])
    assert predicted.actual.tolist() == pytest.approx([math.log(0.5), math.log(0.3)])


def test_a_server_that_is_gone(answering: Callable[[Any], Server]):
    server = Server("http://127.0.0.1:9", "release")
    with pytest.raises(ScionError, match="a request to the server failed"):
        ask(server, [document([0, 1])])


# Records


def uniform(losses: Sequence[float]) -> Predictions:
    """Predictions whose losses are given; each list names the token that stands there alone."""
    rows: Rows = [None, *({"1": {"logprob": -loss}} for loss in losses)]
    return read_predictions(rows, [1] * (len(losses) + 1), top=1)


def everything(models: Sequence[Predictions]) -> list[NDArray[np.bool_]]:
    return [np.ones(len(predicted.actual), np.bool_) for predicted in models]


def test_record_of_a_uniform_guess():
    models = [uniform([math.log(8)] * 4), uniform([math.log(8)] * 6)]
    record = predictions_record(models, models, everything(models))
    assert record["tokens"] == 10
    # Both documents are alike, so nothing varied that an interval could tell of.
    assert record["loss"] == {"value": 2.079442, "low": None, "high": None, "count": 10}
    assert record["perplexity"] == {"value": 8.0, "low": None, "high": None, "count": 10}
    assert record["loss_change"] == {"value": 0.0, "low": None, "high": None, "count": 10}
    assert record["kl"]["value"] == 0
    assert record["top1_agreement"] == {"value": 1.0, "low": None, "high": None, "count": 10}
    assert record["kl_covered"] == 0.125


def test_document_is_the_unit_of_the_interval():
    # Changes of 1, 2 and 3 nats a token: mean 2, deviation 1; t(2) of 95 % is 4.3027.
    reference = [uniform([1.0, 1.0])] * 3
    model = [uniform([loss, loss]) for loss in (2.0, 3.0, 4.0)]
    change = predictions_record(reference, model, everything(model))["loss_change"]
    reach = 4.302653 / math.sqrt(3)
    assert change == {
        "value": 2.0,
        "low": pytest.approx(2 - reach, abs=1e-5),
        "high": pytest.approx(2 + reach, abs=1e-5),
        "count": 6,
    }


def test_part_counts_its_own_places_alone():
    models = [uniform([1.0, 5.0]), uniform([3.0])]
    record = predictions_record(models, models, [np.array([True, False]), np.array([True])])
    assert (record["tokens"], record["loss"]["value"]) == (2, 2.0)
    assert record["perplexity"]["low"] == pytest.approx(math.exp(record["loss"]["low"]), abs=1e-5)


def test_records_of_all_that_can_become_of_a_model():
    chat = [0, 1, 1, 1]
    documents = [
        Document(Text("text", "…"), [1, 1, 1], [1, 1, 1], [False] * 3),
        document(chat),
    ]
    predicted = {"fixed": [uniform([1.0, 1.0]), uniform([2.0, 2.0, 2.0])]}
    served = model_record("fixed", documents, predicted, None)
    assert served["parts"]["texts"]["tokens"] == 5
    assert (served["parts"]["chats"], served["parts"]["assistant"]) == (None, None)
    same = model_record("source", documents, predicted, None)
    assert same == {
        "name": "source",
        "loads": True,
        "engine_says": None,
        "same_as": "fixed",
        "parts": None,
    }
    refused = model_record("source", documents, predicted, "ValueError: no")
    assert (refused["loads"], refused["engine_says"], refused["same_as"]) == (
        False,
        "ValueError: no",
        None,
    )
    assert model_record("fixed", documents, predicted, "ValueError: no")["loads"]
    assert score_line(same) == "source: the same tensors as fixed"
    assert score_line(refused) == "source: refused: ValueError: no"
    assert score_line(served).startswith(
        "fixed: perplexity texts 4.9530 (KL 0.00000, same token 100"
    )


def failure(found: str) -> ScionError:
    return ScionError("the server died", where="log", expected="a server", found=found, hint="read")


def test_refusal_is_the_first_sentence_of_the_cause():
    cause = "exit code 1\n    | ERROR [core.py:1] ValueError: There is no 'x' in Y. There are: {…}"
    assert refusal_of(failure(cause)) == "ValueError: There is no 'x' in Y"


@pytest.mark.parametrize(
    "found",
    [
        "exit code -9\n    | loading",
        "still loading weights\n    | ValueError: of something else",
        "HTTP 500: RuntimeError: exit code 1",
    ],
)
def test_other_failures_are_no_refusal(found: str):
    assert refusal_of(failure(found)) is None


# Documents


def test_assistant_mask_covers_every_answer_with_its_end():
    header, end = [1, 7, 8], 2
    tokens = [1, 5, 8, 30, 2, *header, 31, 32, 2, 8, 1, 5, 8, 33, 2, *header, 34]
    mask = assistant_mask(tokens, header, end)
    assert [token for token, counts in zip(tokens, mask, strict=True) if counts] == [31, 32, 2, 34]


def test_texts(tmp_path: Path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"name": "one", "text": "a"}\n\n{"text": "b", "extra": 1}\n')
    first, second = read_texts(path, limit=9)
    assert (first, second) == (Text("one", "a"), Text("line 2", "b"))
    assert read_texts(path, limit=1) == [first]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "0 texts"),
        (b"\n", "0 texts"),
        (b"{", "JSONDecodeError"),
        (b"[1]", "TypeError"),
        (b'{"messages": []}', "KeyError: 'text'"),
        (b'{"text": " "}', "no text"),
        (b'{"text": 1}', "no text"),
        (b"\xff\xfe", "can't decode"),
        (None, "No such file"),
    ],
)
def test_unusable_texts(tmp_path: Path, content: bytes | None, found: str):
    path = tmp_path / "texts.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScionError, match="texts can't be used") as caught:
        read_texts(path, limit=2)
    assert found in caught.value.found
    assert str(path) in caught.value.where


@pytest.mark.parametrize("config", [{"vocab_size": 3}, {"text_config": {"vocab_size": 3}}])
def test_tokens_that_a_model_does_not_know(tmp_path: Path, config: dict[str, Any]):
    (tmp_path / "config.json").write_text(json.dumps(config))
    artifact = Artifact(tmp_path, {})
    check_vocabulary(artifact, [document([0, 1, 2])])
    with pytest.raises(ScionError, match="does not know") as caught:
        check_vocabulary(artifact, [document([0, 1]), document([0, 3], name="two")])
    assert "3, a token of two" in caught.value.expected
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ScionError, match="how many tokens it knows"):
        check_vocabulary(artifact, [document([0, 1])])


def test_dataset_record_counts_what_was_cut(tmp_path: Path):
    path = tmp_path / "texts.jsonl"
    path.write_text("{}")
    long = Document(Text("long", "…"), [1, 2, 3], [1, 2], [False, False])
    record = dataset_record(path, [document([1, 2]), long], kind="texts")
    assert (record["documents"], record["tokens"], record["cut"]) == (2, 4, 1)
    assert dataset_record(path, [long], kind="chats")["documents"] == 0
