"""A measurement that Scion does not know, added from here: a row, a stage, a section of the card.

Nothing else knows it: it must appear in card, pictures, sealed release, summary and comparison.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import measured
from card_text import breakable
from conversion import Conversion
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.code_digest import module_files
from scion.artifacts.making import Output, remake
from scion.cli import main as cli
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.common.text import Record, share
from scion.config import Config
from scion.engines.config import PICO_LAUNCH
from scion.evaluation.intervals import proportion
from scion.evaluation.record_file import RecordFile
from scion.report.config import Card
from scion.report.measurements import MEASUREMENTS, CardPicture, MeasuredStage, picture_names
from scion.report.measurements import measured as is_measured
from scion.report.pictures.style import Picture, draw
from scion.report.summary import summary
from scion.stages.render_card import CardSettings, render_card
from scion.stages.seal_release import seal_release
from sealed import MADE_BY, converted

ENVIRONMENT = "sha256:tests"
TEMPLATES = Path(__file__).parents[2] / "workflow/templates"
RECORD = RecordFile("measure_rhymes", "rhymes.json")
SECTION = """\
### Rhymes
{% if measured is not none %}

{{ pictures.rhymes }}

{{ measured.rate }} of `{{ made_from.poems.file }}` rhyme.
{% else %}

Not measured: nobody asked for rhymes.
{% endif %}
"""


def measure_rhymes(
    *, release: Artifact, poems: Path, output: Output, environment: str, rhyming: int, seed: int
) -> Artifact:
    """A stage as others are; what it measures is told to it."""

    def build(draft: Draft) -> None:
        poets = [
            {"poet": "Ann", "seed": seed, "rate": proportion(rhyming, 50).record()},
            {"poet": "Bob", "seed": seed, "rate": proportion(20, 50).record()},
        ]
        write_json(draft.folder / RECORD.name, {"poets": poets if seed % 2 else poets[::-1]})

    return remake(
        output,
        stage=RECORD.stage,
        inputs={"release": release, "poems": poems},
        settings={},
        environment=environment,
        build=build,
    )


def rate_of(rhymes: Record, poet: str = "Ann") -> Record:
    return next(each["rate"] for each in rhymes["poets"] if each["poet"] == poet)


def rhymes_picture(rhymes: Record) -> Picture:
    words = f"Rhymes. {share(rate_of(rhymes))}"
    return draw("rhymes", "Rhymes", words, height=2.0, paint=lambda _figure: None)


ROW = MeasuredStage(
    RECORD,
    card=lambda rhymes: {"rate": share(rate_of(rhymes))},
    summary=lambda rhymes: [f"rhymes:      {share(rate_of(rhymes))}"],
    pictures=(CardPicture("rhymes", rhymes_picture),),
    scores=lambda rhymes: ("rhymes", [("lines of Bob", rate_of(rhymes, "Bob"))]),
    identities=(({"poet"}, "poems of {poet}"),),
    comparable={"seed": lambda _seed: "any"},
)
OPTIONAL = MeasuredStage(RECORD, card=ROW.card, summary=ROW.summary, switch="ifeval.enabled")


class Releases:
    """Makes releases of one checkpoint, with what was measured and with rhymes, or without."""

    def __init__(self, conversion: Conversion, folder: Path) -> None:
        self._conversion, self._folder = conversion, folder
        self._evidence = {
            **converted(conversion),
            **measured.artifacts(
                measured.results(), release=conversion.graft_mtp, folder=folder / "known"
            ),
        }
        self._section = folder / f"{RECORD.stage}.md.jinja"
        self._section.write_text(SECTION)
        self._poems = folder / "poems.txt"
        self._poems.write_text("A cat\nin a hat\n")

    def make(self, name: str, *, rhyming: int | None, seed: int = 1) -> Path:
        """The folder of a release's artifacts; without rhymes if none is told."""
        folder = self._folder / name
        evidence = dict(self._evidence)
        if rhyming is not None:
            evidence[RECORD.stage] = measure_rhymes(
                release=self._conversion.graft_mtp,
                poems=self._poems,
                output=Output.at(folder / RECORD.stage),
                environment=ENVIRONMENT,
                rhyming=rhyming,
                seed=seed,
            )
        card = render_card(
            release=self._conversion.graft_mtp,
            evidence=evidence,
            template=TEMPLATES / "card.md.jinja",
            sections=[*(TEMPLATES / "sections").iterdir(), self._section],
            tasks=measured.TASKS,
            settings=CardSettings(card=Card(), launches=(PICO_LAUNCH,)),
            made_by=MADE_BY,
            output=Output.at(folder / "render_card"),
            environment=ENVIRONMENT,
        )
        seal_release(
            release=self._conversion.graft_mtp,
            card=card,
            evidence=evidence,
            output=Output.at(folder / "seal_release"),
            environment=ENVIRONMENT,
        )
        return folder


