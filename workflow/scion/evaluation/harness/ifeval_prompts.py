"""Files of IFEval prompts, one JSON object a line; what is told of them without the harness."""

from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.common.jsonl import read_json_lines
from scion.evaluation.harness.config import Ifeval

_EXPECTED = (
    'JSON lines such as {"key": 1, "prompt": "…", "instruction_id_list": '
    '["punctuation:no_comma"], "kwargs": [{}]}, with kwargs for each instruction'
)


def read_ifeval_prompts(path: Path, ifeval: Ifeval) -> list[dict[str, Any]]:
    """The first `limit` prompts of a file in IFEval's form, or all.

    Raises:
        ScionError: The file can't be read, has fewer prompts, or a line is none.
    """
    rows = read_json_lines(path, _parse, refusal=_unusable, limit=ifeval.limit, name=ifeval.dataset)
    if len(rows) < (ifeval.limit or 1):
        expected = f"{ifeval.limit or 'at least 1'} prompts"
        raise _unusable(ifeval.dataset, f"{len(rows)} prompts", expected)
    keys = [row["key"] for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _unusable(ifeval.dataset, f"key {twice} {keys.count(twice)} times", "each key once")
    return rows


def _parse(row: dict[str, Any], _number: int) -> dict[str, Any]:
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
        raise ValueError("a value of another kind, or unequal numbers of instructions and kwargs")
    return {name: row[name] for name in ("key", "prompt", "instruction_id_list", "kwargs")}


def _unusable(where: object, fault: str, expected: str = _EXPECTED) -> ScionError:
    return ScionError(
        "the IFEval prompts can't be used",
        where=where,
        expected=expected,
        found=fault,
        hint="correct ifeval.dataset or ifeval.limit in the configuration",
    )
