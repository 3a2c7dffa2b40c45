"""Whether tensors have the same bytes as their originals, wherever either lies."""

from collections.abc import Iterator, Mapping

from scion.audit.weights import Extent
from scion.common.digest import in_parallel
from scion.common.progress import Progress, progress

Pairs = Mapping[str, tuple[Extent, Extent]]
"""By name a tensor and its original."""

# What a thread compares at a time: the embeddings of a large model are a third of all that stays.
_PART = 64 << 20


def unequal(pairs: Pairs, *, what: str) -> dict[str, str]:
    """In words what differs, by name of the tensors that are not their originals bit for bit.

    Args:
        pairs: The tensors.
        what: What progress calls them.
    """
    found = {
        name: f"{_form(tensor)}, where the original is {_form(original)}"
        for name, (tensor, original) in pairs.items()
        if tensor.form != original.form
    }
    parts = [
        (name, begin, min(_PART, tensor.tensor.size - begin))
        for name, (tensor, original) in pairs.items()
        if name not in found and tensor.same_as is not original
        for begin in range(0, tensor.tensor.size, _PART)
    ]
    # The largest first, so that none is left to a single thread at the end.
    parts.sort(key=lambda part: -part[2])
    with progress(what, sum(size for _, _, size in parts), unit="B") as told:

        def compare(part: tuple[str, int, int]) -> int | None:
            name, begin, size = part
            tensor, original = pairs[name]
            return _first_difference(tensor, original, begin, size, told)

        places = in_parallel(compare, parts)
    for (name, begin, _), place in zip(parts, places, strict=True):
        if place is not None:
            first = min(begin + place, _place(found.get(name)))
            found[name] = f"another byte at {first}"
    return found


def _place(told: str | None) -> float:
    return float("inf") if told is None else float(told.rpartition(" ")[2])


def _form(extent: Extent) -> str:
    dtype, shape = extent.form
    return f"{dtype} {list(shape)}"


def _first_difference(
    tensor: Extent, original: Extent, begin: int, size: int, told: Progress
) -> int | None:
    """The offset of the first byte of a range that differs; None where all are the same."""
    done = 0
    for mine, theirs in aligned(tensor.stream(begin, size), original.stream(begin, size)):
        # As bytes: memoryviews are compared one number at a time.
        if bytes(mine) != bytes(theirs):
            return done + next(
                i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b
            )
        done += len(mine)
        told.advance(amount=len(mine))
    return None


def aligned(
    first: Iterator[bytes], second: Iterator[bytes]
) -> Iterator[tuple[bytes | memoryview, bytes | memoryview]]:
    """Two streams of the same bytes in pieces of the same lengths; a hub's come as they come."""
    a: bytes | memoryview = b""
    b: bytes | memoryview = b""
    while True:
        a, b = a or next(first, b""), b or next(second, b"")
        if not a or not b:
            return
        if len(a) == len(b):
            yield a, b
            a, b = b"", b""
            continue
        size = min(len(a), len(b))
        yield memoryview(a)[:size], memoryview(b)[:size]
        a, b = memoryview(a)[size:], memoryview(b)[size:]
