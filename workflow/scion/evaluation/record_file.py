"""Where a stage that measures leaves its record: known to the stage and to those that read it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RecordFile:
    """A record of what was measured.

    Attributes:
        stage: The stage that writes it.
        name: The JSON file in the stage's artifact; a sealed release has it in
            `provenance/results/`, so no two records share a name.
    """

    stage: str
    name: str
