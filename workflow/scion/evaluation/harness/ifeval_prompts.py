"""Files of IFEval prompts, one JSON object a line; what is told of them without the harness."""

import json
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.evaluation.harness.config import Ifeval


def read_ifeval_prompts(path: Path, ifeval: Ifeval) -> list[dict[str, Any]]:
    """The first `limit` prompts of a file in IFEval's form, or all.

    Raises:
        ScionError: The file can't be read, has fewer prompts, or a line is none.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(ifeval.dataset, "a readable JSONL file", error) from error
    if len(lines) < (ifeval.limit or 1):
        expected = f"{ifeval.limit or 'at least 1'} prompts"
        raise _unusable(ifeval.dataset, expected, f"{len(lines)} prompts")
    rows = [
        _parse(line, f"{ifeval.dataset}, line {at}")
        for at, line in enumerate(lines[: ifeval.limit], 1)
    ]
    keys = [row["key"] for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _unusable(ifeval.dataset, "each key once", f"key {twice} {keys.count(twice)} times")
    return rows


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        names, kwargs = row["instruction_id_list"], row["kwargs"]
        good = (
            isinstance(row["key"], int)
            and isinstance(row["prompt"], str)
            and bool(row["prompt"].strip())
            and isinstance(names, list)
            and isinstance(kwargs, list)
            and len(names) == len(kwargs) > 0
            and all(isinstance(name, str) for name in names)
            and all(isinstance(values, dict) for values in kwargs)
        )
        if not good:
            raise ValueError(
                "a value of another kind, or unequal numbers of instructions and kwargs"
            )
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _unusable(
            where,
            '{"key": 1, "prompt": "…", "instruction_id_list": ["punctuation:no_comma"], '
            '"kwargs": [{}]}, with kwargs for each instruction',
            f"{type(error).__name__}: {error} in {line[:120]}",
        ) from error
    return {name: row[name] for name in ("key", "prompt", "instruction_id_list", "kwargs")}


def _unusable(where: object, expected: str, fault: object) -> ScionError:
    return ScionError(
        "the IFEval prompts can't be used",
        where=where,
        expected=expected,
        found=fault,
        hint="correct ifeval.dataset or ifeval.limit in the configuration",
    )
