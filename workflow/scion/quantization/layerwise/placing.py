"""Rules over numbers that runs over layers and their estimates share, without torch."""

from typing import Literal

Place = Literal["device", "host", "disk"]
BF16_BYTES = 2
EXPERTS_AT_ONCE = 16
"""Experts that a GPU packs together: few take longer, more need memory."""


def choose(tokens: int, width: int, *, gpu_bytes: int | None, free_bytes: int) -> Place:
    """Where two sets of hidden states fit.

    Not more than an eighth of a GPU's memory, so that an 8 GB card has room for a layer of a 27B
    model beside them, and not more than half of the host memory that is free.

    Args:
        tokens: Of all samples together.
        width: The model's hidden size.
        gpu_bytes: All memory of the GPU that layers run on; None if they run on the CPU.
        free_bytes: Host memory that is free.
    """
    needed = 2 * tokens * width * BF16_BYTES
    if gpu_bytes is not None and needed <= gpu_bytes / 8:
        return "device"
    return "host" if needed <= free_bytes / 2 else "disk"
