"""Whether the FP8 modules of a release are what ModelOpt makes of their source."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from scion.checkpoint.shards import Checkpoint
from scion.common.digest import in_parallel
from scion.common.errors import ScionError
from scion.formats.fp8 import E4M3_LARGEST, dequantize, worst_rounding
from scion.formats.modelopt import FP8
from scion.formats.nvfp4 import relative_error
from scion.formats.spellings import Spelling
from scion.quantization.recipe_table import RecipeRow

# Float32 arithmetic on either side of a tie.
_TOLERANCE = 1 + 1e-3
_ROWS = 256
# A search tries multiples in the weight's dtype: bf16 rounds by 2^-9 at most.
_SEARCHED = 1 + 2**-8
_AGAIN = "remove the quantize_nvfp4 artifact and run the workflow again"


def fp8_errors(
    checkpoint: Checkpoint, source: Checkpoint, module: str, spelling: Spelling, *, device: str
) -> Iterator[tuple[float, float]]:
    """Check a module's weight, a window of rows at a time.

    Yields:
        Squared error and squared norm of each window.

    Raises:
        ScionError: A number is further from its source than one E4M3 rounding, or a row vanished.
    """
    name, stored_name = f"{module}.weight", spelling.tensor(module, FP8, "weight").name
    scale = _weight_scale(checkpoint, module, spelling).to(device)
    with _open(source, name) as original, _open(checkpoint, stored_name) as stored:
        whole, quantized = original.get_slice(name), stored.get_slice(stored_name)
        for start in range(0, source.tensor(name).shape[0], _ROWS):
            window = slice(start, start + _ROWS)
            weight, eight_bits = whole[window].to(device), quantized[window].to(device)
            _check_rows(checkpoint.folder, module, weight, eight_bits, scale)
            yield relative_error(weight, dequantize(eight_bits, scale))


def _check_rows(
    folder: Path, module: str, weight: torch.Tensor, stored: torch.Tensor, scale: torch.Tensor
) -> None:
    error = worst_rounding(weight, stored, scale)
    # `not <=` also catches NaN.
    if not error <= _TOLERANCE:
        raise ScionError(
            "an FP8 weight is further from its source than one rounding allows",
            where=f"{folder}: {module}",
            expected="each number the nearest E4M3 number of weight over scale",
            found=f"{error:.3f} times the allowed error",
            hint=_AGAIN,
        )
    vanished = (weight != 0).any(-1) & (stored.float() == 0).all(-1)
    if vanished.any():
        raise ScionError(
            "rows of a weight became all zero in FP8",
            where=f"{folder}: {module}",
            expected="no zero row that is not zero in the source",
            found=f"{int(vanished.sum())} rows, first {int(vanished.nonzero()[0])} of a window",
            hint="keep this module in bf16: quantization.keep_bf16",
        )


def check_fp8_scales(
    checkpoint: Checkpoint,
    source: Checkpoint,
    modules: Sequence[str],
    groups: Sequence[tuple[str, ...]],
    recipe: RecipeRow,
    spelling: Spelling,
) -> None:
    """Check that weight scales use the whole range, and that fused modules share theirs.

    Args:
        checkpoint: The release.
        source: The source's headers, experts one by one.
        modules: Those in FP8.
        groups: Modules that engines load as one.
        recipe: The one that the release was made by.
        spelling: How the release names tensors.

    Raises:
        ScionError: A scale is not that of the largest number of the module or its group. Engines
            would round the module anew, or it has lost range.
    """
    group_of = {module: group for group in groups for module in group}
    largest = dict(
        zip(modules, in_parallel(lambda module: _largest(source, module), modules), strict=True)
    )
    # A search over multiples tries FP8's scales, too; each module of a group has its own choice,
    # and the largest holds for all.
    multiples = recipe.bounds.multiples or (1.0,)
    slack = _TOLERANCE if len(multiples) == 1 else _SEARCHED
    for module in modules:
        group = group_of.get(module, (module,))
        wanted = max(largest[member] for member in group) / E4M3_LARGEST
        scales = {member: _weight_scale(checkpoint, member, spelling).item() for member in group}
        stored = scales[module]
        least, most = min(multiples) * wanted / slack, max(multiples) * wanted * slack
        if len(set(scales.values())) == 1 and least <= stored <= most:
            continue
        raise ScionError(
            "the scale of an FP8 weight is not that of its largest number",
            where=f"{checkpoint.folder}: {spelling.tensor(module, FP8, 'weight_scale').name}",
            expected=(f"{wanted:g}" if len(multiples) == 1 else f"{least:g} to {most:g}")
            + f", in all of {', '.join(group)}",
            found=", ".join(f"{scale:g}" for scale in scales.values()),
            hint=_AGAIN,
        )


def _largest(source: Checkpoint, module: str) -> float:
    name = f"{module}.weight"
    with _open(source, name) as file:
        rows = file.get_slice(name)
        return max(
            rows[start : start + _ROWS].abs().max().item()
            for start in range(0, source.tensor(name).shape[0], _ROWS)
        )


def _open(checkpoint: Checkpoint, name: str) -> Any:
    return safe_open(checkpoint.folder / checkpoint.shard_of[name], framework="pt")


def _weight_scale(checkpoint: Checkpoint, module: str, spelling: Spelling) -> torch.Tensor:
    spelled = spelling.tensor(module, FP8, "weight_scale")
    with _open(checkpoint, spelled.name) as file:
        return torch.tensor(spelled.meant(file.get_tensor(spelled.name).item()))
