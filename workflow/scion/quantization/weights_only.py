"""Quantize without calibrating: activation scales are taken from a release of the same shape.

Maximum scales of weights need no samples. So where the activation scales are known, from the
release of an earlier version of the same fine-tune, say, a checkpoint becomes NVFP4 as fast as it
can be read and written: one matrix is packed on all cores while others are read and written.
"""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from scion.checkpoint.shards import Checkpoint
from scion.common.digest import digest_json, read_into
from scion.common.errors import ScionError
from scion.common.progress import progress
from scion.formats.modelopt import NVFP4
from scion.formats.spellings import DEFAULT_SPELLING, declared_spelling
from scion.quantization.layerwise.layer import FLOATS
from scion.quantization.packed_group import pack_group
from scion.quantization.planned_shards import PlannedShards

# Groups that are packed, but not yet written; with three matrices each of 180 MB in bf16.
_WAITING = 4
# Groups that are read ahead, so that the disk has work while a large one is packed.
_AHEAD, _READERS = 3, 2


def read_input_scales(folder: Path, modules: Sequence[str]) -> dict[str, torch.Tensor]:
    """The activation scales of a release, float32 scalars by module.

    Args:
        folder: The release.
        modules: Those that are needed.

    Raises:
        ScionError: It lacks one of them, or one is no positive number.
    """
    release = Checkpoint.open(folder)
    spelling = declared_spelling(release.config) or DEFAULT_SPELLING
    scales: dict[str, torch.Tensor] = {}
    for module in modules:
        spelled = spelling.tensor(module, NVFP4, "input_scale")
        name = spelled.name
        if name not in release.shard_of:
            raise _unusable(folder, name, "no such tensor")
        with safe_open(folder / release.shard_of[name], "pt") as file:
            stored: torch.Tensor = file.get_tensor(name)
        if (
            stored.dtype != torch.float32
            or stored.numel() != 1
            or not 0 < stored.item() < float("inf")
        ):
            raise _unusable(folder, name, f"{stored}")
        scales[module] = torch.tensor(spelled.meant(stored.item()))
    return scales


def scales_digest(scales: dict[str, torch.Tensor]) -> str:
    """Digest of activation scales: what stands for them in a manifest."""
    return digest_json({module: float(scale).hex() for module, scale in scales.items()})


def pack_all(
    checkpoint: Checkpoint,
    modules: Sequence[str],
    groups: Sequence[tuple[str, ...]],
    input_scales: dict[str, torch.Tensor],
    shards: PlannedShards,
) -> None:
    """Write every module in NVFP4, with maximum scales as `nvfp4_default` has them.

    Nothing is calibrated: a module has the activation scale that it is given, if any.

    Args:
        checkpoint: The bf16 source.
        modules: Stored names of the modules.
        groups: Those of them that engines load as one: they get one global scale.
        input_scales: Activation scale by module; empty where activations stay as they are.
        shards: Where they go; groups that it has already are left out.

    Raises:
        ScionError: A weight is not finite or all zero, or there is no room on the disk.
    """
    left = [group for group in _in_groups(modules, groups) if group[0] not in shards.finished]
    pending: list[Future[None]] = []
    done = len(modules) - sum(map(len, left))
    with progress("packed modules", len(modules), done=done) as told:
        for group, weights in _read_ahead(checkpoint, left):
            tensors = _pack_group(checkpoint, group, weights, input_scales)
            pending.append(shards.write(group[0], tensors))
            while len(pending) > _WAITING:
                pending.pop(0).result()
            told.advance(amount=len(group))
        for written in pending:
            written.result()
    print(f"packed {len(modules)} modules, not calibrated", file=sys.stderr)


def _in_groups(modules: Sequence[str], groups: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """All modules, those of one group together, in the order of the first of each."""
    group_of = {module: group for group in groups for module in group}
    return list(dict.fromkeys(group_of.get(module, (module,)) for module in modules))


def _read_ahead(
    checkpoint: Checkpoint, groups: Sequence[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], list[torch.Tensor]]]:
    """Each group with its weights; the next ones are read meanwhile."""

    def read(group: tuple[str, ...]) -> list[torch.Tensor]:
        return [_weight(checkpoint, f"{module}.weight") for module in group]

    with ThreadPoolExecutor(_READERS, thread_name_prefix="reader") as pool:
        ahead: deque[Future[list[torch.Tensor]]] = deque()
        left = iter(groups)
        for group in groups:
            ahead.extend(
                pool.submit(read, following) for following in islice(left, _AHEAD - len(ahead))
            )
            yield group, ahead.popleft().result()


def _weight(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """A stored matrix in bf16.

    It is read, not mapped: a mapped file comes in page by page, each time through the kernel. And
    NumPy asks for huge pages, which torch does not, so that memory comes 2 MB at a time.
    """
    piece = checkpoint.piece(name)
    raw: Any = np.empty(piece.tensor.size, np.uint8)
    read_into(piece.path, memoryview(raw), offset=piece.offset)
    stored = torch.from_numpy(raw).view(FLOATS[piece.tensor.dtype]).view(piece.tensor.shape)
    return stored.to(torch.bfloat16)


def _pack_group(
    checkpoint: Checkpoint,
    group: tuple[str, ...],
    weights: Sequence[torch.Tensor],
    input_scales: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    made = pack_group(weights, NVFP4, where=f"{checkpoint.folder}: {group[0]}")
    tensors: dict[str, torch.Tensor] = {}
    for module, packed in zip(group, made, strict=True):
        tensors |= {f"{module}.{suffix}": tensor for suffix, tensor in packed.items()}
        if input_scales:
            tensors[f"{module}.input_scale"] = input_scales[module]
    return tensors


def _unusable(folder: Path, name: str, found: str) -> ScionError:
    return ScionError(
        "activation scales can't be taken from this release",
        where=f"{folder}: {name}",
        expected="a positive float32 number for each module that is quantized",
        found=found,
        hint="name an NVFP4 release of the same architecture and recipe, or leave "
        "quantization.input_scales out to calibrate",
    )
