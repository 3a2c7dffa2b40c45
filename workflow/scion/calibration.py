"""Calibration samples: rows of a local JSONL file or of a hub data set, as token ids."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset  # pyright: ignore[reportUnknownVariableType]

from scion.config import Calibration
from scion.errors import ScionError
from scion.location import HubRepository, parse_location


def read_rows(calibration: Calibration) -> list[dict[str, Any]]:
    """The first `samples` rows of the calibration set.

    Local files are read as lines and parsed one by one: a table of all rows would unify the tools'
    schemas and put nulls into each, which the chat template would then print.

    Raises:
        ScionError: The set is missing, unreadable, empty, or has fewer rows than asked for.
    """
    location = parse_location(calibration.dataset)
    where = calibration.dataset
    try:
        if isinstance(location, HubRepository):
            rows = _hub_rows(location, calibration)
        else:
            rows = _local_rows(Path(calibration.dataset), calibration.samples)
    except (OSError, ValueError) as error:
        raise _unusable(where, "a readable data set", error) from error
    if len(rows) < calibration.samples:
        raise _unusable(where, f"{calibration.samples} rows", f"{len(rows)} rows")
    return rows


def _hub_rows(location: HubRepository, calibration: Calibration) -> list[dict[str, Any]]:
    rows: Any = load_dataset(
        location.name,
        calibration.subset,
        split=f"{calibration.split}[:{calibration.samples}]",
        revision=location.require_pinned(),
    )
    return [dict(row) for row in rows]


def _local_rows(path: Path, samples: int) -> list[dict[str, Any]]:
    # One string a line: `datasets` keeps the text as it is.
    lines: Any = load_dataset("text", data_files=str(path), split=f"train[:{samples}]")
    return [json.loads(line["text"]) for line in lines]


def tokenize(
    rows: list[dict[str, Any]], tokenizer: Any, calibration: Calibration
) -> Iterator[torch.Tensor]:
    """Token ids of each row, int64 [1, tokens], with at most `max_tokens` tokens.

    A row with `messages` (and `tools`) goes through the chat template, one with `text` is taken as
    it is.

    Raises:
        ScionError: A row has neither column, or gives no token.
    """
    for number, row in enumerate(rows, start=1):
        where = f"{calibration.dataset}: row {number}"
        if row.get("messages"):
            ids = tokenizer.apply_chat_template(
                row["messages"], tools=row.get("tools"), tokenize=True, return_dict=False
            )
        elif row.get("text"):
            ids = tokenizer(row["text"])["input_ids"]
        else:
            raise _unusable(where, "a column `messages` or `text`", sorted(row))
        if not ids:
            raise _unusable(where, "at least one token", "none")
        yield torch.tensor([ids[: calibration.max_tokens]])


def _unusable(where: object, expected: object, found: object) -> ScionError:
    return ScionError(
        "the calibration set can't be used",
        where=where,
        expected=expected,
        found=found,
        hint="check quantization.calibration (dataset, subset, split, samples) in the config",
    )
