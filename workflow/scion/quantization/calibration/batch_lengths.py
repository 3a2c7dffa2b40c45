"""Which samples share a forward pass, by their lengths alone; needs no torch."""

from collections.abc import Iterable


def pack_lengths(lengths: Iterable[int], max_tokens: int | None) -> list[list[int]]:
    """Put samples together, each into the first batch that has room for it.

    The result depends on nothing but the arguments. Samples of a batch stand in their order; a
    batch may hold a later sample than the batch after it.

    Args:
        lengths: Tokens of each sample.
        max_tokens: Most tokens of a batch. A sample that is longer has a batch to itself; None
            gives each sample one.

    Returns:
        For each batch the numbers of its samples, from 0.
    """
    batches: list[list[int]] = []
    room: list[int] = []
    for number, length in enumerate(lengths):
        place = next((n for n, left in enumerate(room) if left >= length), len(batches))
        if place == len(batches):
            batches.append([])
            room.append(max_tokens or 0)
        batches[place].append(number)
        room[place] -= length
    return batches