@pytest.fixture(scope="module")
def releases(conversion: Conversion, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(conversion, tmp_path_factory.mktemp("rhymes"))


@pytest.fixture
def row() -> Iterator[MeasuredStage]:
    """The row, in the table while a test lasts."""
    MEASUREMENTS[RECORD.stage] = ROW
    yield ROW
    del MEASUREMENTS[RECORD.stage]


@pytest.fixture
def optional_row() -> Iterator[MeasuredStage]:
    """The same of a stage that a configuration can leave out."""
    MEASUREMENTS[RECORD.stage] = OPTIONAL
    yield OPTIONAL
    del MEASUREMENTS[RECORD.stage]


def scion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> str:
    """What `scion` prints, run in this process, whose table has the row."""
    monkeypatch.setattr(sys, "argv", ["scion", *map(str, arguments)])
    capsys.readouterr()
    assert cli.main() == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.usefixtures("row")
def test_the_record_stands_in_card_release_and_summary(
    releases: Releases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = releases.make("first", rhyming=30)
    rate = share(proportion(30, 50).record())
    card = breakable((folder / "release/README.md").read_text())
    shown = f"![Rhymes. {rate}](pictures/rhymes.svg)\n\n{rate} of `poems.txt` rhyme.\n\n"
    assert f"\n\n### Rhymes\n\n{shown}![Scores of tasks" in card
    assert f"rhymes: lines of Bob {share(proportion(20, 50).record())} of 50." in card
    assert "lines of Bob" in (folder / "release/pictures/scores.svg").read_text()
    steps = {line.split(" | ")[0].strip("| ") for line in card.splitlines() if "`sha256:" in line}
    assert RECORD.stage in steps

    sealed = Artifact.open(folder / "release")
    names = {"pictures/rhymes.svg", "provenance/measure_rhymes.json"}
    assert names | {"provenance/results/rhymes.json"} <= set(sealed.files)
    assert sealed.root in scion(monkeypatch, capsys, "check", folder / "release")
    assert f"rhymes:      {rate}" in summary(folder)


@pytest.mark.usefixtures("row")
def test_a_changed_number_is_compared_and_the_same_one_is_not(
    releases: Releases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = releases.make("a", rhyming=10), releases.make("b", rhyming=45, seed=2)
    report = json.loads(scion(monkeypatch, capsys, "compare", a, b, "--json"))
    (number,) = report["numbers"]
    assert (number["path"], number["verdict"]) == ("rhymes.json: poems of Ann: rate", "apart")
    # The seed is another one, and the poets stand in another order.
    assert report["values"] == report["only_in_a"] == report["only_in_b"] == []
    same = json.loads(scion(monkeypatch, capsys, "compare", a, a, "--json"))
    assert same["numbers"] == []
    assert same["counts"]["numbers"] == report["counts"]["numbers"]


@pytest.mark.usefixtures("optional_row")
def test_an_optional_measurement_can_be_left_out(releases: Releases) -> None:
    folder = releases.make("without", rhyming=None)
    card = breakable((folder / "release/README.md").read_text())
    assert "### Rhymes\n\nNot measured: nobody asked for rhymes.\n\n![Scores" in card
    assert "pictures/rhymes.svg" not in Artifact.open(folder / "release").files
    assert not any(line.startswith("rhymes:") for line in summary(folder))
    left_out = Config.model_validate({"ifeval": {"enabled": False}})
    assert is_measured(RECORD.stage, Config())
    assert not is_measured(RECORD.stage, left_out)


@pytest.mark.usefixtures("row")
def test_a_required_measurement_must_be_there(releases: Releases) -> None:
    assert picture_names(Config()) == ["acceptance", "speed", "quality", "rhymes", "scores"]
    with pytest.raises(ScionError, match=r"measure_rhymes(.|\n)*rhymes\.json"):
        releases.make("lacking", rhyming=None)


def test_what_is_not_in_the_table_is_not_in_the_card(releases: Releases) -> None:
    folder = releases.make("unknown", rhyming=30)
    assert "Rhymes" not in (folder / "release/README.md").read_text()
    assert not is_measured(RECORD.stage, Config())
    assert picture_names(Config()) == ["acceptance", "speed", "quality", "scores"]


@pytest.mark.parametrize("stage", MEASUREMENTS)
def test_no_stage_that_measures_depends_on_how_its_record_is_shown(stage: str) -> None:
    files = [str(path) for path in module_files(f"scion.stages.{stage}")]
    assert any(path.endswith(f"stages/{stage}.py") for path in files)
    assert not [path for path in files if "/scion/report/" in path]


@pytest.mark.parametrize("stage", MEASUREMENTS)
def test_each_row_has_its_section_and_captions(stage: str) -> None:
    row: Any = MEASUREMENTS[stage]
    assert row.record.stage == stage
    assert (TEMPLATES / f"sections/{stage}.md.jinja").is_file()
    captions = (TEMPLATES.parent / "report/pictures.rst").read_text()
    for picture in row.pictures:
        assert f'name == "{picture.name}" %}}' in captions
