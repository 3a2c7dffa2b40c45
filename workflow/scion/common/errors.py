"""The one error that Scion raises for bad input, and how a command reports it."""

import sys
from collections.abc import Callable


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
        return (
            f"{self.problem}\n"
            f"  where:    {self.where}\n"
            f"  expected: {self.expected}\n"
            f"  found:    {self.found}\n"
            f"  hint:     {self.hint}"
        )


class NoRoomError(ScionError):
    """Disk or memory are too small: the same run can go on where there is more of it."""


class UnreachableError(ScionError):
    """Something beyond this machine did not answer as it should: what it holds is not known."""


def exit_on_error(command: Callable[[], int | None]) -> int:
    """Run `command`; print a `ScionError` to stderr and return 1 instead of a traceback."""
    try:
        return command() or 0
    except ScionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
