"""The evaluations with their real harnesses, against a server whose answers are chosen."""

import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

from canned_server import CONTEXT, Canned, calls, canned_server, message
from checkpoints import half_made
from commands import interrupt
from hub_server import NO_PROXY, HubServer
from scion.artifacts.artifact import Artifact
from scion.artifacts.environments import interpreter
from scion.artifacts.making import Output, remake
from scion.checkpoint.hub import http as hub_http
from scion.checkpoint.hub.lock import LockedFile, lock_of, read_lock, write_lock
from scion.cli.pin import pin_config
from scion.common.errors import ScionError
from scion.engines.config import PICO_LAUNCH, Serving
from scion.evaluation import intervals as estimates
from scion.evaluation.harness import child, ifeval_driver
from scion.evaluation.harness.config import Bfcl, Ifeval
from scion.evaluation.harness.ifeval_driver import without_thinking
from scion.stages.evaluate_bfcl import evaluate_bfcl
from scion.stages.evaluate_ifeval import evaluate_ifeval

PROJECT = Path(__file__).parents[2]
HARNESSES = PROJECT / interpreter("envs/evaluate")
NO_COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
SENTENCES = {
    "instruction_id_list": ["length_constraints:number_sentences", "keywords:existence"],
    "kwargs": [{"relation": "at least", "num_sentences": 2}, {"keywords": ["lamp"]}],
}
PROMPTS = (
    {"key": 1, "prompt": "Right.", **NO_COMMA},
    {"key": 2, "prompt": "Wrong.", **NO_COMMA},
    {"key": 3, "prompt": "Cut.", **NO_COMMA},
    {"key": 4, "prompt": "Half.", **SENTENCES},
    {"key": 5, "prompt": "Thinking.", **NO_COMMA},
    {"key": 6, "prompt": "Title.", **NO_COMMA},
)
ANSWERS = {
    "Right.": message("One two three."),
    "Wrong.": message("One, two."),
    # What vLLM's reasoning parser makes of a reply that is cut within its thinking.
    "Cut.": message(None, reason="length", reasoning="Let me see"),
    "Half.": message("Mr. Smith has one sentence. No, two."),
    "Thinking.": message("<think>\nOne, two.\n</think>\n\nThree."),
    # Strict counts the comma of the first line; loose tries without it as well.
    "Title.": message("Sure, here it is:\nThree."),
}


