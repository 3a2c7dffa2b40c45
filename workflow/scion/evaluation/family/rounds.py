"""Which release of a family is served when, and what its decodes showed.

A machine's speed drifts: by a fifth within an hour where others share it. So the releases are not
timed one after the other, but in rounds, each of which serves all of them and takes a share of the
repeats; every second round goes backwards, so that a steady drift touches first and last alike.
"""

from collections.abc import Callable, Iterator, Sequence

from scion.engines.vllm.bench import Timing
from scion.evaluation.serving.speed import Wave

Timed = list[tuple[Wave, Timing]]
"""The timed decodes of a release."""


def turns(releases: int, repeats: int, rounds: int) -> Iterator[tuple[int, list[int]]]:
    """Whose turn it is, one after the other.

    Args:
        releases: How many there are.
        repeats: Timings of each decode, over all rounds.
        rounds: Times that each release is served; more than there are repeats count for nothing.

    Yields:
        The place of a release, and the repeats that it is timed with in this turn.
    """
    for number in range(min(rounds, repeats)):
        order = range(releases) if number % 2 == 0 else reversed(range(releases))
        for place in order:
            yield place, list(range(number, repeats, rounds))


def timed_rounds(
    releases: int,
    repeats: int,
    rounds: int,
    *,
    time_release: Callable[[int, Sequence[int]], Timed],
) -> list[Timed]:
    """All decodes of each release.

    Args:
        releases: How many there are.
        repeats: Timings of each decode.
        rounds: Times that each release is served.
        time_release: Serves the release of that place, and times these repeats.
    """
    timed: list[Timed] = [[] for _ in range(releases)]
    for place, own in turns(releases, repeats, rounds):
        timed[place] += time_release(place, own)
    return timed
