"""The device that a setting or an option names, and how many threads it computes with."""

import contextlib
from collections.abc import Generator

import torch

from scion.common.errors import ScionError


def device_named(name: str, *, where: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means.

    Args:
        name: One of these; `auto` takes a GPU if there is one.
        where: What named it, for the error.

    Raises:
        ScionError: A GPU is asked for, and torch sees none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ScionError(
            "there is no GPU to run on",
            where=where,
            expected="a CUDA device that torch sees",
            found=f"torch {torch.__version__}, torch.cuda.is_available() is False",
            hint="say cpu or auto instead, or see whether nvidia-smi lists the GPU",
        )
    if name == "auto":
        name = "cuda" if available else "cpu"
    return torch.device(name)


@contextlib.contextmanager
def one_thread(device: torch.device) -> Generator[None]:
    """Calibrate with one CPU thread: no library promises equal sums for any number of them."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
