"""Questions about pictures: the file, the verdicts, what is counted, and what is refused first."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from conversion import Pico
from own_release import OWN
from scion.common.errors import ScionError
from scion.config import check_sources, load_config, read_config
from scion.evaluation.images.questions import Question, read_questions
from scion.evaluation.images.results import counted, differences
from scion.evaluation.intervals import paired_difference, proportion

PROJECT = Path(__file__).parents[2]
PNG = "data:image/png;base64,iVBORw0KGgo="


def row(**changes: Any) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": PNG}}, {"type": "text", "text": "What?"}]
    return {
        "name": "colour_1",
        "set": "colour",
        "messages": [{"role": "user", "content": content}],
        "enable_thinking": False,
        "right": ["red"],
        "wrong": ["blue", "dark green"],
    } | changes


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


@pytest.fixture
def question(tmp_path: Path) -> Question:
    (read,) = read_questions(write(tmp_path / "one.jsonl", row()), limit=None)
    return read


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("It is red.", True),
        ("**Red**", True),
        ("red, a light red", True),
        ("It is not blue but red.", False),
        ("A dark-green one, or red", False),
        ("A green one that is dark red", True),
        ("It is reddish.", False),
        ("", False),
    ],
)
def test_a_right_answer_says_what_is_right_and_nothing_wrong(
    question: Question, answer: str, right: bool
) -> None:
    assert question.accepts(answer) is right


def test_a_record_keeps_the_digest_of_a_picture(question: Question) -> None:
    (message,) = question.without_pictures()
    picture, text = message["content"]
    told = picture["image_url"]
    assert (told["media_type"], told["bytes"], len(told["sha256"])) == ("image/png", 8, 64)
    assert text == {"type": "text", "text": "What?"}
    assert question.template == {"enable_thinking": False}
    # What is sent still has it.
    assert question.messages[0]["content"][0]["image_url"]["url"] == PNG


def picture(url: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"messages": [{"role": "user", "content": "What?"}]}, "no picture"),
        ({"messages": picture("https://example.org/a.png")}, "no data URL"),
        ({"messages": picture("data:text/plain;base64,aGk=")}, "no data URL"),
        ({"messages": picture("data:image/png;base64,a")}, "base64 is broken"),
        ({"messages": picture("data:image/png;base64,")}, "is empty"),
        ({"messages": picture(7)}, "TypeError"),
        ({"right": []}, "no right answer"),
        ({"right": "red"}, "right is no list of words"),
        ({"wrong": ["…"]}, "wrong is no list of words"),
        ({"wrong": [7]}, "wrong is no list of words"),
    ],
)
def test_a_line_that_is_no_question_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = write(tmp_path / "questions.jsonl", row(), row(**changes))
    with pytest.raises(ScionError, match=said) as caught:
        read_questions(path, limit=None)
    assert caught.value.where == f"{path}, line 2"


@pytest.mark.parametrize(("rows", "limit"), [(0, None), (2, 3)])
def test_too_few_questions_are_refused(tmp_path: Path, rows: int, limit: int | None) -> None:
    path = write(tmp_path / "questions.jsonl", *[row()] * rows)
    with pytest.raises(ScionError, match=r"fewer questions(.|\n)*images\.limit"):
        read_questions(path, limit=limit)


def results(*passed: bool) -> list[dict[str, Any]]:
    sets = itertools.cycle(("colour", "count"))
    return [{"set": name, "passed": each} for name, each in zip(sets, passed, strict=False)]


def test_rates_and_differences_are_by_set_and_of_all() -> None:
    release, source = results(True, False, True, True), results(True, True, False, True)
    assert [(each["name"], each["passed"], each["questions"]) for each in counted(release)] == [
        ("colour", 2, 2),
        ("count", 1, 2),
        ("all", 3, 4),
    ]
    assert counted(release)[-1]["rate"] == proportion(3, 4).record()
    found = {each["name"]: each["difference"]["value"] for each in differences(release, source)}
    assert found == {"colour": 0.5, "count": -0.5, "all": 0}


def test_a_paired_difference_is_newcombe_s() -> None:
    # Both, first alone, second alone, neither: no outcome shared, so the correction is nil.
    pairs = [(True, True)] * 9 + [(True, False)] * 9 + [(False, True)] * 9 + [(False, False)] * 9
    one = proportion(18, 36)
    assert one.low is not None
    found = paired_difference(pairs)
    assert (found.value, found.count) == (0, 36)
    assert found.high == pytest.approx(math.hypot(one.value - one.low, one.value - one.low))
    # Where the models agree, they are surely nearer than two that only score alike.
    alike = paired_difference([(True, True)] * 18 + [(False, False)] * 18)
    assert alike.high is not None
    assert 0 < alike.high < found.high
    assert paired_difference([(True, True)] * 8).low == pytest.approx(
        proportion(8, 8).low - 1  # type: ignore[operator]
    )
    turned = paired_difference([pair[::-1] for pair in pairs[:20]])
    straight = paired_difference(pairs[:20])
    assert (turned.low, turned.high) == pytest.approx((-straight.high, -straight.low))  # type: ignore[operator]
    with pytest.raises(ValueError, match="no proportion"):
        paired_difference([])


def test_a_paired_difference_covers_the_truth() -> None:
    """Exactly, by all outcomes of 12 pairs, whose four kinds have these chances."""
    count, chances = 12, (0.6, 0.15, 0.05, 0.2)
    kinds = ((True, True), (True, False), (False, True), (False, False))
    covered = 0.0
    for both, first, second in itertools.product(range(count + 1), repeat=3):
        counts = (both, first, second, count - both - first - second)
        if counts[3] < 0:
            continue
        pairs = [kind for kind, number in zip(kinds, counts, strict=True) for _ in range(number)]
        ways = math.factorial(count) / math.prod(map(math.factorial, counts))
        found = paired_difference(pairs)
        assert found.low is not None
        assert found.high is not None
        if found.low <= chances[1] - chances[2] <= found.high:
            covered += ways * math.prod(c**n for c, n in zip(chances, counts, strict=True))
    assert 0.93 < covered < 0.99


def test_a_text_only_release_is_asked_nothing_about_pictures() -> None:
    with pytest.raises(ScionError, match=r"images\.enabled: a text-only release"):
        load_config({"images": {"enabled": True}}, where="my.yaml")


@pytest.mark.parametrize("release", ["pico-vision", "huihui-qwen3.6-27b-abliterated"])
def test_siblings_differ_in_their_tower_alone(release: str) -> None:
    releases = PROJECT / "config/releases"
    seeing = read_config(releases / f"{release}-nvfp4-mtp.yaml")
    text = read_config(releases / f"{release}-nvfp4-text-mtp.yaml")
    assert (seeing.text_only, seeing.images.enabled) == (False, True)
    assert (text.text_only, text.images.enabled) == (True, False)
    names = {"release", "text_only", "images", "card"}
    assert seeing.model_dump(exclude=names) == text.model_dump(exclude=names)


@pytest.fixture
def source(pico: Pico, tmp_path: Path) -> Path:
    """The small files of a checkpoint with a vision tower."""
    folder = tmp_path / "source"
    shutil.copytree(pico.agent, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def check(pico: Pico, source: Path, more: str) -> list[str]:
    """As a run does first, of a release of that source."""
    text = OWN.format(source=source, donor=pico.base, data=pico.calibration) + more
    values = yaml.safe_load(text.replace("max_model_len: 4096", "max_model_len: 2048"))
    config = load_config(values, where="my.yaml")
    return check_sources(config, where="my.yaml", hub=False)


def test_a_tower_without_its_processor_is_refused_before_any_work(pico: Pico, source: Path) -> None:
    seeing = f"text_only: false\nimages: {{enabled: true, questions: {pico.pictures}}}\n"
    assert check(pico, source, seeing) == []
    (source / "preprocessor_config.json").unlink()
    with pytest.raises(ScionError, match=r"source: .*processor of pictures(.|\n)*text_only: true"):
        check(pico, source, seeing)
    assert check(pico, source, "text_only: true\n") == []
    # Either file will do, as engines have it.
    shutil.copy(pico.base / "preprocessor_config.json", source / "processor_config.json")
    assert check(pico, source, seeing) == []


@pytest.mark.parametrize(
    ("questions", "said"),
    [("nowhere.jsonl", "the data are not there"), ("few.jsonl", "150 rows, as images.limit says")],
)
def test_questions_that_are_not_there_are_refused_before_any_work(
    pico: Pico, source: Path, tmp_path: Path, questions: str, said: str
) -> None:
    write(tmp_path / "few.jsonl", row())
    seeing = f"text_only: false\nimages: {{enabled: true, questions: {tmp_path / questions}}}\n"
    with pytest.raises(ScionError, match=said):
        check(pico, source, seeing)
