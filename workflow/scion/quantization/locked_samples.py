"""What was calibrated with, held to the locks of the configuration.

Samples of a data set of the hub are held when they are read
(`scion.quantization.calibration.hub_rows`); an artifact that the store has was made of what was
read then, and says so in its facts.
"""

from collections.abc import Sequence
from pathlib import Path

from scion.artifacts.artifact import Artifact
from scion.quantization.config import CALIBRATION_FILES


def require_locked_samples(artifact: Artifact, locks: Sequence[Path]) -> None:
    """Refuse an artifact whose samples came from other files of the hub than the locks name.

    Args:
        artifact: Of a stage that calibrates.
        locks: Files of locks; none: nothing is refused.

    Raises:
        ScionError: Names the file that differs, or a data set that no lock has.
    """
    read = artifact.facts.get(CALIBRATION_FILES)
    if read and locks:
        # Here, because the hub's client takes half a second to import, and local files need none.
        from scion.checkpoint.hub.lock_check import require_read

        require_read(read, locks)
