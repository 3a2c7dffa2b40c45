"""The pictures of a release, drawn from the result files alone."""

from collections.abc import Mapping

from scion.common.text import Record
from scion.report.pictures.scores import quality_picture, scores_picture
from scion.report.pictures.serving import acceptance_picture, speed_picture
from scion.report.pictures.style import Picture

NAMES = ("acceptance", "speed", "quality", "scores")


def pictures(results: Mapping[str, Record]) -> list[Picture]:
    """All pictures that the results allow.

    Args:
        results: The parsed result file by stage; `evaluate_ifeval` and `evaluate_bfcl` may lack.

    Returns:
        Those of `NAMES`, in that order; without speculation there is no acceptance.
    """
    serving = results["measure_serving"]
    drawn = [
        acceptance_picture(serving),
        speed_picture(serving),
        quality_picture(results["evaluate_quality"]),
        scores_picture(
            results["run_agent_tasks"],
            results.get("evaluate_ifeval"),
            results.get("evaluate_bfcl"),
        ),
    ]
    return [picture for picture in drawn if picture is not None]