@pytest.fixture
def server() -> Iterator[Canned]:
    with canned_server() as canned:
        yield canned


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The canned server has no weights that could be compared."""
    monkeypatch.setattr("scion.stages.served.check_named_server", lambda *_: None)


@pytest.fixture
def release(tmp_path: Path) -> Artifact:
    """An artifact to name; a named server serves whatever it serves."""
    return remake(
        Output.at(tmp_path / "release"),
        stage="graft_mtp",
        inputs={},
        settings={},
        environment="sha256:tests",
        build=lambda draft: draft.facts.update(empty=True),
    )


class Stages:
    """Runs the stages against a server, into a folder."""

    def __init__(
        self, release: Artifact, server: Canned, folder: Path, *, max_num_seqs: int = 2
    ) -> None:
        self.folder = folder
        self._common: dict[str, Any] = {
            "release": release,
            "launch": PICO_LAUNCH.model_copy(update={"max_num_seqs": max_num_seqs}),
            "serving": Serving(server_url=server.url),
            "python": Path("unused"),
            "evaluator_python": HARNESSES,
            "log_folder": folder / "logs",
            "environment": "sha256:tests",
        }

    def ifeval(
        self, dataset: object, *, lock: Sequence[Path] = (), **settings: Any
    ) -> dict[str, Any]:
        section = Ifeval(dataset=str(dataset), **settings)
        output = self.folder / "evaluate_ifeval"
        evaluate_ifeval(output=Output.at(output), ifeval=section, lock=lock, **self._common)
        return json.loads((output / "ifeval.json").read_text())

    def bfcl(self, **settings: Any) -> dict[str, Any]:
        output = self.folder / "evaluate_bfcl"
        evaluate_bfcl(output=Output.at(output), bfcl=Bfcl(**settings), **self._common)
        return json.loads((output / "bfcl.json").read_text())

    def lines(self, name: str) -> list[dict[str, Any]]:
        (path,) = self.folder.glob(f"evaluate_*/{name}")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def assert_nothing_left(self) -> None:
        assert [path.name for path in self.folder.glob("*evaluate*")] == []


@pytest.fixture
def stages(release: Artifact, server: Canned, tmp_path: Path) -> Stages:
    return Stages(release, server, tmp_path)


def prompts_file(folder: Path, *rows: object) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


def test_ifeval_tells_right_from_wrong(stages: Stages, server: Canned, tmp_path: Path):
    server.reply = lambda body: (200, ANSWERS[prompt_of(body)])
    result = stages.ifeval(prompts_file(tmp_path, *PROMPTS), max_tokens=33, enable_thinking=True)
    passed = [row["prompt_level_strict_acc"] for row in stages.lines("ifeval_answers.jsonl")]
    assert passed == [True, False, False, False, True, False]
    answers = [row["answer"] for row in stages.lines("ifeval_answers.jsonl")]
    assert answers[2:5] == ["", "Mr. Smith has one sentence. No, two.", "Three."]
    assert result["answers"] == {"empty": 1, "cut": 1}
    by_prompt = [row["inst_level_strict_acc"] for row in stages.lines("ifeval_answers.jsonl")]
    verdicts = [sum(verdict) for verdict in by_prompt]
    # NLTK's model knows that a sentence does not end after `Mr.`.
    assert (sum(verdicts), sum(map(len, by_prompt))) == (3, 7)
    scores = result["scores"]
    assert scores["prompt_strict"] == estimates.proportion(2, 6).record()
    assert scores["prompt_loose"] == estimates.proportion(3, 6).record()
    clustered = estimates.clustered_proportion(verdicts, [len(verdict) for verdict in by_prompt])
    assert scores["instruction_strict"] == clustered.record()
    assert (scores["instruction_loose"]["count"], scores["instruction_loose"]["value"]) == (
        7,
        pytest.approx(4 / 7, abs=1e-6),
    )
    own = result["harness"]["scores"]
    assert own["inst_level_loose_acc"] == pytest.approx(4 / 7)
    assert own["prompt_level_strict_acc"] == pytest.approx(2 / 6)
    assert len(server.requests) == len(PROMPTS)
    for body in server.requests:
        assert body["max_tokens"] == 33
        assert body["temperature"] == 0
        assert body["chat_template_kwargs"] == {"enable_thinking": True}


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ((500, {"error": {"message": "the engine is dead"}}), "the engine is dead"),
        (None, "disconnected"),
        ((200, {"choices": []}), "no answer"),
    ],
)
def test_ifeval_counts_no_failed_request(
    stages: Stages, server: Canned, tmp_path: Path, reply: Any, found: str
):
    server.reply = lambda body: reply
    with pytest.raises(ScionError, match="a request to the server failed") as caught:
        stages.ifeval(prompts_file(tmp_path, *PROMPTS))
    assert found.lower() in caught.value.found.lower()
    assert len(server.requests) <= 4, "asked once, and no further"
    stages.assert_nothing_left()


def test_one_request_at_a_time(release: Artifact, server: Canned, tmp_path: Path):
    """The harness has a way of its own for that."""
    stages = Stages(release, server, tmp_path, max_num_seqs=1)
    server.reply = lambda body: (200, ANSWERS[prompt_of(body)])
    result = stages.ifeval(prompts_file(tmp_path, *PROMPTS))
    assert result["scores"]["prompt_loose"] == estimates.proportion(3, 6).record()
    server.requests.clear()
    server.reply = lambda body: (500, {"error": "the engine is dead"})
    with pytest.raises(ScionError, match="a request to the server failed") as caught:
        stages.ifeval(prompts_file(tmp_path, *PROMPTS[:3]))
    assert "the engine is dead" in caught.value.found
    assert len(server.requests) == 1


@pytest.mark.parametrize("stage", ["evaluate_ifeval", "evaluate_bfcl"])
def test_an_interrupted_stage_leaves_nothing(
    release: Artifact, server: Canned, tmp_path: Path, stage: str
):
    over = Event()
    server.reply = lambda body: (200, message("Too late.")) if over.wait(60) else None
    settings = {
        "launch": PICO_LAUNCH.model_dump(mode="json"),
        "serving": {"server_url": server.url},
        stage.removeprefix("evaluate_"): {},
    }
    done = interrupt(
        stage,
        signal.SIGTERM,
        when=lambda log: bool(server.requests),
        release=tmp_path / "release.json",
        output=tmp_path / f"{stage}.json",
        settings=json.dumps(settings),
        python="unused",
        evaluator_python=HARNESSES,
        log_folder=tmp_path / "logs",
    )
    over.set()
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("*evaluate_*")) == []
    assert half_made(tmp_path) == []
    drivers = [
        process for process in psutil.process_iter() if driver_of(process, tmp_path / "logs")
    ]
    assert drivers == []


def driver_of(process: psutil.Process, logs: Path) -> bool:
    """Whether a process writes into the stage's log folder."""
    try:
        return any(str(logs) in file.path for file in process.open_files())
    except psutil.Error:
        return False


