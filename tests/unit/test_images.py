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
from scion.evaluation.intervals import Estimate, paired_difference, proportion

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


def ends(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_a_paired_difference_is_newcombe_s() -> None:
    # As often both as one alone: no correlation, and the squares of both reaches add up.
    pairs = [(one, other) for one in (True, False) for other in (True, False)] * 9
    found, half = paired_difference(pairs), proportion(18, 36)
    low, _ = ends(half)
    assert (found.value, found.count) == (0, 36)
    assert ends(found)[1] == pytest.approx(math.hypot(half.value - low, half.value - low))
    # Models that agree everywhere are surely nearer than two that only score alike.
    alike = paired_difference([(True, True)] * 18 + [(False, False)] * 18)
    assert 0 < ends(alike)[1] < ends(found)[1]
    # Where neither ever fails, each one's interval is all that is known.
    perfect = ends(proportion(8, 8))
    assert ends(paired_difference([(True, True)] * 8))[0] == pytest.approx(perfect[0] - 1)
    some = pairs[:20] + [(True, False)] * 5
    straight = ends(paired_difference(some))
    turned = ends(paired_difference([(other, one) for one, other in some]))
    assert turned == pytest.approx((-straight[1], -straight[0]))
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
        low, high = ends(paired_difference(pairs))
        if low <= chances[1] - chances[2] <= high:
            covered += ways * math.prod(c**n for c, n in zip(chances, counts, strict=True))
    assert 0.93 < covered < 0.99


def test_a_text_only_release_is_asked_nothing_about_pictures() -> None:
    with pytest.raises(ScionError, match=r"images\.enabled: a text-only release"):
        load_config({"images": {"enabled": True}}, where="my.yaml")


def test_questions_are_a_file_of_this_machine() -> None:
    hub = f"hf://datasets/a/b@{'0' * 40}"
    with pytest.raises(ScionError, match=r"images\.questions: .*on the hub"):
        load_config({"text_only": False, "images": {"questions": hub}}, where="my.yaml")


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
    """A checkpoint with a vision tower, of which a file may be taken away."""
    return shutil.copytree(pico.agent, tmp_path / "source")


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
