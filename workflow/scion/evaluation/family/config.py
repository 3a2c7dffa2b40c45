"""Configuration of compare_family."""

from pydantic import Field

from scion.common.section import Section
from scion.engines.config import Launch
from scion.evaluation.record_file import RecordFile

RECORD = RecordFile("compare_family", "family.json")


class ReleaseFamily(Section):
    """The releases of one configuration, which are made and compared in one run."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        max_length=96,
        description="name of the folder below results/ that holds the comparison",
    )
    title: str = Field(description="what the family is called in tables and pictures")
    baseline: str = Field(description="release that the speed of the others is a multiple of")
    rounds: int = Field(
        default=2,
        ge=1,
        le=100,
        description="times that each release is served and timed, in turn; each time takes its "
        "share of measurement.repeats",
    )


class FamilyMember(Section):
    """A release as the comparison sees it.

    Attributes:
        name: As the configuration calls it.
        repository: Where it is published.
        launch: How it is served.
    """

    name: str
    repository: str
    launch: Launch
