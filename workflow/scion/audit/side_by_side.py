"""Tensors compared with their originals while their files are hashed: none is read twice."""

from collections.abc import Mapping

from scion.audit.weights import Extent
from scion.common.errors import ScionError


class SideBySide:
    """Compares what passes with the originals of the tensors in it.

    Args:
        pairs: By name a tensor of a release and its original, of one form each.

    Attributes:
        equal: The names of the tensors that have passed and are their originals, bit for bit.
    """

    def __init__(self, pairs: Mapping[str, tuple[Extent, Extent]]) -> None:
        self.equal: list[str] = []
        # The next of a file last.
        self._of_file: dict[str, list[_Passing]] = {}
        for name, (tensor, original) in pairs.items():
            self._of_file.setdefault(tensor.file, []).append(_Passing(name, tensor, original))
        for passing in self._of_file.values():
            passing.sort(key=lambda each: -each.offset)

    def take(self, file: str, offset: int, chunk: bytes) -> None:
        """Compare the next bytes of a file; those of one file come in order, by one thread.

        Args:
            file: Its name.
            offset: Where the bytes stand in it.
            chunk: They.
        """
        waiting = self._of_file.get(file)
        view, end = memoryview(chunk), offset + len(chunk)
        while waiting and waiting[-1].offset < end:
            passing = waiting[-1]
            begin = max(passing.offset + passing.done, offset)
            passing.take(view[begin - offset : passing.end - offset])
            if passing.end > end:
                return
            waiting.pop()
            if passing.equal:
                self.equal.append(passing.name)


class _Passing:
    """A tensor of which some bytes have passed."""

    def __init__(self, name: str, tensor: Extent, original: Extent) -> None:
        self.name = name
        self.offset, self.end = tensor.offset, tensor.offset + tensor.tensor.size
        self.done = 0
        self.equal = True
        self._original = original.stream(0, original.tensor.size)
        self._rest = memoryview(b"")

    def take(self, piece: memoryview) -> None:
        """Compare the next bytes; after the first difference nothing is read any more."""
        self.done += len(piece)
        try:
            while piece and self.equal:
                self._rest = self._rest or memoryview(next(self._original, b""))
                size = min(len(piece), len(self._rest))
                # An original that ends early is no original.
                # As bytes: memoryviews are compared one number at a time.
                self.equal = size > 0 and bytes(piece[:size]) == bytes(self._rest[:size])
                piece, self._rest = piece[size:], self._rest[size:]
        # Whatever can't be compared here is compared, and told of, when its verdict is asked for.
        except (ScionError, OSError, EOFError):
            self.equal = False
