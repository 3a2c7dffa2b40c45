"""Tensors compared with their originals while their files are hashed: none is read twice."""

from collections.abc import Iterator, Mapping
from itertools import chain

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
        end = offset + len(chunk)
        while waiting and waiting[-1].offset < end:
            passing = waiting[-1]
            begin = max(passing.offset + passing.done, offset)
            passing.take(chunk[begin - offset : passing.end - offset])
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
        self._original = original
        self._stream: Iterator[bytes] | None = None
        self._rest = b""

    def take(self, piece: bytes) -> None:
        """Compare the next bytes; after the first difference nothing is read any more."""
        self.done += len(piece)
        try:
            self._stream = self._stream or self._in_step(len(piece))
            place = 0
            while place < len(piece) and self.equal:
                self._rest = self._rest or next(self._stream, b"")
                size = min(len(piece) - place, len(self._rest))
                # An original that ends early is no original.
                self.equal = size > 0 and piece[place : place + size] == self._rest[:size]
                self._rest = self._rest[size:]
                place += size
        # Whatever can't be compared here is compared, and told of, when its verdict is asked for.
        except (ScionError, OSError, EOFError):
            self.equal = False

    def _in_step(self, first: int) -> Iterator[bytes]:
        """The original; a file's ends its chunks where those of the tensor end, if they are alike.

        Such chunks are compared as they are: parts of them would be copied, which takes as long as
        a hash. A hub would be asked once more.
        """
        size = self._original.tensor.size
        if self._original.source.folder is None:
            return self._original.stream(0, size)
        parts = ((0, first), (first, size - first))
        return chain.from_iterable(self._original.stream(*part) for part in parts)
