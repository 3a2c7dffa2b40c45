"""What a quantization will take, from config.json, the shards' headers and the settings alone.

Bytes of shards are exact, those of memory are sums of named parts (`memory`), and time is
a floor: what there is to calculate (`work`), read and write, over rates that were measured
or published. Needs no torch and reads no weight.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scion.architectures.inventory import Inventory, inventory
from scion.checkpoint.experts_apart import experts_apart
from scion.checkpoint.shards import CONFIG, Checkpoint, plan_shards, shard_header
from scion.common.errors import NoRoomError
from scion.formats.stored_modules import algorithms, projection_parents
from scion.quantization.config import Quantization
from scion.quantization.estimate.layer_shapes import ModelShapes
from scion.quantization.estimate.memory import (
    Part,
    beside_layers,
    hidden_bytes,
    hidden_part,
    in_host,
    least,
    total,
)
from scion.quantization.estimate.rates import Rates
from scion.quantization.estimate.work import Operations, operations
from scion.quantization.layerwise.placing import Place, choose
from scion.quantization.planned_tensors import planned
from scion.quantization.recipe_table import RECIPES, RecipeWork, require_recipe_fits


@dataclass(frozen=True)
class Machine:
    """Where a run will be.

    Attributes:
        name: What reports call it.
        gpu_bytes: All memory of the GPU that layers run on; None if they run on the CPU.
        free_bytes: Host memory that is free.
    """

    name: str
    gpu_bytes: int | None
    free_bytes: int


@dataclass(frozen=True)
class Term:
    """Something that takes time.

    Attributes:
        name: What.
        seconds: At the rates that were given.
        why: Amount and rate.
    """

    name: str
    seconds: float
    why: str


@dataclass(frozen=True)
class ResourceEstimate:
    """What a run will take.

    Attributes:
        recipe: Its recipe.
        machine: Where it will be.
        batches: Tokens of the samples of each forward pass.
        place: Where hidden states are kept.
        layers: Number of decoder layers.
        passes: Of all samples through each layer.
        read: Bytes that are read.
        written: Bytes that are written.
        disk: Bytes on the disk at the peak, beside the source.
        device: Bytes of GPU memory at the peak; empty where layers run on the CPU.
        host: Bytes of host memory at the peak.
        least_device: Bytes where layers run without which not one can be quantized.
        operations: What is calculated.
    """

    recipe: str
    machine: Machine
    batches: tuple[tuple[int, ...], ...]
    place: Place
    layers: int
    passes: int
    read: tuple[Part, ...]
    written: tuple[Part, ...]
    disk: tuple[Part, ...]
    device: tuple[Part, ...]
    host: tuple[Part, ...]
    least_device: int
    operations: tuple[Operations, ...]

    @property
    def samples(self) -> int:
        """Calibration samples."""
        return sum(len(batch) for batch in self.batches)

    @property
    def tokens(self) -> int:
        """Of all samples."""
        return sum(sum(batch) for batch in self.batches)

    @cached_property
    def shard_bytes(self) -> int:
        """Bytes of the release's shards, headers included; exact."""
        return self.disk[0].size

    def terms(self, rates: Rates) -> list[Term]:
        """What takes time, for each kind of work; what a run does at once counts as one each."""
        per_second = {"bf16": rates.bf16, "float32": rates.float32, "candidates": rates.candidates}
        unit = {"bf16": "FLOP", "float32": "FLOP, float32", "candidates": "weights × scales"}
        found = [
            Term(
                "reading", total(self.read) / rates.read, _over(total(self.read), "B", rates.read)
            ),
            Term(
                "writing",
                total(self.written) / rates.write,
                _over(total(self.written), "B", rates.write),
            ),
            *(
                Term(
                    operation.name,
                    operation.count / per_second[operation.kind],
                    _over(operation.count, unit[operation.kind], per_second[operation.kind]),
                )
                for operation in self.operations
            ),
        ]
        # When the artifact is closed; tensors were hashed as they were written.
        hashed = self.shard_bytes
        return [*found, Term("hashing", hashed / rates.hash, _over(hashed, "B", rates.hash))]

    def floor(self, rates: Rates) -> tuple[float, str]:
        """Seconds that a run takes at least, and what bounds it.

        Layers are read and written while others are calculated, so the longest of the three counts;
        the result is hashed after them.
        """
        seconds = {term.name: term.seconds for term in self.terms(rates)}
        hashing = seconds.pop("hashing")
        reading, writing = seconds.pop("reading"), seconds.pop("writing")
        bounds = {
            "calculating": sum(seconds.values()),
            "reading the source": reading,
            "writing the shards": writing,
        }
        bound = max(bounds, key=lambda name: bounds[name])
        return bounds[bound] + hashing, bound if bounds[bound] >= hashing else "hashing the shards"


