"""What is measured of a release: a row for each stage that measures.

The card, its pictures, the summary, the comparison of releases and the workflow's rules go through
`MEASUREMENTS`. A stage that measures imports none of this, so that its artifact does not depend on
how the card shows it. What a measurement needs beside its row: the stage, its rule, a section of
the card in `workflow/templates/sections/<stage>.md.jinja`, and for each picture a caption in
`workflow/report/pictures.rst`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from scion.artifacts.artifact import Artifact
from scion.checkpoint.shards import read_json
from scion.common.errors import ScionError
from scion.common.text import Record
from scion.evaluation.agent import config as agent
from scion.evaluation.family import config as family
from scion.evaluation.harness import config as harness
from scion.evaluation.images import config as images
from scion.evaluation.quality import config as quality
from scion.evaluation.record_file import RecordFile
from scion.evaluation.serving import config as serving
from scion.evaluation.verdict import records as verdict
from scion.report import summary_lines as lines
from scion.report.card import scores as tables
from scion.report.card.scores import ScoreGroup
from scion.report.card.serving import serving_values
from scion.report.comparison.comparable import answer_of, asked_of
from scion.report.family import family_brief, family_lines, family_values
from scion.report.verdict import verdict_brief, verdict_lines, verdict_values

if TYPE_CHECKING:
    from scion.report.pictures.style import Picture

# Keys that identify the items of a list, and how people read them.
Identity = tuple[set[str], str]

# The picture of all rows with `scores`.
_SCORES = "scores"


@dataclass(frozen=True)
class CardPicture:
    """A picture of the card.

    Attributes:
        name: Of its file, of its caption, and as the card's template calls it.
        draw: Draws the stage's record; None if that has nothing to show.
        switch: Dotted key of the configuration without which there is no such picture: false, or a
            list of zeros.
    """

    name: str
    draw: "Callable[[Record], Picture | None]"
    switch: str | None = None


@dataclass(frozen=True)
class MeasuredStage:
    """A stage that measures a release, and what becomes of its record.

    Attributes:
        record: The stage's name, and its record's.
        card: What the card's section may quote of the record, as `measured`.
        summary: Lines of `scion summary`.
        brief: The result in a few words, for the stage's line in a run; None leaves it out.
        switch: Dotted key of the configuration that leaves the stage out where it is false; None
            for a stage that every release needs.
        pictures: Of the card; the section shows them.
        scores: The record's rates in the one picture of all scores.
        identities: What identifies the items of the record's lists, in any record; the first whose
            keys all items of a list have.
        comparable: By key, what of a value can be the same in two runs, in any record.
    """

    record: RecordFile
    card: Callable[[Record], Mapping[str, Any]]
    summary: Callable[[Record], list[str]]
    brief: Callable[[Record], str] | None = None
    switch: str | None = None
    pictures: tuple[CardPicture, ...] = ()
    scores: Callable[[Record], ScoreGroup] | None = None
    identities: tuple[Identity, ...] = ()
    comparable: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)


# matplotlib takes a second to import, which those who draw nothing need not wait.
def _acceptance(record: Record) -> "Picture | None":
    from scion.report.pictures.serving import acceptance_picture

    return acceptance_picture(record)


def _speed(record: Record) -> "Picture":
    from scion.report.pictures.serving import speed_picture

    return speed_picture(record)


def _family(record: Record) -> "Picture":
    from scion.report.pictures.family import family_picture

    return family_picture(record)


def _verdict(record: Record) -> "Picture":
    from scion.report.pictures.verdict import verdict_picture

    return verdict_picture(record)


def _quality(record: Record) -> "Picture":
    from scion.report.pictures.scores import quality_picture

    return quality_picture(record)


_ROWS = (
    MeasuredStage(
        agent.RECORD,
        card=tables.tasks_values,
        summary=lines.agent_task_lines,
        brief=lines.agent_task_brief,
        scores=tables.tasks_scores,
        comparable={"response": answer_of},
    ),
    MeasuredStage(
        serving.RECORD,
        card=serving_values,
        summary=lines.serving_lines,
        brief=lines.serving_brief,
        pictures=(
            # Without speculation there is no acceptance to show.
            CardPicture("acceptance", _acceptance, switch="measurement.speculative_tokens"),
            CardPicture("speed", _speed),
        ),
        identities=(
            ({"launch", "speculative_tokens"}, "{launch} n={speculative_tokens}"),
            ({"tokens", "parallel"}, "{tokens} tokens, {parallel} parallel"),
            ({"set", "thinking"}, "{set}, {thinking}"),
            ({"prompt", "length"}, "{prompt}, up to {length} tokens"),
            ({"speculative_tokens", "tokens_per_second"}, "n={speculative_tokens}, predicted"),
            ({"speculative_tokens", "step_ms"}, "n={speculative_tokens}, as measured"),
        ),
        comparable={"replies": asked_of},
    ),
    MeasuredStage(
        quality.RECORD,
        card=tables.quality_values,
        summary=lines.quality_lines,
        brief=lines.quality_brief,
        pictures=(CardPicture("quality", _quality),),
    ),
    MeasuredStage(
        harness.IFEVAL_RECORD,
        card=tables.ifeval_values,
        summary=lines.ifeval_lines,
        brief=lines.ifeval_brief,
        switch="ifeval.enabled",
        scores=tables.ifeval_scores,
    ),
    MeasuredStage(
        harness.BFCL_RECORD,
        card=tables.bfcl_values,
        summary=lines.bfcl_lines,
        brief=lines.bfcl_brief,
        switch="bfcl.enabled",
        scores=tables.bfcl_scores,
    ),
    MeasuredStage(
        images.RECORD,
        card=tables.images_values,
        summary=lines.images_lines,
        brief=lines.images_brief,
        switch="images.enabled",
        scores=tables.images_scores,
        comparable={"response": answer_of},
    ),
    MeasuredStage(
        family.RECORD,
        card=family_values,
        summary=family_lines,
        brief=family_brief,
        switch="family",
        pictures=(CardPicture("family", _family),),
        identities=(({"release"}, "{release}"),),
    ),
    # The last that is told of a run.
    MeasuredStage(
        verdict.RECORD,
        card=verdict_values,
        summary=verdict_lines,
        brief=verdict_brief,
        switch="verdict.enabled",
        pictures=(CardPicture("verdict", _verdict),),
        identities=(({"criterion"}, "{criterion}"),),
    ),
)
MEASUREMENTS: dict[str, MeasuredStage] = {row.record.stage: row for row in _ROWS}
"""The rows by stage, in the order in which card and summary tell of them."""


def measured(stage: str, config: object) -> bool:
    """Whether a stage is one that measures, and the configuration does not leave it out."""
    row = MEASUREMENTS.get(stage)
    return row is not None and _switched_on(row.switch, config)


def picture_names(config: object) -> list[str]:
    """The pictures that the card of such a configuration has, in its order."""
    names = [
        picture.name
        for stage, row in MEASUREMENTS.items()
        if measured(stage, config)
        for picture in row.pictures
        if _switched_on(picture.switch, config)
    ]
    return [*names, _SCORES]


def _switched_on(switch: str | None, config: object) -> bool:
    if switch is None:
        return True
    value = attrgetter(switch)(config)
    return any(value) if isinstance(value, tuple) else bool(value)


def read_records(evidence: Mapping[str, Artifact]) -> dict[str, Record]:
    """The parsed record of each stage that measured.

    Args:
        evidence: Artifacts by stage.

    Raises:
        ScionError: A stage that every release needs is missing, or its record can't be read.
    """
    for stage, row in MEASUREMENTS.items():
        if stage not in evidence and row.switch is None:
            raise ScionError(
                "the card lacks a measurement",
                where=stage,
                expected=f"its artifact with {row.record.name}",
                found=", ".join(evidence),
                hint="name its manifest with --evidence, as rules/card.smk does",
            )
    return {
        stage: read_json(evidence[stage].folder / row.record.name)
        for stage, row in MEASUREMENTS.items()
        if stage in evidence
    }
