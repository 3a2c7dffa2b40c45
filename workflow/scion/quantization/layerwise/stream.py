"""The run over all decoder layers: one on the device, the next being read, the last being written.

Each layer's first pass over the samples gives two things at once: the maxima that calibration wants
and, since nothing is quantized yet, what the next layer shall see. So several recipes can be made
in one run, which share the layers, that pass and the hidden states. Recipes that move weights
(GPTQ) hand on what the quantized layer makes of the samples instead, as ModelOpt's layerwise
calibration does, which takes a pass more; each of them needs a run of its own.

The embeddings are looked up on the CPU, and nothing else of the model is loaded: no head, no
vision tower, no MTP layer.
"""

import contextlib
import copy
import gc
import itertools
import resource
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from modelopt.torch.quantization.nn import TensorQuantizer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scion.architectures.inventory import Inventory
from scion.checkpoint.shards import Checkpoint
from scion.common.devices import one_thread
from scion.common.errors import NoRoomError
from scion.common.progress import progress
from scion.quantization.calibration.batches import PackedBatch, isolated, segment_positions
from scion.quantization.layerwise.experts import count_tokens
from scion.quantization.layerwise.hidden_states import HiddenStates, Place, choose_place
from scion.quantization.layerwise.layer import calibrate, export, load, named_alone, scale_checksums
from scion.quantization.layerwise.maxima import record_maxima, show_maxima
from scion.quantization.layerwise.recording import Arguments
from scion.quantization.layerwise.skeleton import Skeleton
from scion.quantization.layerwise.torch_kernels import on_cpu
from scion.quantization.planned_shards import PlannedShards
from scion.quantization.recipes import Recipe

_SAVED = "hidden_states.safetensors"
_SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Seen:
    """What the first pass of the samples through a layer has shown.

    Attributes:
        maxima: As `record_maxima` gives them.
        tokens: As `count_tokens` gives them.
    """

    maxima: dict[str, Tensor]
    tokens: dict[str, Tensor]


@dataclass
class QuantizationTarget:
    """One thing to make of the layers.

    Attributes:
        recipe: What to make of each layer.
        shards: Where finished layers go.
        seconds: What its own share of a run took: all but what is done once for all targets.
    """

    recipe: Recipe
    shards: PlannedShards
    seconds: float = 0.0