def estimate(
    checkpoint: Checkpoint,
    settings: Quantization,
    batches: Sequence[Sequence[int]],
    machine: Machine,
) -> ResourceEstimate:
    """Estimate what quantizing a checkpoint takes.

    Args:
        checkpoint: The bf16 source, as quantize_nvfp4 gets it.
        settings: The section of the configuration.
        batches: Tokens of the samples of each forward pass; none if nothing is calibrated.
        machine: Where it shall run.

    Raises:
        ScionError: config.json is unusable, or a matrix can't be cut into blocks.
    """
    where = checkpoint.folder / CONFIG
    expected = inventory(checkpoint.config, where=where)
    require_recipe_fits(RECIPES[settings.recipe], expected)
    checkpoint = experts_apart(checkpoint, expected.layer_stacks)
    kept, fp8 = projection_parents(settings.keep_bf16, settings.use_fp8)
    quantized = algorithms(expected, kept=kept, fp8=fp8, four_bits=settings.four_bits)
    model = ModelShapes.of(checkpoint.config, expected, quantized, where=where)
    work = RECIPES[settings.recipe].work
    lengths = [length for batch in batches for length in batch]
    # Where nothing is calibrated, no layer runs, and weights are packed on the CPU.
    tokens, on_gpu = sum(lengths), machine.gpu_bytes is not None and bool(lengths)
    place = choose(tokens, model.hidden, gpu_bytes=machine.gpu_bytes, free_bytes=machine.free_bytes)
    shards = _shard_bytes(checkpoint, quantized, settings)
    beside = beside_layers(model, work, batches, on_gpu=on_gpu)
    device = [*beside, hidden_part(model, tokens)] if place == "device" else beside
    rows = expected.language[f"{expected.family.embedding}.weight"][0]
    host = in_host(model, tokens, place, rows=rows, on_gpu=on_gpu)
    states = hidden_bytes(model, tokens)
    return ResourceEstimate(
        recipe=settings.recipe,
        machine=machine,
        batches=tuple(tuple(batch) for batch in batches),
        place=place,
        layers=len(model.layers),
        passes=work.passes if lengths else 0,
        read=_read(checkpoint, expected, quantized, model, work, states, place),
        written=_written(shards, model, work, states, place),
        disk=_on_disk(shards, model, states, place),
        device=tuple(device) if on_gpu else (),
        host=tuple(host if on_gpu else [*host, *beside]),
        least_device=least(model, work),
        operations=operations(model, work, lengths),
    )


def refuse_too_small(made: ResourceEstimate, folder: Path) -> None:
    """Raise if the run could not end.

    Args:
        made: What it will take.
        folder: Where its unfinished layers go; what lies there already counts as free.

    Raises:
        NoRoomError: The disk has no room for the shards and what is kept beside them, or the GPU
            has none for a single layer.
    """
    free = shutil.disk_usage(_existing(folder)).free + _occupied(folder)
    if free < total(made.disk):
        raise NoRoomError(
            "the disk has no room for what will be written",
            where=folder.parent,
            expected=f"{total(made.disk) / 1e9:.1f} GB free: "
            + ", ".join(f"{part.name} {part.size / 1e9:.1f}" for part in made.disk),
            found=f"{free / 1e9:.1f} GB",
            hint="free some space, or take fewer calibration samples",
        )
    gpu = made.machine.gpu_bytes
    if gpu is not None and gpu < made.least_device:
        raise NoRoomError(
            "the GPU has too little memory for one layer",
            where=made.machine.name,
            expected=f"{made.least_device / 1e9:.1f} GB: a layer in bf16 and its Hessians, and "
            "what one batch needs inside it",
            found=f"{gpu / 1e9:.1f} GB",
            hint="set quantization.device to cpu, or take a recipe without GPTQ",
        )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _occupied(folder: Path) -> int:
    """Bytes that the files of a folder take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob("*") if path.is_file())


def _shard_bytes(
    checkpoint: Checkpoint, quantized: Mapping[str, str], settings: Quantization
) -> int:
    plan = plan_shards(
        planned(checkpoint, quantized), max_bytes=settings.max_shard_megabytes * 1_000_000
    )
    return sum(len(shard_header(tensors)) + tensors[-1].end for tensors in plan.values())


def _read(
    checkpoint: Checkpoint,
    expected: Inventory,
    quantized: Mapping[str, str],
    model: ModelShapes,
    work: RecipeWork,
    states: int,
    place: Place,
) -> tuple[Part, ...]:
    names = checkpoint.shard_of
    layers = sum(
        checkpoint.tensor(n).size for n in names if n in expected.language and ".layers." in n
    )
    copied = sum(
        checkpoint.tensor(n).size for n in names if n.removesuffix(".weight") not in quantized
    )
    parts = [
        Part("decoder layers", layers, "each once"),
        Part("tensors that stay", copied, "embeddings and head among them"),
    ]
    if place == "disk":
        passes = len(model.layers) * work.passes - work.compensated
        parts.append(
            Part("hidden states", passes * states, "each pass, if the page cache holds none")
        )
    return tuple(parts)


def _written(
    shards: int, model: ModelShapes, work: RecipeWork, states: int, place: Place
) -> tuple[Part, ...]:
    times = len(model.layers) - 1
    parts = [Part("shards", shards, "exact")]
    if place == "disk":
        parts.append(Part("hidden states", (times + 1) * states, "once a layer"))
    if work.compensated:
        parts.append(Part("saved states", times * states, "after each layer, to go on from"))
    return tuple(part for part in parts if part.size)


def _on_disk(shards: int, model: ModelShapes, states: int, place: Place) -> tuple[Part, ...]:
    parts = [Part("shards", shards, "exact; the artifact links them")]
    if place == "disk":
        parts.append(hidden_part(model, states // (2 * model.hidden)))
    if states and len(model.layers) > 1:
        # The one before is replaced when the new one is whole.
        parts.append(
            Part("saved states", 2 * states, "to go on from, once a minute; two for a while")
        )
    return tuple(parts)


def _over(amount: float, unit: str, rate: float) -> str:
    return f"{amount:.3g} {unit} at {rate:.3g}/s"
