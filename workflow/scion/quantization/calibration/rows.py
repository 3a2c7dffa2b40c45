"""Rows of a calibration set, and what is said of one that can't be used."""

from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.common.jsonl import read_json_lines

READABLE = "a readable data set"
Rows = list[dict[str, Any]]
"""The rows of one set."""


def read_lines(path: Path, samples: int, *, name: str | None = None) -> Rows:
    """The first `samples` rows of a file of JSON lines, or all if it has fewer.

    Lines are parsed one by one: a table of all rows would unify the tools' schemas and put nulls
    into each, which the chat template would then print.

    Args:
        path: The file.
        samples: How many rows.
        name: What errors call the file, if not its path.

    Raises:
        ScionError: It can't be read, or a line is no JSON object.
    """
    return read_json_lines(
        path,
        lambda row, number: row,
        refusal=lambda where, found: unusable(where, READABLE, found),
        limit=samples,
        name=name,
    )


def unusable(where: object, expected: object, found: object) -> ScionError:
    """The error for a set, or a row of one, that can't be sampled."""
    return ScionError(
        "the calibration set can't be used",
        where=where,
        expected=expected,
        found=found,
        hint="check quantization.calibration.sets (dataset, subset, split, samples) in the config",
    )
