"""The device that a setting or an option names, and how it computes."""

import contextlib
from collections.abc import Generator
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

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


def one_thread(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Calibrate with one CPU thread: see `fixed_threads`."""
    return fixed_threads(device, 1)


@contextlib.contextmanager
def fixed_threads(device: torch.device, count: int) -> Generator[None]:
    """Compute with so many CPU threads: no library promises equal sums for any number of them."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _WideProducts(TorchFunctionMode):
    """Multiplies bf16 matrices as float32."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.linear and not kwargs:
            x, weight, *bias = args
            if x.dtype == weight.dtype == torch.bfloat16:
                wide = (each if each is None else each.float() for each in bias)
                return functional.linear(x.float(), weight.float(), *wide).to(torch.bfloat16)
        return func(*args, **(kwargs or {}))


def fast_products(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Multiply bf16 matrices fast, also on a CPU without AVX-512.

    There oneDNN multiplies bf16 a dozen times slower than float32, which holds the same numbers:
    products are exact in it, sums are rounded to bf16 once, as units for bf16 do.
    """
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        if able["architecture"] == "x86_64" and not able["avx512_f"]:
            return _WideProducts()
    return contextlib.nullcontext()
