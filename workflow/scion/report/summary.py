"""What a finished run made, in a few lines for the terminal."""

from pathlib import Path

from scion.artifacts.artifact import Artifact
from scion.artifacts.release_layout import RESULTS
from scion.checkpoint.shards import read_json
from scion.report.measurements import MEASUREMENTS


def summary(results: Path) -> list[str]:
    """Lines that name the release folder and its digests, and tell what was measured.

    A number's 95 % interval stands in brackets behind it.

    Args:
        results: The folder of a release's artifacts, such as `results/<release>`.

    Raises:
        ScionError: The release is not finished.
    """
    release = Artifact.open(results / "release")
    lines = [
        f"release:     {release.folder}",
        f"root:        {release.root}",
        f"weights:     {release.facts['weights']}",
    ]
    for row in MEASUREMENTS.values():
        # Out of the release: what another configuration left beside it is old.
        name = f"{RESULTS}/{row.record.name}"
        if name in release.files:
            lines += row.summary(read_json(release.folder / name))
    return lines