@dataclass
class Stream:
    """Everything that the run over the layers needs.

    Attributes:
        checkpoint: The bf16 source.
        expected: The tensors that its config.json implies.
        targets: What to make of it. One whose recipe is compensated is the only one.
        batches: The calibration samples.
        device: Where layers run.
        save_seconds: Hidden states are saved when this time has passed since the last time.
        place: Where hidden states are kept; None chooses.
        seconds: What the whole run took, once it has ended.
    """

    checkpoint: Checkpoint
    expected: Inventory
    targets: Sequence[QuantizationTarget]
    batches: Sequence[PackedBatch]
    device: torch.device
    save_seconds: float = _SAVE_SECONDS
    place: Place | None = None
    skeleton: Skeleton = field(init=False)
    seconds: float = field(init=False, default=0.0)
    _names: list[str] = field(init=False)
    _left: list[int] = field(init=False)
    _arguments: list[list[Arguments]] = field(init=False)
    _prefetch: bool = field(init=False, default=True)
    _following: Future[nn.Module] | None = field(init=False, default=None)
    _reading: Any = field(init=False, default=None)
    _saved_at: float = field(init=False)

    def __post_init__(self) -> None:
        if len(self.targets) > 1 and any(target.recipe.compensated for target in self.targets):
            raise ValueError("layers after a compensated one see other samples: one target alone")
        self.skeleton = Skeleton.build(self.checkpoint.folder)
        family, count = self.expected.family, len(self.skeleton.layers)
        self._names = [self.skeleton.stored_name(number, family) for number in range(count)]
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Quantize every layer that a target's shards do not have yet.

        Raises:
            ScionError: A weight is not finite, a tensor is missing, a module never sees anything
                but zeros, ModelOpt stops, or there is no room on the disk or the device.
        """
        begin = time.monotonic()
        count = len(self._names)
        # By target, the first layer that it lacks.
        self._left = [
            next(
                (n for n, name in enumerate(self._names) if name not in target.shards.finished),
                count,
            )
            for target in self.targets
        ]
        if min(self._left) == count:
            return
        if self._compensated:
            # What the layers after the saved states see can't be had again from the source.
            self._left = [min(self._left[0], self._saved_after() + 1)]
        kernels = on_cpu() if self.device.type == "cpu" else contextlib.nullcontext()
        with kernels, one_thread(self.device), torch.no_grad():
            first, states = self._start(min(self._left))
            pending: list[Future[None]] = []
            with progress("layers", count, done=first) as told:
                for number, layer in self._loaded(range(first, count)):
                    written, states = self._step(number, layer, states)
                    pending = self._wait(pending, keep=len(self.targets)) + written
                    if self._due(number):
                        # States must not be ahead of the layers that are on disk.
                        pending = self._wait(pending, keep=0)
                        self._save(number, states)
                    told.advance(note=self._usage())
            self._wait(pending, keep=0)
        self.seconds = time.monotonic() - begin

    # One layer

    def _step(
        self, number: int, layer: nn.Module, states: HiddenStates
    ) -> tuple[list[Future[None]], HiddenStates]:
        """Pass the samples through one layer; quantize it for each target that lacks it."""
        try:
            return self._try(number, layer, states)
        except torch.OutOfMemoryError:
            if states.place != "device" and not self._prefetch:
                raise _no_memory(self._names[number], self.device) from None
        _release(layer)
        self._make_room()
        if states.place == "device":
            states.move("host")
        self._empty_cache()
        try:
            fresh = self._load(number)
            result = self._try(number, fresh, states)
        except torch.OutOfMemoryError:
            raise _no_memory(self._names[number], self.device) from None
        self._synchronize()
        _release(fresh)
        return result

    def _make_room(self) -> None:
        """From now on keep hidden states in host memory, and read no layer ahead."""
        print(
            "out of GPU memory: hidden states go to host memory, the next layer is read later; "
            "the result is the same",
            file=sys.stderr,
        )
        self._prefetch = False
        if self.place != "disk":
            self.place = "host"
        following, self._following = self._following, None
        if following is not None:
            # It may have run out of memory itself.
            with contextlib.suppress(torch.OutOfMemoryError):
                _release(following.result())

    def _try(
        self, number: int, layer: nn.Module, states: HiddenStates
    ) -> tuple[list[Future[None]], HiddenStates]:
        last = number + 1 == len(self._names)
        after = None if last else states.like()
        due = [
            target
            for target, first in zip(self.targets, self._left, strict=True)
            if number >= first
        ]
        compensated = any(target.recipe.compensated for target in due)
        with record_maxima(layer) as maxima, count_tokens(layer) as tokens:
            self._forward(number, layer, states, None if compensated else after)
        written: list[Future[None]] = []
        for place, target in enumerate(due, start=1):
            begin = time.monotonic()
            # Calibration changes a layer, so only the last target may have the loaded one itself.
            own = layer if place == len(due) else copy.deepcopy(layer)
            written.append(self._make(number, own, target, states, Seen(maxima, tokens)))
            if own is not layer:
                _release(own)
            target.seconds += time.monotonic() - begin
        if compensated and after is not None:
            self._forward(number, layer, states, after)
        return written, after or states

    def _make(
        self,
        number: int,
        layer: nn.Module,
        target: QuantizationTarget,
        states: HiddenStates,
        seen: Seen,
    ) -> Future[None]:
        """Quantize one layer by one recipe."""
        recipe, name = target.recipe, self._names[number]
        passes = 0

        def run(_root: nn.Module) -> None:
            nonlocal passes
            if passes == 0:
                show_maxima(layer, seen.maxima)
            else:
                self._forward(number, layer, states, None)
            passes += 1

        calibrate(named_alone(layer, self.skeleton.names[number]), recipe, run)
        modules = {
            module: algorithm
            for module, algorithm in recipe.quantized(self.expected).items()
            if module.startswith(f"{name}.")
        }
        groups = [group for group in self.expected.groups if modules.keys() >= set(group)]
        # Before the groups are fused, which may change what was chosen.
        checksums = scale_checksums(layer, recipe.unproven(modules), name=name)
        tokens = {f"{name}.{block}": found.tolist() for block, found in seen.tokens.items()}
        exported = export(layer, modules, groups, name=name)
        return target.shards.write(name, exported, checksums, tokens)

    def _forward(
        self, number: int, layer: Any, states: HiddenStates, after: HiddenStates | None
    ) -> None:
        for index, batch in enumerate(self.batches):
            alone = isolated(layer, batch.lengths)
            with alone if len(batch.lengths) > 1 else contextlib.nullcontext():
                output = layer(states.read(index), **self._arguments[index][number])
            if after is not None:
                after.write(index, output)

    # Around the layers

    def _start(self, first: int) -> tuple[int, HiddenStates]:
        """The layer to begin with, and what it sees: embeddings, or states that were saved."""
        lengths = [batch.ids.shape[1] for batch in self.batches]
        if self.place is None:
            self.place = choose_place(sum(lengths), self.skeleton.hidden_size, device=self.device)
        try:
            states = self._room(lengths, self.place)
        except torch.OutOfMemoryError:
            self._make_room()
            states = self._room(lengths, "host")
        with _embeddings(self.checkpoint) as table:
            embedded = (table(batch.ids) for batch in self.batches)
            self._arguments = []
            for index, (batch, embedding) in enumerate(zip(self.batches, embedded, strict=True)):
                states.write(index, embedding)
                positions = segment_positions(batch.lengths).to(self.device)
                arguments = self.skeleton.arguments(states.read(index), positions)
                if len(batch.lengths) > 1:
                    # Nobody reads it under `isolated`, and it is tokens × tokens.
                    arguments = [{**keywords, "attention_mask": None} for keywords in arguments]
                self._arguments.append(arguments)
        after = self._saved_after()
        if not 0 <= after < first:
            return self._replay_from(0, first), states
        with safe_open(self._folder / _SAVED, "pt") as file:
            for index in range(len(states)):
                states.write(index, file.get_tensor(str(index)))
        return self._replay_from(after + 1, first), states

    def _room(self, lengths: Sequence[int], place: Place) -> HiddenStates:
        width = self.skeleton.hidden_size
        return HiddenStates(lengths, width, device=self.device, place=place, folder=self._folder)

    def _replay_from(self, start: int, first: int) -> int:
        if first:
            print(
                f"going on after layer {first - 1}: it and those before it are finished"
                + (f"; samples pass through layers {start} to {first - 1} again" * (start < first)),
                file=sys.stderr,
            )
        return start

    @property
    def _compensated(self) -> bool:
        return self.targets[0].recipe.compensated

    def _due(self, number: int) -> bool:
        """Whether to save what the layer after `number` sees.

        With GPTQ a layer's samples come from quantized layers and can't be had again from the
        source, so they are saved each time.
        """
        late = time.monotonic() - self._saved_at >= self.save_seconds
        return number + 1 < len(self._names) and (late or self._compensated)

    def _saved_after(self) -> int:
        """The layer after which hidden states were saved; -1 if none were."""
        saved = self._folder / _SAVED
        if not saved.is_file():
            return -1
        with safe_open(saved, "pt") as file:
            return int(file.metadata()["after"])

    def _save(self, number: int, states: HiddenStates) -> None:
        """Save what the next layer sees, so that a run that is killed needs not start over."""
        target = self._folder / _SAVED
        partial = target.with_suffix(".partial")
        save_file(states.tensors(), partial, {"after": str(number)})
        partial.rename(target)
        self._saved_at = time.monotonic()

    def _loaded(self, numbers: Iterable[int]) -> Generator[tuple[int, nn.Module]]:
        """Layers with their weights; the next one is read while one is worked on."""
        numbers = list(numbers)
        with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
            for position, number in enumerate(numbers):
                layer = self._next(number)
                if self._prefetch and position + 1 < len(numbers):
                    self._following = pool.submit(self._load, numbers[position + 1])
                yield number, layer
                # The reader's stream may use the memory again that this layer had.
                self._synchronize()
                _release(layer)
                del layer

    def _next(self, number: int) -> nn.Module:
        """The layer that was read ahead, or else is read now."""
        following, self._following = self._following, None
        if following is not None:
            try:
                return following.result()
            except torch.OutOfMemoryError:
                self._make_room()
        self._empty_cache()
        try:
            return self._load(number)
        except torch.OutOfMemoryError:
            raise _no_memory(self._names[number], self.device) from None

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _empty_cache(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self, number: int) -> nn.Module:
        stream: Any = contextlib.nullcontext()
        if self.device.type == "cuda":
            # One for all layers: what a layer had is given to the next, not to another stream.
            self._reading = self._reading or torch.cuda.Stream(self.device)
            stream = torch.cuda.stream(self._reading)
        with stream, torch.no_grad():
            layer = load(
                self.skeleton.layer(number),
                self.checkpoint,
                self._names[number],
                device=self.device,
                stacks=self.expected.stacked,
            )
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
        return layer

    @staticmethod
    def _wait(pending: list[Future[None]], *, keep: int) -> list[Future[None]]:
        """Wait for the oldest writes, so that not more than `keep` layers are on their way."""
        while len(pending) > keep:
            pending.pop(0).result()
        return pending

    @property
    def _folder(self) -> Path:
        """Where hidden states are saved: all targets have the same."""
        return self.targets[0].shards.folder

    def _usage(self) -> str:
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        if self.device.type != "cuda":
            return f"{host:.1f} GB of memory"
        return f"{torch.cuda.max_memory_allocated(self.device) / 1e9:.1f} GB of the GPU's memory"


def _release(layer: nn.Module) -> None:
    """Free a layer's weights and scales now.

    ModelOpt's modules, and its quantizers with their calibrators, refer to each other in circles,
    which Python breaks when it gets round to it: until then, those of several layers would stay.
    """
    quantizers: list[Any] = [
        module for module in layer.modules() if isinstance(module, TensorQuantizer)
    ]
    for quantizer in quantizers:
        # It has the scales that a search began with, and those that it found.
        quantizer._calibrator = None
    for tensor in itertools.chain(layer.parameters(), layer.buffers()):
        tensor.data = tensor.new_empty(0)


@contextlib.contextmanager
def _embeddings(checkpoint: Checkpoint) -> Generator[Any]:
    """A function from int64 [1, tokens] to bf16 [1, tokens, width]; rows are read as needed."""
    name = next(name for name in checkpoint.shard_of if name.endswith("embed_tokens.weight"))
    with safe_open(checkpoint.folder / checkpoint.shard_of[name], "pt") as file:
        table: Tensor = file.get_tensor(name)
        yield lambda ids: table[ids].to(torch.bfloat16)


def _no_memory(layer: str, device: torch.device) -> NoRoomError:
    total = torch.cuda.get_device_properties(device).total_memory
    return NoRoomError(
        "the GPU has too little memory for one layer",
        where=layer,
        expected="room for two layers in bf16 and what one sample needs inside a layer",
        found=f"{torch.cuda.get_device_name(device)}, {total / 1e9:.1f} GB",
        hint="lower quantization.calibration.pack_tokens or the sets' max_tokens",
    )
