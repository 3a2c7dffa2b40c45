"""One pass over the data of a local checkpoint, for all rules that need it.

Every byte is read once, a chunk at a time, into buffers that stay. Twice as many threads as cores
take tensor after tensor, in the order in which they lie in the files: while one waits for the disk,
another computes. Memory does not grow with the checkpoint.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from scion.architectures.families import embedding_names
from scion.checkpoint.safetensors_file import Tensor
from scion.common.digest import in_parallel
from scion.common.errors import ScionError
from scion.common.progress import progress
from scion.formats.modelopt import BLOCK
from scion.lint.kernels import BLOCK_BYTES, FLOATS, VALUES, Blocks, Numbers, Raw, ZeroRows
from scion.lint.modules import GLOBAL_SCALES, HEAD, Module
from scion.lint.subject import Subject

CHUNK = 1 << 20
"""Bytes that a thread looks at together: as many as stay in the processor's cache."""
_PADDED = (*embedding_names(), HEAD)
_NVFP4_DTYPES = ("U8", "F8_E4M3")


@dataclass(frozen=True)
class Scan:
    """What the data shows.

    Attributes:
        numbers: By tensor: every one of floating-point numbers but those of `blocks`, and but
            scalar scales, whose values are read without `--deep`.
        blocks: By module: every NVFP4 weight whose block scales fit it.
    """

    numbers: Mapping[str, Numbers]
    blocks: Mapping[str, Blocks]


@lru_cache(maxsize=1)
def scan(subject: Subject) -> Scan:
    """Look at all tensor data of a subject, the first time that it is asked for.

    Raises:
        ScionError: It is not on this machine, or a file is cut short.
    """
    result, jobs = _plan(subject, _folder(subject))
    _run(sorted(jobs, key=lambda job: (job.ranges[0].path, job.ranges[0].offset)))
    return result


def means(subject: Subject, names: Iterable[str]) -> dict[str, float]:
    """The mean of each small tensor of 16 or 32 bits a number, by name; empty ones have none.

    Raises:
        ScionError: It is not on this machine.
    """
    _folder(subject)
    by_shard: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in (subject.tensors[name] for name in names):
        if tensor.dtype in VALUES and tensor.size:
            by_shard[subject.shard_of(tensor.name)].append(tensor)
    contents = subject.source.small(by_shard)
    return {
        name: float(VALUES[subject.tensors[name].dtype](np.frombuffer(raw, np.uint8)).mean())
        for name, raw in contents.items()
    }


def _folder(subject: Subject) -> Path:
    folder = subject.source.folder
    if folder is None:
        raise ScionError(
            "tensor data is read only from a checkpoint on this machine",
            where=subject.source.name,
            expected="a folder",
            found="a repository on a hub",
            hint="download it first, or leave out --deep",
        )
    return folder


@dataclass(frozen=True)
class _Range:
    """Where the bytes of a tensor lie, and how many of them are looked at together."""

    path: Path
    offset: int
    size: int
    chunk: int

    def chunks(self) -> Iterator[Raw]:
        """The bytes in order; each chunk is overwritten by the next."""
        buffer = np.empty(min(self.chunk, self.size), np.uint8)
        with self.path.open("rb", buffering=0) as file:
            for begin in range(0, self.size, self.chunk):
                filled = buffer[: self.size - begin]
                self._fill(file.fileno(), filled, self.offset + begin)
                yield filled

    def _fill(self, descriptor: int, buffer: Raw, offset: int) -> None:
        remaining = buffer.data
        while remaining:
            count = os.preadv(descriptor, [remaining], offset)
            if not count:
                raise ScionError(
                    "a file was cut short while it was read",
                    where=self.path,
                    expected=f"{self.offset + self.size} bytes at least",
                    found=f"{offset} bytes",
                    hint="run again when nothing writes to the checkpoint",
                )
            remaining, offset = remaining[count:], offset + count


@dataclass(frozen=True)
class _Job:
    """Ranges that are read side by side, and what takes a chunk of each."""

    take: Callable[..., None]
    ranges: tuple[_Range, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.ranges)

    def run(self, stop: threading.Event) -> None:
        for chunks in zip(*(part.chunks() for part in self.ranges), strict=True):
            if stop.is_set():
                return
            self.take(*chunks)


def _plan(subject: Subject, folder: Path) -> tuple[Scan, list[_Job]]:
    """What shall be found, empty as yet, and the jobs that fill it."""

    def place(tensor: Tensor, chunk: int) -> _Range:
        shard = subject.shard_of(tensor.name)
        offset = subject.headers[shard].data_start + tensor.begin
        return _Range(folder / shard, offset, tensor.size, chunk)

    pairs = {name: pair for name, module in subject.modules.items() if (pair := _pair(module))}
    paired = {tensor.name for pair in pairs.values() for tensor in pair}
    result = Scan(
        numbers={
            tensor.name: Numbers(FLOATS[tensor.dtype], _rows(subject, tensor, tensor.shape))
            for tensor in subject.tensors.values()
            if tensor.dtype in FLOATS and tensor.size and tensor.name not in paired
            if not _is_scalar_scale(tensor)
        },
        blocks={
            name: Blocks(_rows(subject, codes, scales.shape))
            for name, (codes, scales) in pairs.items()
        },
    )
    jobs = [
        _Job(target.take, (place(subject.tensors[name], CHUNK),))
        for name, target in result.numbers.items()
    ]
    for name, target in result.blocks.items():
        codes, scales = pairs[name]
        jobs.append(_Job(target.take, (place(codes, CHUNK), place(scales, CHUNK // BLOCK_BYTES))))
    return result, jobs


def _pair(module: Module) -> tuple[Tensor, Tensor] | None:
    """The NVFP4 codes of a module and their block scales, one for each 16 codes.

    None where there are no such tensors; where shapes or dtypes do not fit, rules that need no
    data say so.
    """
    codes, scales = module.weight, module.tensors.get("weight_scale")
    if codes is None or scales is None or not scales.size or not scales.shape:
        return None
    fits = module.shape == (*scales.shape[:-1], scales.shape[-1] * BLOCK)
    return (codes, scales) if fits and (codes.dtype, scales.dtype) == _NVFP4_DTYPES else None


def _rows(subject: Subject, tensor: Tensor, shape: Sequence[int]) -> ZeroRows | None:
    """What counts the zero rows of a linear weight, of units in `shape`; None for another tensor.

    Embeddings and heads have a row a token. Vocabularies are padded to a round number, and nobody
    trains the rows of tokens that do not exist: those are zero in sound checkpoints.
    """
    name = tensor.name.rpartition(".")[0]
    module = subject.modules.get(name)
    is_linear = module is not None and module.weight is tensor and not name.endswith(_PADDED)
    return ZeroRows(shape[-1]) if is_linear and len(shape) == 2 else None


def _is_scalar_scale(tensor: Tensor) -> bool:
    """Whether a rule that needs no scan judges this tensor's one value (`Subject.scalars`)."""
    suffix = tensor.name.rpartition(".")[2]
    return tensor.dtype == "F32" and tensor.size == 4 and suffix in ("weight_scale", *GLOBAL_SCALES)


def _run(jobs: Sequence[_Job]) -> None:
    """Run jobs on threads; an error or Ctrl-C stops all of them within a chunk."""
    stop = threading.Event()
    with progress("scan", sum(job.size for job in jobs), unit="B") as told:

        def run(job: _Job) -> None:
            job.run(stop)
            told.advance(amount=job.size)

        in_parallel(run, jobs, threads=2 * len(os.sched_getaffinity(0)), stop=stop)
