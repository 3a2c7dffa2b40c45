"""The files of a quantized checkpoint: shards to be filled, tensors that stay, the configs."""

import importlib.metadata
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from pathlib import Path

from scion.architectures.inventory import Inventory
from scion.checkpoint.shards import CONFIG, Checkpoint, plan_shards
from scion.common.files import write_json
from scion.formats.modelopt import declared_exclusions
from scion.formats.spellings import DEFAULT_SPELLING
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
) -> PlannedShards:
    """The release's shards, to be filled.

    Args:
        checkpoint: The bf16 source.
        quantized: The algorithm by module.
        folder: Where the shards are in the meantime.
        request: Identity of what is asked for.
        max_megabytes: A shard is closed before it would grow past this.

    Raises:
        ScionError: A matrix can't be cut into blocks, or the disk has no room.
    """
    tensors = planned(checkpoint, quantized)
    plan = plan_shards(tensors, max_bytes=max_megabytes * 1_000_000)
    return PlannedShards(folder, plan, request=request)


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
) -> list[str]:
    """Write config.json and hf_quant_config.json from one list; returns that list."""
    left = set(expected.quantized) - set(quantized)
    exclude = declared_exclusions(
        expected.family,
        [module for module in expected.layer_modules if module in left or module in expected.kept],
    )
    producer = {"name": "modelopt", "version": importlib.metadata.version(MODELOPT)}
    scheme = DEFAULT_SPELLING.declaration(exclude, producer=producer, algorithms=quantized)
    write_json(folder / CONFIG, {**checkpoint.config, "quantization_config": scheme})
    for name, content in DEFAULT_SPELLING.sidecars.items():
        write_json(folder / name, content(scheme))
    return exclude
