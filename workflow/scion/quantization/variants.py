"""Several releases of one source, each by a recipe of its own, as `compare_recipes` needs them.

They are folders that any engine loads, but no artifacts: they are removed once they are measured.
"""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from scion.architectures.inventory import Inventory
from scion.artifacts.artifact import Artifact
from scion.artifacts.release_layout import TENSORS
from scion.checkpoint.experts_apart import experts_apart
from scion.checkpoint.shards import CONFIG, INDEX, Checkpoint
from scion.common.digest import digest_json
from scion.common.files import symlink_or_copy
from scion.quantization.calibration.batches import PackedBatch
from scion.quantization.layerwise.stream import QuantizationTarget, Stream
from scion.quantization.mtp_head import add_head, add_own_head
from scion.quantization.output_files import copy_kept, lay_out, write_configs
from scion.quantization.planned_shards import PlannedShards
from scion.quantization.recipe_table import RECIPES, require_recipe_fits
from scion.quantization.recipes import recipe
from scion.quantization.variants_config import Variant


@dataclass(frozen=True)
class VariantSource:
    """What all variants are made from.

    Attributes:
        text: The bf16 checkpoint.
        donor: The MTP head; None where it is the source's own, or there is none.
        own_head: The source with sound keys, where its own head stays.
        checkpoint: The headers of `text`.
        expected: The tensors that its config.json implies.
        batches: The calibration samples.
        device: Where layers run.
        max_shard_megabytes: Size of a shard, at most.
        work: Where variants are made. Layers that are finished stay there if a run is stopped.
        request: Identity of all that variants have in common.
    """

    text: Artifact
    donor: Artifact | None
    own_head: Artifact | None
    checkpoint: Checkpoint
    expected: Inventory
    batches: Sequence[PackedBatch]
    device: torch.device
    max_shard_megabytes: int
    work: Path
    request: str

    @cached_property
    def apart(self) -> Checkpoint:
        """`checkpoint` with the experts of its stacks one by one, as releases have them."""
        return experts_apart(self.checkpoint, self.expected.layer_stacks)


@dataclass(frozen=True)
class FinishedVariant:
    """A variant on disk.

    Attributes:
        variant: What it is.
        folder: The release.
        seconds: What it would have taken alone: what was done for all, and its own share. None
            where a part of it was there already.
        own_seconds: Its own share of that.
    """

    variant: Variant
    folder: Path
    seconds: float | None
    own_seconds: float | None


def together(variants: Sequence[Variant]) -> list[list[Variant]]:
    """The runs over the layers that the variants take: one for all that can share it, first."""
    alone = [variant for variant in variants if RECIPES[variant.recipe].compensated]
    shared = [variant for variant in variants if variant not in alone]
    return [*([shared] if shared else []), *([variant] for variant in alone)]


def make(source: VariantSource, variants: Sequence[Variant]) -> list[FinishedVariant]:
    """Make variants in one run over the layers.

    Raises:
        ScionError: As `quantize_nvfp4` and `graft_mtp` do.
    """
    for variant in variants:
        require_recipe_fits(RECIPES[variant.recipe], source.expected)
    recipes = [
        recipe(variant.recipe, keep_bf16=variant.keep_bf16, use_fp8=variant.use_fp8)
        for variant in variants
    ]
    modules = [chosen.quantized(source.expected) for chosen in recipes]
    with contextlib.ExitStack() as stack:
        shards: list[PlannedShards] = []
        copied: list[Future[None]] = []
        for variant, quantized in zip(variants, modules, strict=True):
            shards.append(_lay_out(source, variant, quantized))
            stack.callback(shards[-1].close)
        resumed = any(planned.finished for planned in shards)
        targets = [QuantizationTarget(*pair) for pair in zip(recipes, shards, strict=True)]
        stream = Stream(
            checkpoint=source.checkpoint,
            expected=source.expected,
            targets=targets,
            batches=source.batches,
            device=source.device,
        )
        for quantized, planned in zip(modules, shards, strict=True):
            copied.append(copy_kept(source.apart, quantized, planned))
        stream.run()
        for copy in copied:
            copy.result()
    shared = stream.seconds - sum(target.seconds for target in targets)
    finished: list[FinishedVariant] = []
    for variant, quantized, target in zip(variants, modules, targets, strict=True):
        folder = _assemble(source, variant, quantized, target.shards)
        own = None if resumed else target.seconds
        finished.append(
            FinishedVariant(variant, folder, None if own is None else shared + own, own)
        )
    return finished


def _lay_out(
    source: VariantSource, variant: Variant, quantized: Mapping[str, str]
) -> PlannedShards:
    return lay_out(
        source.apart,
        quantized,
        source.work / f"{variant.name}.layers",
        request=digest_json([source.request, variant.name]),
        max_megabytes=source.max_shard_megabytes,
    )


def _assemble(
    source: VariantSource, variant: Variant, quantized: Mapping[str, str], shards: PlannedShards
) -> Path:
    folder = _empty(source.work / variant.name)
    shards.link_into(folder)
    _link(source.text, folder, but={CONFIG, INDEX, *source.checkpoint.headers})
    write_configs(folder, source.checkpoint, source.expected, quantized)
    _add_head(source, folder)
    shards.discard()
    return folder


def bf16(source: VariantSource) -> Path:
    """The source itself with the MTP head, as the variants have it; nothing is copied."""
    folder = with_head(source.text, None, source.work / "source")
    _add_head(source, folder)
    return folder


def _add_head(source: VariantSource, folder: Path) -> None:
    if source.donor is not None:
        add_head(folder, source.donor)
    if source.own_head is not None:
        add_own_head(folder, source.own_head)


def with_head(artifact: Artifact, donor: Artifact | None, folder: Path) -> Path:
    """A checkpoint with a donor's head if there is one, in a folder made anew; files are links."""
    _link(artifact, _empty(folder), but=set())
    if donor is not None:
        add_head(folder, donor)
    return folder


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _link(artifact: Artifact, folder: Path, *, but: set[str]) -> None:
    for name in artifact.files.keys() - but - {TENSORS}:
        symlink_or_copy(artifact.folder / name, folder / name)


def size(folder: Path) -> int:
    """Bytes of all files of a release."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
