"""What one decoder layer hands to the next, for all calibration samples.

Kept on the device where there is room, else in host memory (pinned beside a GPU), else in a file:
512 samples of 2,048 tokens at a width of 5,120 are 10.7 GB, twice while a layer runs.
"""

import mmap
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from scion.quantization.layerwise.placing import Place, choose, free_memory

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
    return choose(tokens, width, gpu_bytes=gpu_bytes, free_bytes=free_memory())


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
        self._kept = self._on_disk() if place == "disk" else self._in_memory()

    def _on_disk(self) -> list[Tensor]:
        size = sum(self._lengths) * self._width * _DTYPE.itemsize
        with tempfile.TemporaryFile(dir=self._folder) as file:
            file.truncate(size)
            # The mapping keeps the bytes; no file stays behind, whatever happens.
            mapped = mmap.mmap(file.fileno(), size)
        whole = torch.frombuffer(mapped, dtype=_DTYPE)
        parts = whole.split([length * self._width for length in self._lengths])
        return [part.view(1, -1, self._width) for part in parts]

    def _in_memory(self) -> list[Tensor]:
        where = self._device if self.place == "device" else torch.device("cpu")
        pinned = self.place == "host" and self._device.type == "cuda"
        shapes = [(1, length, self._width) for length in self._lengths]
        return [torch.empty(*s, dtype=_DTYPE, device=where, pin_memory=pinned) for s in shapes]

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
        self.place, self._kept = place, target._kept

    def tensors(self) -> dict[str, Tensor]:
        """All of them by number, to be saved."""
        return {str(number): kept for number, kept in enumerate(self._kept)}