def test_a_server_that_hides_its_context(stages: Stages, server: Canned):
    server.context = None
    with pytest.raises(ScionError, match="does not say how long its context is"):
        stages.bfcl()
    assert server.requests == []


def test_an_ifeval_prompt_that_does_not_fit_is_named(
    stages: Stages, server: Canned, tmp_path: Path
):
    server.tokens = lambda body: 2000 if prompt_of(body) == "Half." else 10
    with pytest.raises(ScionError, match="does not fit the server's context") as caught:
        stages.ifeval(prompts_file(tmp_path, *PROMPTS), max_tokens=100)
    assert "key 4" in caught.value.where
    assert f"at most {CONTEXT - 100} tokens" in caught.value.expected
    assert caught.value.found == "2000 tokens"
    assert server.requests == []


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("not a prompt", "TypeError"),
        ({"key": 1, "prompt": "No instructions."}, "instruction_id_list"),
        ({"key": 1, "prompt": "Unequal.", **NO_COMMA, "kwargs": []}, "unequal"),
        ({"key": 1, "prompt": " ", **NO_COMMA}, "another kind"),
        ({"key": 1, "prompt": "Twice.", **NO_COMMA}, "key 1 2 times"),
    ],
)
def test_a_line_that_is_no_ifeval_prompt_is_refused(
    stages: Stages, server: Canned, tmp_path: Path, row: object, found: str
):
    with pytest.raises(ScionError, match="the IFEval prompts can't be used") as caught:
        stages.ifeval(prompts_file(tmp_path, PROMPTS[0], row))
    assert found in caught.value.found
    assert server.requests == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"instruction_id_list": ["punctuation:no_coma"]}, "punctuation:no_coma"),
        ({"kwargs": [{"commas": 3}]}, "TypeError"),
    ],
)
def test_an_instruction_that_the_harness_does_not_know_is_refused(
    stages: Stages, server: Canned, tmp_path: Path, change: dict[str, Any], found: str
):
    file = prompts_file(tmp_path, PROMPTS[0], PROMPTS[1] | change)
    with pytest.raises(ScionError, match="an IFEval prompt can't be scored") as caught:
        stages.ifeval(file)
    assert caught.value.where == f"{file}: key 2"
    assert found in caught.value.found
    assert server.requests == []


def test_missing_ifeval_prompts(stages: Stages, server: Canned, tmp_path: Path):
    with pytest.raises(ScionError, match="can't be used") as caught:
        stages.ifeval(tmp_path / "none.jsonl")
    assert "No such file" in caught.value.found
    with pytest.raises(ScionError) as caught:
        stages.ifeval(prompts_file(tmp_path, *PROMPTS), limit=7)
    assert (caught.value.expected, caught.value.found) == ("7 prompts", "6 prompts")
    with pytest.raises(ScionError, match="not pinned"):
        stages.ifeval("hf://datasets/google/IFEval")
    assert server.requests == []


def test_the_hub_can_not_be_reached(
    stages: Stages, server: Canned, monkeypatch: pytest.MonkeyPatch
):
    # Nothing listens there.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub_http, "RETRY_SECONDS", ())
    with pytest.raises(ScionError, match="can't be reached"):
        stages.ifeval(f"hf://datasets/google/IFEval@{'0' * 40}")
    assert server.requests == []
    stages.assert_nothing_left()


