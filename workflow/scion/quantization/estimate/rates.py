"""How fast a machine reads, writes and calculates: measured in a second, or as published."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.engines.gpus import Gpu

_WINDOW = 8 << 20
_WINDOWS = 8
# What trying a scale costs a weight at least: scaling, rounding, error, its square, the sum.
_CANDIDATE_OPERATIONS = 10


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second.

    Attributes:
        read: Bytes read from disk (or from memory, if they are in the page cache).
        write: Bytes written to disk.
        hash: Bytes hashed, on all cores.
        bf16: Operations of bf16 products of matrices.
        float32: Operations of float32 products of matrices.
        candidates: Weights times the scales that are tried on them.
        source: Where the rates are from.
    """

    read: float
    write: float
    hash: float
    bf16: float
    float32: float
    candidates: float
    source: str


@dataclass(frozen=True)
class DiskRates:
    """Bytes a second of reading, writing, and hashing on all cores."""

    read: float
    write: float
    hash: float


def disk_rates(folder: Path, shards: Sequence[Path] = ()) -> DiskRates:
    """Measure a disk in about half a second.

    Args:
        folder: Where to write and remove a file of 64 MiB; it exists.
        shards: Files of the source, of which eight windows are read as they lie, so that what is in
            the page cache counts as fast as it is. Without any, the written file is read back.
    """
    block = os.urandom(_WINDOW)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe.") as file:

        def write() -> None:
            for _ in range(_WINDOWS):
                file.write(block)
            file.flush()
            os.fdatasync(file.fileno())

        written = _seconds(write)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size, seconds = _read(shards or [Path(file.name)])
    cores = len(os.sched_getaffinity(0))
    hashing = _seconds(lambda: hashlib.sha256(block).digest())
    return DiskRates(size / seconds, _WINDOW * _WINDOWS / written, cores * _WINDOW / hashing)


def _read(paths: Sequence[Path]) -> tuple[int, float]:
    """Bytes and seconds of windows that are spread over some files."""
    size, begin = 0, time.perf_counter()
    for number in range(_WINDOWS):
        path = paths[number * len(paths) // _WINDOWS]
        with path.open("rb", buffering=0) as file:
            offset = path.stat().st_size * number // _WINDOWS
            size += len(os.pread(file.fileno(), _WINDOW, offset))
    return max(size, 1), time.perf_counter() - begin


def published(gpu: Gpu, disk: DiskRates) -> Rates | None:
    """Rates of a GPU of which nobody is here to measure; None if none are known of it."""
    if gpu.bf16_tflops is None or gpu.float32_tflops is None:
        return None
    return Rates(
        read=disk.read,
        write=disk.write,
        hash=disk.hash,
        bf16=gpu.bf16_tflops * 1e12,
        float32=gpu.float32_tflops * 1e12,
        candidates=gpu.float32_tflops * 1e12 / _CANDIDATE_OPERATIONS,
        source=f"peaks of {gpu.title} as published, which no real run reaches; this machine's disk",
    )


def measured(device: str, disk: DiskRates) -> Rates:
    """Measure products of matrices on `cpu`, on one thread as calibration runs, or on `cuda`."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        size = 8192 if device == "cuda" else 1024
        bf16 = _products(torch, device, torch.bfloat16, size)
        float32 = _products(torch, device, torch.float32, size // 2)
        candidates = float32 / _CANDIDATE_OPERATIONS if device == "cuda" else _trying(torch)
    finally:
        torch.set_num_threads(before)
    return Rates(
        read=disk.read,
        write=disk.write,
        hash=disk.hash,
        bf16=bf16,
        float32=float32,
        candidates=candidates,
        source="measured here",
    )


def _products(torch: Any, device: str, dtype: Any, size: int) -> float:
    """Operations a second of the better of some products of two square matrices."""
    left = torch.ones(size, size, dtype=dtype, device=device)

    def product() -> None:
        torch.mm(left, left)
        if device == "cuda":
            torch.cuda.synchronize()

    product()
    return 2 * size**3 / min(_seconds(product) for _ in range(3))


def _trying(torch: Any) -> float:
    """Weights a second on which a scale is tried in torch, as on a CPU."""
    from scion.quantization.layerwise.torch_kernels import fake_quantize_static

    blocks = 1 << 12
    values, scales = torch.ones(16 * blocks), torch.ones(blocks)
    seconds = min(_seconds(lambda: fake_quantize_static(values, scales)) for _ in range(3))
    return 16 * blocks / seconds


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return max(time.perf_counter() - begin, 1e-9)
