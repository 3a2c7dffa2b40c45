"""Before a run over layers its estimate, after it what it used: lines on stderr, for the log.

Nothing of it goes into an artifact, whose digests must not depend on a machine's speed. Nor does
`scion.artifacts.code_digest` count this module to a stage's code: another wording makes no release
anew.
"""

import contextlib
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from scion.checkpoint.shards import Checkpoint
from scion.common.memory import available_memory
from scion.quantization.config import Quantization
from scion.quantization.estimate.estimate import (
    Machine,
    ResourceEstimate,
    estimate,
    refuse_too_small,
)
from scion.quantization.estimate.rates import Rates, disk_rates, measured
from scion.quantization.estimate.report import Use, beside, lines
from scion.quantization.planned_shards import no_room

_KIB = 1024


class Watch:
    """What `quantize_nvfp4` calls around its work."""

    def __init__(self) -> None:
        self._made: tuple[ResourceEstimate, Rates] | None = None
        self._device = torch.device("cpu")
        self._begin = 0.0
        self._written = 0
        self._before = 0

    def before(
        self,
        checkpoint: Checkpoint,
        settings: Quantization,
        batches: Sequence[Sequence[int]],
        *,
        device: torch.device,
        work: Path,
    ) -> None:
        """Print the estimate.

        Args:
            checkpoint: The bf16 source.
            settings: The section of the configuration.
            batches: Tokens of the samples of each forward pass.
            device: Where layers run.
            work: Where unfinished layers go; an earlier run may have left some.

        Raises:
            NoRoomError: The disk or the GPU is too small.
        """
        self._begin = time.monotonic()
        self._device = device
        made = estimate(checkpoint, settings, batches, machine(device))
        refuse_too_small(made, work)
        shards = [checkpoint.folder / shard for shard in checkpoint.headers]
        try:
            rates = measured(device.type, disk_rates(work.parent, shards))
        except OSError as error:
            # The probe writes 64 MiB, where there may be less room than that.
            raise no_room(work.parent, error) from error
        self._made = made, rates
        self._before = _finished(work)
        print("\n".join(lines(made, rates)), file=sys.stderr)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._written = _bytes_written()

    def after(self) -> None:
        """Print the estimate beside what was used, if there was anything to do."""
        if self._made is None:
            return
        print("\n".join(beside(*self._made, self._used())), file=sys.stderr)

    def _used(self) -> Use:
        on_gpu = self._device.type == "cuda"
        return Use(
            seconds=time.monotonic() - self._begin,
            device=torch.cuda.max_memory_allocated(self._device) if on_gpu else None,
            host=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB,
            written=_bytes_written() - self._written,
            before=self._before,
        )


def machine(device: torch.device) -> Machine:
    """This machine, as estimates want it."""
    if device.type != "cuda":
        return Machine("one thread of this CPU", None, available_memory())
    name = torch.cuda.get_device_name(device)
    return Machine(name, torch.cuda.get_device_properties(device).total_memory, available_memory())


def _finished(work: Path) -> int:
    """Parts that an earlier run has left, if its journal can be read."""
    with contextlib.suppress(OSError):
        return max(0, len((work / "layers.jsonl").read_text().splitlines()) - 1)
    return 0


def _bytes_written() -> int:
    """What this process has handed to the kernel to write; 0 where it is not told."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        table = Path("/proc/self/io").read_text().splitlines()
        return int(next(row.split()[1] for row in table if row.startswith("wchar")))
    return 0