def test_ifeval_prompts_of_the_hub(
    stages: Stages, server: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "remote"
    folder.mkdir()
    prompts_file(folder, *PROMPTS).rename(folder / "ifeval_input_data.jsonl")
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    with HubServer({"datasets/google/IFEval": folder}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        location = hub.location("datasets/google/IFEval")
        result = stages.ifeval(location, limit=2)
    dataset = result["dataset"]
    assert f"hf://datasets/{dataset['repository']}@{dataset['revision']}" == location
    assert (dataset["file"], dataset["prompts"]) == ("ifeval_input_data.jsonl", 2)
    assert sorted(prompt_of(body) for body in server.requests) == ["Right.", "Wrong."]


def test_ifeval_prompts_of_the_hub_are_held_to_a_lock(
    stages: Stages, server: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name, file, folder = "datasets/google/IFEval", "ifeval_input_data.jsonl", tmp_path / "remote"
    folder.mkdir()
    prompts_file(folder, *PROMPTS).rename(folder / file)
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    with HubServer({name: folder}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        config = tmp_path / "own.yaml"
        config.write_text(json.dumps({"dataset": f"hf://{name}"}))
        pin_config(config, report=lambda line: None)
        lock, location, files = lock_of(config), hub.location(name), hub.repositories[name].files
        sound = files[file]
        files[file] = bytes(sound[0 : len(sound)]).replace(b"Right.", b"Wrong?")
        with pytest.raises(ScionError, match="a pinned repository is not what it was") as caught:
            stages.ifeval(location, lock=[lock], limit=2)
        assert caught.value.where == f"{location}: {file}"
        assert server.requests == []
        stages.assert_nothing_left()
        files[file] = sound
        result = stages.ifeval(location, lock=[lock], limit=2)
        assert result["dataset"]["sha256"] == read_lock(lock)[location][file].sha256
        # What an earlier run has made is held as well.
        write_lock(lock, {location: {file: LockedFile(1, "0" * 64, None)}})
        with pytest.raises(ScionError, match="not the one that was pinned") as caught:
            stages.ifeval(location, lock=[lock], limit=2)
        assert "0" * 64 in caught.value.expected


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Four.", "Four."),
        (" Four.", " Four."),
        ("<think>\nFive?\n</think>\n\nFour.", "Four."),
        ("Five?\n</think>\n\nFour.", "Four."),
        ("<think>Five", ""),
        ("<think>a</think>Four.<think>b", "Four."),
    ],
)
def test_thinking_is_no_part_of_the_answer(text: str, answer: str):
    assert without_thinking(text) == answer


def test_a_driver_sees_no_proxy_and_no_key(tmp_path: Path):
    inherited = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://proxy.example",
        "all_proxy": "http://proxy.example",
        "OPENAI_API_KEY": "secret",
        "HF_TOKEN": "secret",
        "HF_ENDPOINT": "https://elsewhere.example",
        "PYTHONHOME": "/elsewhere",
        "VIRTUAL_ENV": "/elsewhere",
    }
    seen = child.driver_environment(inherited, tmp_path)
    assert seen["PATH"] == "/bin"
    assert not [name for name in inherited if name in seen and name != "PATH"]
    assert (seen["HF_HUB_OFFLINE"], seen["HF_DATASETS_OFFLINE"]) == ("1", "1")


def test_harnesses_that_are_not_installed(tmp_path: Path):
    with pytest.raises(ScionError, match="harnesses is not installed") as caught:
        child.run_driver(ifeval_driver, {}, python=tmp_path / "python", log=tmp_path / "log")
    assert caught.value.hint == "make setup"


def test_a_harness_that_breaks_shows_its_log(tmp_path: Path):
    with pytest.raises(ScionError, match="ended without a result") as caught:
        child.run_driver(ifeval_driver, {}, python=HARNESSES, log=tmp_path / "log")
    assert "KeyError: 'dataset'" in caught.value.found


TRIANGLE = ("calculate_triangle_area", {"base": 10, "height": 5, "unit": "units"})
# The package's tools have no dots in their names; its answers and checker do.
SONGS = [
    ("spotify_play", {"artist": "Maroon 5", "duration": 15}),
    ("spotify_play", {"artist": "Taylor Swift", "duration": 20}),
]


def bfcl_answer(body: dict[str, Any]) -> tuple[int, Any]:
    """Right for the first case of each category, wrong for the second."""
    prompt = prompt_of(body)
    if "area of a triangle with a base of 10" in prompt:
        return 200, calls(TRIANGLE)
    if "factorial of 5" in prompt:
        return 200, calls(("math_factorial", {"number": 6}))
    if "Taylor Swift" in prompt:
        return 200, calls(*SONGS)
    if "quadratic equation with coefficients a = 1" in prompt:
        return 200, calls(("math_sum", {"numbers": [1.0, 2.0]}))
    return 200, message("None of my functions helps.")


def test_bfcl_tells_right_from_wrong(stages: Stages, server: Canned):
    server.reply = bfcl_answer
    categories = ("simple_python", "parallel", "irrelevance")
    result = stages.bfcl(categories=categories, limit=2, max_tokens=77)
    half = estimates.proportion(1, 2).record()
    for category in result["categories"]:
        assert (category["cases"], category["passed"], category["accuracy"]) == (2, 1, half), (
            category["name"]
        )
        assert category["harness_accuracy"] == 0.5
    answers = {row["id"]: row for row in stages.lines("bfcl_answers.jsonl")}
    assert answers["simple_python_0"]["passed"]
    assert answers["parallel_0"]["passed"], "in another order"
    assert "Invalid value" in str(answers["simple_python_1"]["error"])
    assert answers["irrelevance_0"]["passed"]
    assert not answers["irrelevance_1"]["passed"]
    assert len(server.requests) == 6
    for body in server.requests:
        assert body["tools"][0]["function"]["parameters"]["type"] == "object"
        assert body["max_tokens"] == 77
        assert body["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("reply", "problem", "found"),
    [
        ((500, {"error": {"message": "the engine is dead"}}), "a request", "the engine is dead"),
        (None, "a request", "Connection error"),
        ((200, {"choices": []}), "a request", "IndexError"),
        (
            (400, {"message": '"auto" tool choice requires --enable-auto-tool-choice'}),
            "does not parse tool calls",
            "400",
        ),
        (
            (200, message("<tool_call>\n<function=f>\n</function>\n</tool_call>")),
            "does not parse tool calls",
            "<function=f>",
        ),
    ],
)
def test_bfcl_counts_no_failed_request(
    stages: Stages, server: Canned, reply: Any, problem: str, found: str
):
    server.reply = lambda body: reply
    with pytest.raises(ScionError, match=problem) as caught:
        stages.bfcl(categories=("irrelevance",), limit=6)
    assert found in caught.value.found
    stages.assert_nothing_left()


def test_bfcl_cases_that_do_not_fit(stages: Stages, server: Canned):
    server.reply = lambda body: (200, message("No."))
    server.tokens = lambda body: 2000 if "coefficients a = 1" in prompt_of(body) else 100
    result = stages.bfcl(categories=("irrelevance",), limit=2, max_tokens=64)
    (category,) = result["categories"]
    assert category["left_out"] == [{"id": "irrelevance_1", "tokens": 2000}]
    ids = [answer["id"] for answer in stages.lines("bfcl_answers.jsonl")]
    assert ids == ["irrelevance_0", "irrelevance_2"]
    server.requests.clear()
    with pytest.raises(ScionError, match="a BFCL case does not fit") as caught:
        stages.bfcl(categories=("irrelevance",), limit=2, skip_longer_than_context=False)
    assert caught.value.where == "irrelevance_1"
    assert f"at most {CONTEXT - 64} tokens" in caught.value.expected
    assert caught.value.found == "2000 tokens"
    server.tokens = lambda body: 2000
    with pytest.raises(ScionError, match="too few BFCL cases fit") as caught:
        stages.bfcl(categories=("irrelevance",), limit=3)
    assert caught.value.found == "0 that fit, 240 that do not"
    assert server.requests == []
