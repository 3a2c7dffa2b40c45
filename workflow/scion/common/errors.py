"""The one error that Scion raises for bad input, and how a command reports it."""

import sys
from collections.abc import Callable

from scion.common.text import printable

# Under which further lines of what was found stand.
_INDENT = "\n" + " " * 12


class ScionError(Exception):
    """Input that Scion can't use, told so that the reader can act on it.

    Args:
        problem: One sentence: what is wrong.
        where: The file, tensor, key or address at fault.
        expected: What would have been right.
        found: What was there instead.
        hint: What to do next; a command where there is one.
    """

    def __init__(
        self, problem: str, *, where: object, expected: object, found: object, hint: str
    ) -> None:
        self.problem = problem
        self.where = str(where)
        self.expected = str(expected)
        self.found = str(found)
        self.hint = hint
        super().__init__(problem)

    def __str__(self) -> str:
        """The message in lines; names of strangers in it can neither steer a terminal nor a CI."""
        return (
            f"{_lines(self.problem)}\n"
            f"  where:    {_lines(self.where)}\n"
            f"  expected: {_lines(self.expected)}\n"
            f"  found:    {_lines(self.found)}\n"
            f"  hint:     {_lines(self.hint)}"
        )


def _lines(text: str) -> str:
    # Parsers tell their errors in several lines.
    return _INDENT.join(map(printable, text.split("\n")))


def of_system(error: OSError, *, where: object = None) -> ScionError:
    """What the system says of a file, told as a `ScionError`; `where` if it names no file."""
    return ScionError(
        "permission denied"
        if isinstance(error, PermissionError)
        else "a file can't be read or written",
        where=where if error.filename is None else error.filename,
        expected="a path that this user may use, of the right kind, with room behind it",
        found=error.strerror or error,
        hint="check the path, its owner and mode (ls -la), and the disk",
    )


class NoRoomError(ScionError):
    """Disk or memory are too small: the same run can go on where there is more of it."""


def exit_on_error(command: Callable[[], int | None]) -> int:
    """Run `command`; print what went wrong to stderr and return 1 instead of a traceback."""
    try:
        return command() or 0
    except BrokenPipeError:
        raise
    except ScionError as error:
        told = error
    except OSError as error:
        told = of_system(error, where="the system")
    print(f"error: {told}", file=sys.stderr)
    return 1
