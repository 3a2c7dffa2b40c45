"""The body's hidden states after its final norm, a few layers at a time.

All texts pass through some layers, as many as fit into four gigabytes, before the next are read.
Between them, and when all are done, the states lie in one file, bf16 [tokens of all texts, hidden
size], which is mapped and not held: 2 million tokens of a width of 5,120 are 20.5 GB of disk.
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
from scion.evaluation.offline.linear import NvFp4Linear
from scion.evaluation.offline.target import text_config
from scion.evaluation.offline.weights import Weights
from scion.healing.batches import batches
from scion.healing.texts import LearnedText
from scion.quantization.layerwise.recording import Recording

THREADS = 2
"""On a CPU, whatever the machine has: so the same texts give the same states."""

_FILE = "hidden_states.bf16"
# Of the layers that are on the device at once, as they are stored. On a CPU they are decoded.
_RESIDENT_BYTES = {"cuda": 4e9, "cpu": 1e9}
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
        for numbers in _resident(weights, len(layers)):
            filled = [
                _filled(weights, recording.layers[number], _prefix(weights, number))
                for number in numbers
            ]
            note = f"layer {numbers[-1] + 1} of {len(layers)}"
            for group, width in zip(groups, widths, strict=True):
                x = states.read(group, device)
                for number, layer in zip(numbers, filled, strict=True):
                    x = layer(x, **arguments[width][number])
                states.write(group, x)
                amount = sum(len(texts[place].ids) for place in group) * len(numbers)
                told.advance(amount=amount, note=note)
            del filled
    weights.fill(norm, family.prefix)
    for group in groups:
        states.write(group, norm["norm"](states.read(group, device)))


def _prefix(weights: Weights, number: int) -> str:
    return f"{weights.inventory.family.prefix}layers.{number}."


def _resident(weights: Weights, count: int) -> list[range]:
    """The numbers of the layers, in runs that are on the device at once."""
    checkpoint, most = weights.checkpoint, _RESIDENT_BYTES[weights.device.type]
    runs: list[range] = []
    held, begin = 0.0, 0
    for number in range(count):
        prefix = _prefix(weights, number)
        size = sum(
            checkpoint.tensor(name).size for name in checkpoint.shard_of if name.startswith(prefix)
        )
        if number > begin and held + size > most:
            runs.append(range(begin, number))
            held, begin = 0.0, number
        held += size
    return [*runs, range(begin, count)]


def embeddings(weights: Weights) -> Tensor:
    """Those of all tokens, bf16 [vocabulary, H], in the machine's memory: few rows are wanted."""
    name = f"{weights.inventory.family.prefix}embed_tokens.weight"
    return weights.tensor(name, device=torch.device("cpu")).to(_BF16)


def _embed(
    weights: Weights,
    texts: Sequence[LearnedText],
    states: BodyStates,
    groups: Sequence[Sequence[int]],
) -> None:
    table = embeddings(weights)
    for group in groups:
        ids = [torch.tensor(texts[place].ids) for place in group]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
        states.write(group, nn.functional.embedding(padded, table))


def _filled(weights: Weights, empty: nn.Module, prefix: str) -> nn.Module:
    """A copy of a layer with its weights; it takes them along when it goes."""
    layer = copy.deepcopy(empty)
    weights.fill(layer, prefix)
    if weights.device.type == "cpu":
        # On a GPU engines have the kernels that transformers takes where they are installed.
        compute_in_float32(layer, classes_of(weights.inventory.family))
        for module in layer.modules():
            if isinstance(module, NvFp4Linear):
                module.multiply_in_float32()
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
