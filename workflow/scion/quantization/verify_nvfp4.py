"""Whether the NVFP4 modules of a release are what their recipe makes of the source.

Every module's codes and block scales are held against the source, a window of rows at a time.
Where a recipe leaves no choice, each has to be within one rounding. Where it does, what a search
may have chosen is bounded by the recipe's `WeightBounds`: by the squared error that maximum scales
with the nearest codes would make of the same block or module, and by how many of a module's blocks
may have scales far from their maxima. Where samples choose among all scales that bounds little, so
there the scales have to be those that calibration found (`scion.quantization.checksum`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.formats.modelopt import W4A16
from scion.formats.nvfp4 import (
    dequantize,
    maximum_scales,
    relative_error,
    rounding_errors,
    square_sums,
    worst_rounding,
)
from scion.formats.spellings import Spelling
from scion.quantization.checksum import checksum
from scion.quantization.recipe_table import RecipeRow
from scion.quantization.stored_rows import StoredRows

# Float32 arithmetic on either side of a tie.
_TOLERANCE = 1 + 1e-3
# Of a block's own square: a block that its codes hold almost exactly has no error to speak of.
_NEGLIGIBLE = 1e-6
# Of the norm of a module's scales: ten times what float32 may make of their checksum.
_CHECKSUM = 1e-6
_ROWS = 256
_AGAIN = "remove the quantize_nvfp4 artifact and run the workflow again"

Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Weight, codes, block scales and global scale of some rows."""


def row_blocks(
    checkpoint: Checkpoint, source: Checkpoint, module: str, spelling: Spelling
) -> Iterator[Rows]:
    """A module of a release beside its source, a window of rows at a time."""
    # What is verified is the weight; activations may have a scale beside it.
    spelled = {s: spelling.tensor(module, W4A16, s) for s in spelling.tensors[W4A16]}
    weight = StoredRows(source.piece(f"{module}.weight"))
    packed = StoredRows(checkpoint.piece(spelled["weight"].name))
    scale = StoredRows(checkpoint.piece(spelled["weight_scale"].name))
    shared = spelled["weight_scale_2"]
    global_scale = StoredRows(checkpoint.piece(shared.name)).whole()
    scale_2 = torch.tensor(shared.meant(global_scale.item()))
    for first in range(0, weight.count, _ROWS):
        window = range(first, min(first + _ROWS, weight.count))
        yield weight.read(window), packed.read(window), scale.read(window), scale_2


def check_module(
    windows: Iterable[Rows],
    recipe: RecipeRow,
    *,
    module: str,
    folder: Path,
    checksums: Mapping[str, float],
    device: str = "cpu",
) -> tuple[float, float]:
    """Check the weight of a module.

    Args:
        windows: Its rows.
        recipe: The one that the release was made by.
        module: Its name.
        folder: The release's, for errors.
        checksums: Of the block scales that a search found, where nothing else proves them.
        device: Where to calculate.

    Returns:
        Squared error and squared norm.

    Raises:
        ScionError: A code, a scale or an error is none that the recipe can have made, or a row
            vanished.
    """
    where = f"{folder}: {module}"
    error = norm = maxima = scales = scale_norm = 0.0
    first = 0
    far = _FarBlocks(recipe)
    for rows in windows:
        weight, packed, scale, scale_2 = (part.to(device) for part in rows)
        _check_roundings(where, weight, packed, scale, scale_2, recipe)
        decoded = dequantize(packed, scale, scale_2)
        part = relative_error(weight, decoded)
        error, norm = error + part[0], norm + part[1]
        if recipe.bounds.open:
            decoded_scale = scale.float() * scale_2
            scales += checksum(decoded_scale, module=module, first=first)
            scale_norm += decoded_scale.double().square().sum().item()
        first += len(weight)
        if recipe.bounds.module_error is None:
            continue
        wanted = maximum_scales(weight, scale_2)
        squares = square_sums(weight.float())
        least = rounding_errors(weight, wanted, scale_2).maximum(squares * _NEGLIGIBLE)
        # Of a block of zeros nothing is far.
        errors = square_sums(decoded - weight.float()) / least
        _check_blocks(where, errors, recipe)
        maxima += least.double().sum().item()
        far.count(squares > 0, scale.float() / wanted, errors)
    _check_sum(where, error, maxima, recipe)
    far.check(where)
    if recipe.bounds.open:
        _check_scales(where, scales, checksums.get(module), math.sqrt(scale_norm))
    return error, norm


