"""Calibration samples: rows of a local JSONL file or of a hub data set, as token ids."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset  # pyright: ignore[reportUnknownVariableType]
from datasets.exceptions import DatasetsError
from jinja2 import TemplateError

from scion.config_conversion import Calibration
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
    except (OSError, ValueError, RecursionError, DatasetsError) as error:
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
    with path.open(encoding="utf-8") as file:
        lines = (line for line in file if line.strip())
        rows = [json.loads(line) for line in islice(lines, samples)]
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"a line that holds no JSON object: {str(row)[:80]}")
    return rows


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
        if not row.get("messages") and not row.get("text"):
            raise _unusable(where, "a column `messages` or `text`", sorted(row))
        try:
            ids = _token_ids(row, tokenizer)
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
            expected = "messages that the chat template takes, or text"
            raise _unusable(where, expected, f"{type(error).__name__}: {error}") from error
        if not ids:
            raise _unusable(where, "at least one token", "none")
        yield torch.tensor([ids[: calibration.max_tokens]])


def _token_ids(row: dict[str, Any], tokenizer: Any) -> list[int]:
    if not row.get("messages"):
        return tokenizer(row["text"])["input_ids"]
    messages = [_with_parsed_arguments(message) for message in row["messages"]]
    return tokenizer.apply_chat_template(
        messages, tools=row.get("tools") or None, tokenize=True, return_dict=False
    )


def _with_parsed_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose tool calls carry their arguments as templates want them, not as JSON text.

    The chat API and most data sets carry text; servers parse it before they render, too.
    """
    calls: list[dict[str, Any]] = []
    for call in message.get("tool_calls") or []:
        function = call["function"]
        if isinstance(function["arguments"], str):
            function = {**function, "arguments": json.loads(function["arguments"])}
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls} if calls else message


def _unusable(where: object, expected: object, found: object) -> ScionError:
    return ScionError(
        "the calibration set can't be used",
        where=where,
        expected=expected,
        found=found,
        hint="check quantization.calibration (dataset, subset, split, samples) in the config",
    )
