"""The matrices of a trained MTP head in FP8 or NVFP4, beside a body that is quantized already.

Weights get maximum scales, one over each group that engines load as one. Inputs get the scale of
the largest magnitude that training has seen, over the whole group too: q, k and v, gate and up read
the same input.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact
from scion.checkpoint.safetensors_file import Tensor as Entry
from scion.checkpoint.shards import CONFIG, Checkpoint
from scion.common.errors import ScionError
from scion.formats.modelopt import W4A16
from scion.formats.spellings import Spelling
from scion.formats.stored_modules import layout
from scion.quantization.head_groups import head_groups
from scion.quantization.packed_group import pack_group, shared_scale
from scion.quantization.stored_rows import StoredRows

MAXIMA = "input_maxima"
"""The fact of heal_mtp, in its `healing`, that has the largest magnitude of each linear module's
input, by the module's name."""


@dataclass(frozen=True)
class QuantizedHead:
    """A head's matrices as they are stored.

    Attributes:
        modules: Their names, group by group.
        tensors: By the name of each weight, the tensors in its place with their raw bytes.
    """

    modules: tuple[str, ...]
    tensors: Mapping[str, Sequence[tuple[Entry, bytes]]]


def quantized_head(release: Artifact, algorithm: str, spelling: Spelling) -> QuantizedHead:
    """Pack the matrices of a release's head.

    Args:
        release: The artifact of heal_mtp.
        algorithm: NVFP4, W4A16 or FP8.
        spelling: How the release names tensors.

    Raises:
        ScionError: The head is a mixture of experts; training has recorded no maximum of an input;
            a weight is not finite, all of a group are zero, or none of NVFP4's shape.
    """
    checkpoint = Checkpoint.open(release.folder)
    groups = head_groups(inventory(checkpoint.config, where=release.folder / CONFIG))
    tensors = dict[str, Sequence[tuple[Entry, bytes]]]()
    for group in groups:
        weights = [StoredRows(checkpoint.piece(f"{name}.weight")).whole() for name in group]
        scales = (
            {"input_scale": input_scale(release, group, algorithm)}
            if rounds_inputs(algorithm)
            else {}
        )
        where = f"{release.folder}: {group[0]}"
        packed = pack_group(
            [weight.to(torch.bfloat16) for weight in weights], algorithm, where=where
        )
        for module, made in zip(group, packed, strict=True):
            shape = checkpoint.tensor(f"{module}.weight").shape
            tensors[f"{module}.weight"] = _stored(
                module, shape, {**made, **scales}, algorithm, spelling
            )
    return QuantizedHead(tuple(name for group in groups for name in group), tensors)


def input_scale(release: Artifact, group: Sequence[str], algorithm: str) -> Tensor:
    """The scale of the inputs of modules that engines load as one, float32 [].

    Args:
        release: The artifact of heal_mtp.
        group: The modules.
        algorithm: NVFP4 or FP8.

    Raises:
        ScionError: Training has recorded no positive maximum for one of them.
    """
    healing = release.facts.get("healing")
    told = cast("dict[str, Any]", healing).get(MAXIMA) if isinstance(healing, dict) else None
    maxima = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
    found = {module: maxima.get(module) for module in group}
    for module, maximum in found.items():
        if not isinstance(maximum, int | float) or not 0 < maximum < math.inf:
            raise ScionError(
                "the input of a head's matrix has no largest magnitude, so it gets no scale",
                where=f"{release.folder}: {module}",
                expected=f"a positive number in healing.{MAXIMA}, a fact of heal_mtp",
                found="none" if maximum is None else maximum,
                hint="remove the artifact of heal_mtp and run the workflow again",
            )
    largest = max(float(maximum) for maximum in found.values() if maximum is not None)
    return shared_scale(torch.tensor(largest), algorithm)


def rounds_inputs(algorithm: str) -> bool:
    """Whether inputs are rounded, too."""
    return algorithm != W4A16


def _stored(
    module: str,
    shape: Sequence[int],
    made: Mapping[str, Tensor],
    algorithm: str,
    spelling: Spelling,
) -> list[tuple[Entry, bytes]]:
    """A module's tensors in a spelling, with their raw bytes."""
    stored = list[tuple[Entry, bytes]]()
    for suffix, (dtype, form) in layout(algorithm, shape).items():
        spelled, tensor = spelling.tensor(module, algorithm, suffix), made[suffix]
        if not form:
            form, tensor = spelling.scalar, torch.tensor(spelled.stored(tensor.item()))
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        entry = Entry(spelled.name, dtype, tuple(form), 0, len(raw))
        stored.append((entry, raw))
    return stored
