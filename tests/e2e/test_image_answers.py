"""evaluate_images over real servers of a release with its tower, of its source, and of its text.

The expensive part, a conversion with the tower and the questions to both models, is made once.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import measured
from card_text import breakable
from checkpoints import half_made
from conversion import Conversion, Pico, convert
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.cli import main as cli
from scion.common.errors import ScionError
from scion.common.text import share
from scion.engines.config import PICO_LAUNCH, Serving
from scion.engines.served_model import ServedModel
from scion.engines.vllm import server as vllm
from scion.engines.vllm.command import server_command
from scion.evaluation.images.config import Images
from scion.evaluation.intervals import paired_difference, proportion
from scion.report.summary_lines import images_lines
from scion.stages.evaluate_images import evaluate_images
from sealed import rendered
from serving_python import PYTHON
from shared import made_once

pytestmark = pytest.mark.serve

ASKED = 90
# How often who does not look is right: one of the shapes, colours or numbers.
GUESSED = {"colour": 1 / 8, "shape": 1 / 5, "count": 1 / 4}
TEXT = (
    "Tell me a story about a red lamp.",
    "What is 12 + 31?",
    "How do I paint a wooden boat?",
    "Hello, I am Ann.",
)


@pytest.fixture(scope="module")
def seeing(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """The conversion of pico-vision with its tower."""

    def make(folder: Path) -> None:
        convert(pico, folder, source=pico.vision, text_only=False)

    return Conversion.open(made_once(tmp_path_factory, "seeing", make))


def evaluate(
    conversion: Conversion,
    folder: Path,
    questions: Path,
    *,
    serving: Serving | None = None,
    **images: Any,
) -> Artifact:
    return evaluate_images(
        release=conversion.graft_mtp,
        fixed=conversion.fix_keys,
        questions=questions,
        output=Output.at(folder / "evaluate_images"),
        serving=serving or Serving(),
        launch=PICO_LAUNCH,
        images=Images.model_validate({"limit": None, **images}),
        python=PYTHON,
        log_folder=folder / "logs",
        environment="sha256:tests",
    )


@pytest.fixture(scope="module")
def record(
    seeing: Conversion, pico: Pico, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("images")
    made = evaluate(seeing, folder, pico.pictures, limit=ASKED)
    return json.loads((made.folder / "images.json").read_text())


def test_the_release_still_sees_what_its_source_sees(record: dict[str, Any]) -> None:
    release, fixed = record["models"]
    assert [model["name"] for model in (release, fixed)] == ["release", "fixed"]
    assert [each["name"] for each in release["sets"]] == ["colour", "shape", "count", "all"]
    for row in (*release["sets"][:-1], *fixed["sets"][:-1]):
        assert row["rate"]["low"] > GUESSED[row["name"]], row
    whole = record["differences"][-1]["difference"]
    pairs = [
        (one["passed"], other["passed"])
        for one, other in zip(release["results"], fixed["results"], strict=True)
    ]
    assert whole == paired_difference(pairs).record()
    assert whole["low"] > -0.15


def test_the_record_holds_requests_and_answers(record: dict[str, Any], pico: Pico) -> None:
    rows = [json.loads(line) for line in pico.pictures.open()][:ASKED]
    assert record["questions"]["asked"] == ASKED
    assert [model["speculative_tokens"] for model in record["models"]] == [3, 0]
    for model in record["models"]:
        passed = sum(result["passed"] for result in model["results"])
        assert model["sets"][-1]["rate"] == proportion(passed, ASKED).record()
        for row, result in zip(rows, model["results"], strict=True):
            picture, text = result["request"]["messages"][0]["content"]
            sent, asked = row["messages"][0]["content"]
            content = base64.b64decode(sent["image_url"]["url"].partition(",")[2])
            assert picture["image_url"]["sha256"] == hashlib.sha256(content).hexdigest()
            assert text == asked
            assert result["answer"] == result["response"]["choices"][0]["message"]["content"]
            # 128 x 128 pixels are 64 patches, of which four make a token.
            assert result["response"]["usage"]["prompt_tokens"] > 16 + 2
    # The question alone does not tell: some are asked twice, of other pictures.
    answers: dict[str, set[str]] = {}
    for row, result in zip(rows, record["models"][0]["results"], strict=True):
        answers.setdefault(row["messages"][0]["content"][1]["text"], set()).add(result["answer"])
    assert any(len(given) > 1 for given in answers.values())


def test_card_and_summary_tell_of_it(
    record: dict[str, Any], seeing: Conversion, tmp_path: Path
) -> None:
    content = measured.results() | {"evaluate_images": record}
    stored = ServedModel.read(seeing.graft_mtp.folder)
    command = server_command(PICO_LAUNCH, stored, Serving(), measuring=True)
    for run in content["measure_serving"]["runs"]:
        run["command"] = command.record()
    made, _ = rendered(seeing, tmp_path, content)
    card = breakable((made.folder / "README.md").read_text())
    row = record["models"][0]["sets"][-1]
    told = f"{row['passed']} of {ASKED}, {share(row['rate'])}"
    assert f"### Questions about pictures\n\nRight answers: {told}; the bf16 reference: " in card
    assert f"| colour | {record['models'][0]['sets'][0]['passed']} of 30 |" in card
    assert f"{row['passed']} of {ASKED} questions" in images_lines(record)[0]
    # As one serves and asks it.
    assert "--language-model-only" not in card
    assert "pipeline_tag: image-text-to-text" in card
    assert "data:image/png;base64,$(base64 < picture.png" in card
    assert "- Vision tower: kept." in card
    left_out, _ = rendered(seeing, tmp_path / "without", measured.results())
    told = breakable((left_out.folder / "README.md").read_text())
    assert "### Questions about pictures\n\nNot measured: the evaluation was left out" in told


def test_the_launch_leaves_the_tower_in(
    seeing: Conversion,
    conversion: Conversion,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for release, told in ((seeing, False), (conversion, True)):
        folder = str(release.graft_mtp.folder)
        monkeypatch.setattr(
            "sys.argv", ["scion", "launch", folder, "--cpu", "--max-model-len", "2048"]
        )
        assert cli.main() == 0, capsys.readouterr().err
        assert ("--language-model-only" in capsys.readouterr().out) is told


def texts(release: Path, log: Path) -> list[str]:
    """Greedy replies to chats without pictures, thinking first."""
    with vllm.serve(
        release,
        name="release",
        launch=PICO_LAUNCH,
        serving=Serving(),
        python=PYTHON,
        log=log,
        shared=True,
    ) as server:
        bodies = [
            {"model": "release", "messages": [{"role": "user", "content": text}]} for text in TEXT
        ]
        answers = [
            server.ask("/v1/chat/completions", body | {"temperature": 0, "max_tokens": 48})
            for body in bodies
        ]
        return [json.dumps(answer["choices"][0]["message"]) for answer in answers]


def test_text_is_the_same_with_and_without_the_tower(
    seeing: Conversion, pico: Pico, tmp_path: Path
) -> None:
    blind = convert(pico, tmp_path / "blind", source=pico.vision, text_only=True)
    there, here = seeing.graft_mtp.tensors(), blind.graft_mtp.tensors()
    tower = {name for name in there if name.startswith("model.visual.")}
    assert there.keys() - here.keys() == tower
    assert all(there[name]["sha256"] == row["sha256"] for name, row in here.items())
    with_tower = texts(seeing.graft_mtp.folder, tmp_path / "seeing.log")
    assert len(set(with_tower)) == len(TEXT)
    assert texts(blind.graft_mtp.folder, tmp_path / "blind.log") == with_tower


def test_a_release_without_tower_is_asked_nothing(
    conversion: Conversion, pico: Pico, tmp_path: Path
) -> None:
    with pytest.raises(ScionError, match=r"without a vision tower(.|\n)*images\.enabled: false"):
        evaluate(conversion, tmp_path, pico.pictures, limit=2)
    assert half_made(tmp_path / "evaluate_images") == []


def test_one_named_server_is_not_enough(seeing: Conversion, pico: Pico, tmp_path: Path) -> None:
    with pytest.raises(ScionError, match=r"several models(.|\n)*serving\.server_url"):
        evaluate(seeing, tmp_path, pico.pictures, serving=Serving(server_url="http://localhost:1"))


def test_a_picture_that_can_t_be_decoded_ends_the_stage(
    seeing: Conversion, pico: Pico, tmp_path: Path
) -> None:
    row = json.loads(pico.pictures.open().readline())
    broken = base64.b64encode(b"\x89PNG\r\n\x1a\n, and no more").decode()
    row["messages"][0]["content"][0]["image_url"]["url"] = f"data:image/png;base64,{broken}"
    (tmp_path / "broken.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ScionError, match=r"a request to the server failed(.|\n)*HTTP 4"):
        evaluate(seeing, tmp_path, tmp_path / "broken.jsonl")
    assert half_made(tmp_path / "evaluate_images") == []
