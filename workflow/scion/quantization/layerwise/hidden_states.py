"""What one decoder layer hands to the next, for all calibration samples.

Kept on the device where there is room, else in host memory (pinned beside a GPU), else in a file:
512 samples of 2,048 tokens at a width of 5,120 are 10.7 GB, twice while a layer runs.
"""

import mmap
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scion.common.memory import available_memory
from scion.quantization.layerwise.placing import Place, choose

_DTYPE = torch.bfloat16


def choose_place(tokens: int, width: int, *, device: torch.device) -> Place:
    """Where two sets of hidden states fit; `scion.quantization.layerwise.placing` has the rule.

    Args:
        tokens: Of all samples together.
        width: The model's hidden size.
        device: Where layers run.
    """
    on_gpu = device.type == "cuda"
    gpu_bytes = torch.cuda.get_device_properties(device).total_memory if on_gpu else None
    return choose(tokens, width, gpu_bytes=gpu_bytes, free_bytes=available_memory())


class HiddenStates:
    """The hidden states of all batches in front of one layer.

    Args:
        lengths: Tokens of each batch.
        width: The model's hidden size.
        device: Where `read` puts them.
        place: Where they are kept.
        folder: Where a file is made if that is the disk.

    Attributes:
        place: Where they are kept.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        width: int,
        *,
        device: torch.device,
        place: Place,
        folder: Path,
    ) -> None:
        self.place: Place = place
        self._lengths, self._width, self._device, self._folder = lengths, width, device, folder
        self._whole = self._on_disk() if place == "disk" else self._in_memory()
        parts = self._whole.split([length * width for length in lengths])
        self._kept = [part.view(1, -1, width) for part in parts]

    def _on_disk(self) -> Tensor:
        size = sum(self._lengths) * self._width * _DTYPE.itemsize
        with tempfile.TemporaryFile(dir=self._folder) as file:
            file.truncate(size)
            # The mapping keeps the bytes; no file stays behind, whatever happens.
            mapped = mmap.mmap(file.fileno(), size)
        return torch.frombuffer(mapped, dtype=_DTYPE)

    def _in_memory(self) -> Tensor:
        where = self._device if self.place == "device" else torch.device("cpu")
        whole = torch.empty(sum(self._lengths) * self._width, dtype=_DTYPE, device=where)
        if self.place == "host" and self._device.type == "cuda":
            _pin(whole)
        return whole

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, batch: int) -> Tensor:
        """The hidden states of one batch, [1, tokens, width], on the device."""
        return self._kept[batch].to(self._device)

    def write(self, batch: int, states: Tensor) -> None:
        """Keep the hidden states of one batch."""
        self._kept[batch].copy_(states)

    def like(self, place: Place | None = None) -> "HiddenStates":
        """Room for as many, unset; in the same place if none is named."""
        return HiddenStates(
            self._lengths,
            self._width,
            device=self._device,
            place=place or self.place,
            folder=self._folder,
        )

    def move(self, place: Place) -> None:
        """Keep the same states in another place from now on."""
        target = self.like(place)
        for number, kept in enumerate(self._kept):
            target.write(number, kept)
        self.place, self._kept, self._whole = place, target._kept, target._whole

    def tensors(self) -> dict[str, Tensor]:
        """All of them by number, to be saved."""
        return {str(number): kept for number, kept in enumerate(self._kept)}


def _pin(whole: Tensor) -> None:
    """Keep a CPU tensor's pages where they are, so that a GPU copies from them directly.

    Torch's own allocator of pinned memory rounds up to a power of two: up to twice the bytes. Where
    the system refuses, copies are slower and nothing else differs.
    """
    runtime: Any = torch.cuda.cudart()
    address = whole.data_ptr()
    if runtime.cudaHostRegister(address, whole.nbytes, 0) == runtime.cudaError.success:
        weakref.finalize(whole, runtime.cudaHostUnregister, address)
