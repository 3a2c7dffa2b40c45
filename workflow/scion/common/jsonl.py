"""Files of JSON lines that strangers wrote: one object a line, in bounded memory."""

import itertools
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

from scion.common.bounded_json import parse_json
from scion.common.errors import ScionError
from scion.common.files import open_regular

MAX_LINE_BYTES = 1 << 26

Item = TypeVar("Item")
Refusal = Callable[[object, str], ScionError]


def read_json_lines(
    path: Path,
    parse: Callable[[dict[str, Any], int], Item],
    *,
    refusal: Refusal,
    limit: int | None = None,
    name: str | None = None,
) -> list[Item]:
    r"""Read the first `limit` objects of a file, or all if it has fewer; blank lines are skipped.

    A line ends at `\n`: other separators, such as U+2028, are characters that a JSON string may
    hold.

    Args:
        path: The file, in UTF-8.
        parse: Makes an item of an object and of its number among the objects, from 1; raises a
            ValueError, LookupError, TypeError or AttributeError where the object is none.
        refusal: Makes the error of a place, the file or a line of it, and of what stands there.
        limit: How many objects are read; what follows them is not looked at.
        name: What errors call the file, if not its path.

    Raises:
        ScionError: `refusal`'s, where the file can't be read, or a line is no object or no item.
    """
    where, items = name or str(path), list[Item]()
    try:
        for number, line in _filled_lines(path):
            if len(items) == limit:
                break
            try:
                items.append(parse(_parse_object(line), len(items) + 1))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                excerpt = line[:120].decode(errors="replace").strip()
                problem = f"{type(error).__name__}: {error} in {excerpt}"
                raise refusal(f"{where}, line {number}", problem) from error
    except OSError as error:
        raise refusal(where, str(error)) from error
    return items


def count_json_lines(path: Path, *, limit: int) -> int:
    """How many objects `read_json_lines` would read, of lines that are not looked into.

    Raises:
        OSError: The file can't be read.
    """
    return sum(1 for _ in itertools.islice(_filled_lines(path), limit))


def _filled_lines(path: Path) -> Generator[tuple[int, bytes]]:
    with open_regular(path) as file:
        # One byte more than is parsed: a line that has it is refused without reading its rest.
        lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
        yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _parse_object(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"more than the {MAX_LINE_BYTES} bytes of a line that are read")
    row = parse_json(line)
    if not isinstance(row, dict):
        raise TypeError(f"no JSON object, but a {type(row).__name__}")
    return row
