"""The body's hidden states after its final norm, layer by layer: one layer is on the device.

All texts pass through a layer before the next is read. Between layers, and when all are done, the
states lie in one file, bf16 [tokens of all texts, hidden size], which is mapped and not held: 2
million tokens of a width of 5,120 are 20.5 GB of disk.
"""

import copy
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scion.common.devices import fast_products, fixed_threads
from scion.common.errors import NoRoomError
from scion.common.files import sync
from scion.common.progress import progress
from scion.common.text import size
from scion.evaluation.offline.classes import classes_of
from scion.evaluation.offline.delta_net import compute_in_float32
from scion.evaluation.offline.target import text_config
from scion.evaluation.offline.weights import Weights
from scion.healing.batches import batches
from scion.healing.texts import LearnedText
from scion.quantization.layerwise.recording import Recording

THREADS = 2
"""On a CPU, whatever the machine has: so the same texts give the same states."""

_FILE = "hidden_states.bf16"
_BF16 = torch.bfloat16


class BodyStates:
    """The states of every text.

    Args:
        path: The file.
        texts: In the order in which they lie there.
        width: The hidden size.
    """

    def __init__(self, path: Path, texts: Sequence[LearnedText], width: int) -> None:
        self._lengths = [len(text.ids) for text in texts]
        numbers = sum(self._lengths) * width
        whole = torch.from_file(str(path), shared=True, size=numbers, dtype=_BF16)
        self._parts = whole.view(-1, width).split(self._lengths)

    def read(self, places: Sequence[int], device: torch.device) -> Tensor:
        """The states of some texts, bf16 [texts, longest, width], zeros behind the shorter ones."""
        parts = [self._parts[place] for place in places]
        return nn.utils.rnn.pad_sequence(parts, batch_first=True).to(device)

    def write(self, places: Sequence[int], states: Tensor) -> None:
        """Keep the states of some texts, what `read` gives."""
        for place, rows in zip(places, states, strict=True):
            self._parts[place].copy_(rows[: self._lengths[place]])


def body_states(
    weights: Weights, texts: Sequence[LearnedText], *, folder: Path, batch_tokens: int
) -> BodyStates:
    """Pass texts through a frozen body.

    Args:
        weights: The release.
        texts: The texts.
        folder: Where the file lies. One that an earlier call has finished is taken as it is.
        batch_tokens: Tokens that pass through a layer at once, at most; a longer text does alone.

    Raises:
        NoRoomError: The disk is too small.
        ScionError: As `Weights.fill`.
    """
    config: Any = text_config(weights)
    done, partial = folder / _FILE, folder / f"{_FILE}.partial"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _reserve(partial, sum(len(text.ids) for text in texts) * config.hidden_size * 2)
        states = BodyStates(partial, texts, config.hidden_size)
        device = weights.device
        with fixed_threads(device, THREADS), fast_products(device), torch.no_grad():
            _run(weights, config, texts, states, batch_tokens)
        # What a power cut took would be learned from, unseen.
        sync(partial)
        partial.rename(done)
    return BodyStates(done, texts, config.hidden_size)


def _run(
    weights: Weights,
    config: Any,
    texts: Sequence[LearnedText],
    states: BodyStates,
    batch_tokens: int,
) -> None:
    family, device = weights.inventory.family, weights.device
    classes = classes_of(family)
    with torch.device("meta"):
        model = classes.text_model(config)
    # Frequencies are no tensors of the checkpoint, and must stay in float32.
    model.rotary_emb = classes.rotary(config, device=device)
    norm, layers = nn.ModuleDict({"norm": model.norm}), model.layers
    groups = batches(texts, range(len(texts)), batch_tokens)
    widths = [max(len(texts[place].ids) for place in group) for group in groups]
    recording = Recording(model, layers)
    # Padding is on the right, where a causal model does not see it: there is no mask of it.
    arguments = {
        width: recording.arguments(
            torch.empty(1, width, config.hidden_size, dtype=_BF16, device=device)
        )
        for width in set(widths)
    }
    _embed(weights, texts, states, groups)
    tokens = sum(len(text.ids) for text in texts)
    with progress("hidden states", tokens * len(layers)) as told:
        for number, empty in enumerate(recording.layers):
            layer = _filled(weights, empty, f"{family.prefix}layers.{number}.")
            for group, width in zip(groups, widths, strict=True):
                output = layer(states.read(group, device), **arguments[width][number])
                states.write(group, output)
                amount = sum(len(texts[place].ids) for place in group)
                told.advance(amount=amount, note=f"layer {number + 1} of {len(layers)}")
    weights.fill(norm, family.prefix)
    for group in groups:
        states.write(group, norm["norm"](states.read(group, device)))


def _embed(
    weights: Weights,
    texts: Sequence[LearnedText],
    states: BodyStates,
    groups: Sequence[Sequence[int]],
) -> None:
    table = weights.tensor(f"{weights.inventory.family.prefix}embed_tokens.weight").to(_BF16)
    for group in groups:
        ids = [torch.tensor(texts[place].ids, device=table.device) for place in group]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
        states.write(group, nn.functional.embedding(padded, table))


def _filled(weights: Weights, empty: nn.Module, prefix: str) -> nn.Module:
    """A copy of a layer with its weights; it takes them along when it goes."""
    layer = copy.deepcopy(empty)
    weights.fill(layer, prefix)
    compute_in_float32(layer, classes_of(weights.inventory.family))
    return layer.eval()


def _reserve(path: Path, needed: int) -> None:
    """Make a file of so many bytes that the disk has room for."""
    path.unlink(missing_ok=True)
    free = shutil.disk_usage(path.parent).free
    try:
        if needed > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with path.open("wb") as file:
            # Without it a disk that is full later would kill whoever writes to the mapping.
            os.posix_fallocate(file.fileno(), 0, needed)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC:
            raise
        raise NoRoomError(
            "the disk is too small for the hidden states that the head learns from",
            where=path.parent,
            expected=f"{size(needed)}, while the stage runs",
            found=f"{size(free)} free",
            hint="lower healing.replies.limit, or name a store on a larger disk",
        ) from error
