"""The pictures of a release, drawn from the records alone."""

from collections.abc import Mapping

from scion.common.text import Record
from scion.report.measurements import MEASUREMENTS
from scion.report.pictures.scores import scores_picture
from scion.report.pictures.style import Picture


def pictures(records: Mapping[str, Record]) -> list[Picture]:
    """All pictures that the records allow, in the order of `picture_names`.

    Args:
        records: The parsed record by stage; those of optional stages may lack.

    Returns:
        Without speculation there is no acceptance among them.
    """
    rows = [(row, records[stage]) for stage, row in MEASUREMENTS.items() if stage in records]
    drawn = [picture.draw(record) for row, record in rows for picture in row.pictures]
    groups = [row.scores(record) for row, record in rows if row.scores is not None]
    return [picture for picture in (*drawn, scores_picture(groups)) if picture is not None]
