"""The files of a quantized checkpoint: shards to be filled, tensors that stay, the configs."""

import importlib.metadata
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from pathlib import Path

from scion.architectures.inventory import Inventory
from scion.checkpoint.shards import CONFIG, Checkpoint, plan_shards
from scion.common.files import write_json
from scion.formats.modelopt import declared_exclusions
from scion.formats.spellings import DEFAULT_SPELLING, Spelling
from scion.quantization.layerwise.layer import refuse_not_finite
from scion.quantization.planned_shards import PlannedShards
from scion.quantization.planned_tensors import planned

MODELOPT = "nvidia-modelopt"
_KEPT = "tensors that stay as they are"


def lay_out(
    checkpoint: Checkpoint,
    quantized: Mapping[str, str],
    folder: Path,
    *,
    request: str,
    max_megabytes: int,
    spelling: Spelling = DEFAULT_SPELLING,
) -> PlannedShards:
    """The release's shards, to be filled.

    Args:
        checkpoint: The bf16 source.
        quantized: NVFP4 or FP8 by module.
        folder: Where the shards are in the meantime.
        request: Identity of what is asked for.
        max_megabytes: A shard is closed before it would grow past this.
        spelling: How the release names the tensors of quantized modules.

    Raises:
        ScionError: A matrix can't be cut into blocks, or the disk has no room.
    """
    tensors = planned(checkpoint, quantized, spelling)
    plan = plan_shards(tensors, max_bytes=max_megabytes * 1_000_000)
    return PlannedShards(folder, plan, request=request, spelled=spelling.all_tensors(quantized))


def copy_kept(
    checkpoint: Checkpoint, quantized: Collection[str], shards: PlannedShards
) -> Future[None]:
    """Copy the tensors that stay as they are into the shards, in the background."""
    kept = [
        checkpoint.piece(name)
        for name in checkpoint.shard_of
        if name.removesuffix(".weight") not in quantized
    ]
    return shards.copy(_KEPT, kept, refuse_not_finite)


def write_configs(
    folder: Path,
    checkpoint: Checkpoint,
    expected: Inventory,
    quantized: Mapping[str, str],
    spelling: Spelling = DEFAULT_SPELLING,
) -> list[str]:
    """Write config.json and the spelling's sidecar files from one list; returns that list."""
    left = set(expected.quantized) - set(quantized)
    exclude = declared_exclusions(
        expected.family,
        [module for module in expected.layer_modules if module in left or module in expected.kept],
        vision=bool(expected.vision),
    )
    producer = {"name": "modelopt", "version": importlib.metadata.version(MODELOPT)}
    scheme = spelling.declaration(exclude, producer=producer, algorithms=quantized)
    write_json(folder / CONFIG, {**checkpoint.config, "quantization_config": scheme})
    for name, content in spelling.sidecars.items():
        write_json(folder / name, content(scheme))
    return exclude