class _FarBlocks:
    """Counts a module's blocks that are far from what maximum scales make of them."""

    def __init__(self, recipe: RecipeRow) -> None:
        self._recipe, self._blocks = recipe, 0
        self._kinds = {"scale": recipe.bounds.far_scales, "error": recipe.bounds.far_errors}
        self._counts = {kind: [0] * len(bounds) for kind, bounds in self._kinds.items()}

    def count(self, used: torch.Tensor, scales: torch.Tensor, errors: torch.Tensor) -> None:
        """Add a window of rows: which blocks count, and multiples of what maximum scales make."""
        self._blocks += int(used.sum())
        for kind, multiples in (("scale", scales[used]), ("error", errors[used])):
            for place, bound in enumerate(self._kinds[kind]):
                beyond = (
                    multiples >= bound.multiple
                    if bound.multiple > 1
                    else multiples <= bound.multiple
                )
                self._counts[kind][place] += int(beyond.sum())

    def check(self, where: str) -> None:
        """Raise if there are too many."""
        for kind, bounds in self._kinds.items():
            for bound, count in zip(bounds, self._counts[kind], strict=True):
                most = bound.most(self._blocks)
                if count <= most:
                    continue
                direction = "more" if bound.multiple > 1 else "less"
                raise _refused(
                    f"too many blocks of a weight have another {kind} than their recipe gives",
                    where,
                    expected=f"at most {most} of {self._blocks} blocks with {bound.multiple:g} "
                    f"times the {kind} of maximum scales or {direction}, by {self._recipe.name}",
                    found=f"{count}",
                )


def _check_roundings(
    where: str,
    weight: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    scale_2: torch.Tensor,
    recipe: RecipeRow,
) -> None:
    multiples = recipe.bounds.multiples
    scale_error, code_error = worst_rounding(weight, packed, scale, scale_2, multiples=multiples)
    # GPTQ takes other codes than the nearest. NaN stays NaN.
    if recipe.compensated:
        code_error *= 0
    # `not <=` also catches NaN.
    if not (scale_error <= _TOLERANCE and code_error <= _TOLERANCE):
        raise _refused(
            "a quantized weight is further from its source than NVFP4 rounding allows",
            where,
            expected="block scales and codes within one rounding",
            found=f"scales {scale_error:.3f}, codes {code_error:.3f} times the allowed error",
        )
    vanished = (weight != 0).any(-1) & (packed & 0x77 == 0).all(-1)
    if vanished.any():
        raise ScionError(
            "rows of a weight became all zero in NVFP4",
            where=where,
            expected="no zero row that is not zero in the source",
            found=f"{int(vanished.sum())} rows, first {int(vanished.nonzero()[0])} of a window",
            hint="keep this module in bf16 (https://github.com/ollama/ollama/issues/15866)",
        )


def _check_blocks(where: str, errors: torch.Tensor, recipe: RecipeRow) -> None:
    most = recipe.bounds.block_error
    if most is None:
        return
    beyond = ~(errors <= most * _TOLERANCE)
    if beyond.any():
        row, block = beyond.nonzero()[0].tolist()
        raise _refused(
            "blocks of a weight are further from their source than their recipe can leave them",
            where,
            expected=f"at most {most:g} times the squared error of maximum scales, in each block "
            f"of {recipe.name}",
            found=f"{int(beyond.sum())} blocks beyond, first row {row} of a window, block {block}: "
            f"{errors[row, block].item():.3g} times",
        )


def _check_sum(where: str, error: float, maxima: float, recipe: RecipeRow) -> None:
    most = recipe.bounds.module_error
    # `<=` also catches NaN.
    if most is None or error <= most * _TOLERANCE * maxima:
        return
    raise _refused(
        "a weight is further from its source than its recipe leaves it",
        where,
        expected=f"at most {most:g} times the squared error of maximum scales, by {recipe.name}",
        found=f"{error / maxima if maxima else math.inf:.3g} times",
    )


def _check_scales(where: str, found: float, wanted: float | None, norm: float) -> None:
    if wanted is not None and abs(found - wanted) <= _CHECKSUM * norm:
        return
    raise _refused(
        "block scales are not those that calibration chose",
        where,
        expected="a checksum in the manifest" if wanted is None else f"the checksum {wanted:.9g}",
        found=f"{found:.9g}; rounding moves it by {_CHECKSUM * norm:.2g} at most",
    )


def _refused(problem: str, where: str, *, expected: str, found: str) -> ScionError:
    return ScionError(problem, where=where, expected=expected, found=found, hint=_AGAIN)
