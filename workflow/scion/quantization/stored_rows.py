"""Rows of a stored tensor, by its byte range: no header is parsed, and no more is read than asked.

With `safe_open` each opening parses the whole header, which in a mixture names thousands of
tensors; and an expert of a stack has a range, but no name in the file.
"""

import math

import torch

from scion.checkpoint.shards import Piece

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "U8": torch.uint8,
}


class StoredRows:
    """A tensor that is read in windows of rows.

    Args:
        piece: Where its bytes lie; of a dtype of `DTYPES`.

    Attributes:
        count: Its rows; 1 of a scalar.
    """

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self.count = piece.tensor.shape[0] if piece.tensor.shape else 1

    def read(self, rows: range) -> torch.Tensor:
        """Neighbouring rows, as they are stored."""
        inner = self._piece.tensor.shape[1:]
        dtype = DTYPES[self._piece.tensor.dtype]
        width = math.prod(inner) * dtype.itemsize
        raw = bytearray(len(rows) * width)
        with self._piece.path.open("rb", buffering=0) as file:
            file.seek(self._piece.offset + rows.start * width)
            left = memoryview(raw)
            while left:
                read = file.readinto(left)
                if not read:
                    raise EOFError(f"{self._piece.path} ended {len(left)} bytes early")
                left = left[read:]
        return torch.frombuffer(raw, dtype=dtype).view(len(rows), *inner)

    def whole(self) -> torch.Tensor:
        """All of it, in its own shape."""
        return self.read(range(self.count)).view(self._piece.tensor.shape)
