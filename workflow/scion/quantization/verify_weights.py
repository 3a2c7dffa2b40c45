"""The weights of a release's quantized modules beside those that they were made of."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from scion.checkpoint.shards import Checkpoint
from scion.common.digest import in_parallel
from scion.common.errors import ScionError
from scion.common.progress import progress
from scion.formats.modelopt import FP8
from scion.formats.spellings import Spelling
from scion.quantization.recipe_table import RecipeRow
from scion.quantization.verify_fp8 import fp8_errors
from scion.quantization.verify_nvfp4 import check_module, row_blocks

# Of a module's weights. Rounding makes 0.1; GPTQ has made 0.12 of a whole model.
_LARGEST_ERROR = 0.5


def check_weights(
    checkpoint: Checkpoint,
    source: Checkpoint,
    quantized: Mapping[str, str],
    recipe: RecipeRow,
    spelling: Spelling,
    checksums: Mapping[str, float],
) -> dict[str, tuple[float, float]]:
    """Check the weights of modules, each within what its recipe may make of the source's.

    Args:
        checkpoint: The release.
        source: The source's headers, experts one by one.
        quantized: The algorithm by module.
        recipe: The one that they were quantized by.
        spelling: How the release names tensors.
        checksums: Of block scales that a search found, by module.

    Returns:
        Squared error and squared norm by module.

    Raises:
        ScionError: A weight, scale or error is none that the recipe can have made.
    """
    # One thread a module: torch's own gain little on windows of rows.
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with progress("verified modules", len(quantized)) as told:

        def check(module: str) -> tuple[float, float]:
            if quantized[module] == FP8:
                parts = list(fp8_errors(checkpoint, source, module, spelling, device=device))
                error, norm = sum(part[0] for part in parts), sum(part[1] for part in parts)
            else:
                rows = row_blocks(checkpoint, source, module, spelling)
                error, norm = check_module(
                    rows,
                    recipe,
                    module=module,
                    folder=checkpoint.folder,
                    checksums=checksums,
                    device=device,
                )
            told.advance()
            if not error_ratio(error, norm) <= _LARGEST_ERROR:
                raise _too_far(checkpoint.folder, module, error_ratio(error, norm))
            return error, norm

        found = in_parallel(check, quantized)
    return dict(zip(quantized, found, strict=True))


def _too_far(folder: Path, module: str, error: float) -> ScionError:
    return ScionError(
        "a quantized weight has little to do with its source",
        where=f"{folder}: {module}",
        expected=f"a relative error of at most {_LARGEST_ERROR}",
        found=f"{error:.3f}",
        hint="remove the quantize_nvfp4 artifact and run the workflow again",
    )


def overall_error(errors: Mapping[str, tuple[float, float]]) -> float:
    """The relative error of all weights together, of squared errors and norms by module."""
    squared = sum(error for error, _ in errors.values())
    return error_ratio(squared, sum(weight for _, weight in errors.values()))


def error_ratio(error: float, weight: float) -> float:
    """Root of a ratio of sums, without the last digits: they depend on the number of threads."""
    return float(f"{math.sqrt(error / weight):.6g}")
