"""JSON that strangers wrote, parsed in bounded memory and time.

A megabyte of `[],` becomes 350 000 lists, and a hundred of them end a small machine. So what a
text can become is counted before it is parsed: a value follows a comma, stands first in a list or
an object, or is the whole text, hence counting three bytes bounds their number. CPython 3.11 spends
at most 120 bytes on a value (an object of one key) and at most four on a character, and
`MAX_VALUES` and `MAX_TEXT_BYTES` together keep the peak below one gigabyte, whatever the text (the
worst of the tests' takes 0.4). Both are far above real files: a safetensors header of 280 000
tensors, a tokenizer.json of half a million merges.

Depth is bounded by Python's own recursion limit, the digits of a number by its limit on integers.
"""

import json
import math
from typing import Any

MAX_VALUES = 2_500_000
MAX_TEXT_BYTES = 1 << 28


def parse_json(raw: bytes, *, strict: bool = False) -> Any:
    """Parse a JSON text.

    Args:
        raw: The text in UTF-8.
        strict: Refuse what JSON leaves open or Python adds to it: keys that stand twice in one
            object, NaN and Infinity (which some config.json hold), numbers beyond a double.

    Raises:
        ValueError: It is not JSON, or is beyond the module's bounds.
    """
    most = raw.count(b",") + raw.count(b"[") + raw.count(b"{") + 1
    if most > MAX_VALUES:
        raise ValueError(f"up to {most} values, more than the {MAX_VALUES} that are read")
    width = 1 if raw.isascii() and b"\\u" not in raw else 4
    if len(raw) * width > MAX_TEXT_BYTES:
        raise ValueError(f"{len(raw)} bytes, more than the {MAX_TEXT_BYTES // width} that are read")
    text = raw.decode()
    # Where the caller keeps no reference either, the bytes need not outlast their characters.
    del raw
    try:
        if strict:
            return json.loads(
                text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite
            )
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key stands twice")
    return entries


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse("a number beyond all bounds")
