"""Which timed decode of a server stands for it, where one is quoted or compared.

It is a module of its own for the card, whose code is none of servers and benchmarks.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def longest_decode(speed: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The longest decode, of those with the fewest requests at once.

    Args:
        speed: The decodes of one server, as `serving.json` has them.
    """
    return min(speed, key=lambda decode: (decode["parallel"], -decode["tokens"]))
