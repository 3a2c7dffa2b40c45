"""An option of a server beside the reason why a launch has it."""

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """One or more options of a server that belong together, and what they are for.

    Attributes:
        arguments: As a program takes them.
        reason: Why a launch has them.
    """

    arguments: tuple[str, ...]
    reason: str

    @property
    def text(self) -> str:
        """As one types them in a shell."""
        return shlex.join(self.arguments)
