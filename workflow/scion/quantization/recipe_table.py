"""The recipes: one row each, which is all that Scion knows of one; needs no torch.

A row names ModelOpt's configuration and what it changes in it. The configuration's checks, the
estimate, the comparison's variants, the manifest and the card read the same rows, in this order;
`scion.quantization.recipes` builds what ModelOpt is given.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scion.architectures.inventory import Inventory
from scion.common.errors import ScionError


@dataclass(frozen=True)
class RecipeWork:
    """What a recipe does to a layer: what `scion estimate` counts by.

    Attributes:
        passes: Of all samples through the layer. The first gives maxima, and what the next layer
            sees; one more collects Hessians, if any; where weights move, one more goes through the
            quantized layer for what the next one sees.
        candidates: Scales that are tried for each block.
        local_hessians: Whether a Hessian of each block of 16 inputs is summed up.
        compensated: Whether weights move to make up for rounding errors (GPTQ), which takes the
            Hessian of all inputs, and a run over the layers of its own.
    """

    passes: int
    candidates: int = 0
    local_hessians: bool = False
    compensated: bool = False


@dataclass(frozen=True)
class Far:
    """How many blocks of a module may be far from what maximum scales make of them.

    Attributes:
        multiple: Above 1, so many times or more; below 1, so many times or less.
        share: Of the module's blocks.
    """

    multiple: float
    share: float

    def most(self, blocks: int) -> int:
        """The largest number of them in a module; a small one has some room for chance."""
        wanted = self.share * blocks
        return int(wanted + 3 * math.sqrt(wanted)) + 1


@dataclass(frozen=True)
class WeightBounds:
    """What `verify_release` lets a recipe make of a weight, beside maximum scales.

    Scales and squared errors are multiples of those that maximum scales with the nearest codes
    would make of the same blocks, under the same global scale.

    Attributes:
        multiples: What each block's scale may be, to one rounding; empty if it may be any. FP8
            scales, which a search over multiples tries as well, may lie between these.
        block_error: The largest of any block, where a search guarantees it.
        module_error: The largest of a module; None where scales and codes leave no choice.
        far_scales: How many blocks may have scales far away.
        far_errors: How many blocks may have errors far away.
    """

    multiples: tuple[float, ...] = (1.0,)
    block_error: float | None = None
    module_error: float | None = None
    far_scales: tuple[Far, ...] = ()
    far_errors: tuple[Far, ...] = ()

    @property
    def open(self) -> bool:
        """Whether neither its weight nor a guarantee tells what scale a block should have."""
        return not self.multiples and self.block_error is None


@dataclass(frozen=True)
class RecipeRow:
    """One recipe.

    Attributes:
        name: As the configuration names it.
        title: A few words for tables and pictures.
        description: A sentence for the card.
        modelopt: ModelOpt's configuration, by its name in `modelopt.torch.quantization`.
        searched: Whether block scales are chosen, or held while weights move, rather than computed
            from maxima when all is done: modules that engines fuse must then share theirs before.
        work: What it does to a layer.
        bounds: What it may make of a weight.
        algorithm: Takes the place of the configuration's own `algorithm`; None leaves that.
        needs_samples: Whether samples give more than activation scales, or weights are packed by
            other than maximum scales. One that does not can take `quantization.input_scales`.
    """

    name: str
    title: str
    description: str
    modelopt: str
    searched: bool
    work: RecipeWork
    bounds: WeightBounds = WeightBounds()
    algorithm: Mapping[str, Any] | None = None
    needs_samples: bool = True

    @property
    def compensated(self) -> bool:
        """Whether weights move to make up for rounding errors (GPTQ)."""
        return self.work.compensated


REFERENCE = "nvfp4_default"
"""The recipe that a comparison holds others against."""

_LOCAL_HESSIAN = "NVFP4_W4A4_WEIGHT_LOCAL_HESSIAN_CFG"
# FP8 has 126 positive finite scales; four over six tries two.
_SWEEP = 126
# Least squares over scales that include the maximum's.
_LEAST_SQUARES = WeightBounds(multiples=(), block_error=1.0, module_error=1.0)
# At least half as much again as was seen of the embedded agent and of SmolLM2-135M
# (docs/measurements/verification.json, docs/lab-log.md). Samples decide, so some modules are far
# from all others: SmolLM2's first o_proj has a seventh of its blocks at twice the maximum's scale,
# most modules have one in a hundred.
_BY_HESSIAN = (
    Far(0.5, 0.02),
    Far(0.6, 0.04),
    Far(2, 0.3),
    Far(3, 0.1),
    Far(4, 0.04),
    Far(8, 0.005),
)
_OUTPUT_ERRORS = WeightBounds(
    multiples=(),
    module_error=2.5,
    far_scales=_BY_HESSIAN,
    far_errors=(Far(4, 0.2), Far(16, 0.04), Far(64, 0.012)),
)
_MOVED = (Far(16, 0.15), Far(64, 0.03))
RECIPES = {
    row.name: row
    for row in (
        RecipeRow(
            name=REFERENCE,
            title="maximum scales",
            description="ModelOpt's NVFP4_DEFAULT_CFG: each block's scale is its largest weight.",
            modelopt="NVFP4_DEFAULT_CFG",
            searched=False,
            work=RecipeWork(passes=1),
            needs_samples=False,
        ),
        RecipeRow(
            name="four_over_six",
            title="four over six",
            description="Each block is scaled to a largest code of 6 or of 4, whichever is nearer.",
            modelopt="NVFP4_FOUR_OVER_SIX_CFG",
            searched=True,
            work=RecipeWork(passes=1, candidates=2),
            # 1.5 times the scale makes the largest code a 4. It tries them in the weight's own
            # dtype, so a scale that it takes may be one E4M3 number beside the one it tried.
            bounds=WeightBounds(multiples=(1.0, 1.5), module_error=1.0),
        ),
        RecipeRow(
            name="mse_sweep",
            title="least squares",
            description="Each block has the FP8 scale of 126 with the smallest squared error.",
            modelopt="NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG",
            searched=True,
            work=RecipeWork(passes=1, candidates=_SWEEP),
            bounds=_LEAST_SQUARES,
        ),
        RecipeRow(
            name="local_hessian",
            title="local Hessian",
            description="Each block has the FP8 scale of 126 with the smallest error of its "
            "output on the calibration samples.",
            modelopt=_LOCAL_HESSIAN,
            searched=True,
            work=RecipeWork(passes=2, candidates=_SWEEP, local_hessians=True),
            bounds=_OUTPUT_ERRORS,
        ),
        RecipeRow(
            name="gptq",
            title="GPTQ",
            description="Maximum scales; GPTQ moves weights so that later columns make up for the "
            "rounding of earlier ones.",
            # Static scales that start as maxima: what GPTQ needs, which holds them while it moves
            # weights.
            modelopt=_LOCAL_HESSIAN,
            algorithm={"method": "max"},
            searched=True,
            work=RecipeWork(passes=3, compensated=True),
            # Scales are those of the source's maxima; only codes move.
            bounds=WeightBounds(module_error=8.0, far_errors=_MOVED),
        ),
        RecipeRow(
            name="local_hessian_gptq",
            title="local Hessian, GPTQ",
            description="Scales by local Hessian, then GPTQ on these scales.",
            modelopt=_LOCAL_HESSIAN,
            searched=True,
            work=RecipeWork(passes=4, candidates=_SWEEP, local_hessians=True, compensated=True),
            bounds=WeightBounds(
                multiples=(), module_error=8.0, far_scales=_BY_HESSIAN, far_errors=_MOVED
            ),
        ),
    )
}


def recipe_row(name: str) -> RecipeRow:
    """The recipe of that name.

    Raises:
        ScionError: There is none.
    """
    if name not in RECIPES:
        raise ScionError(
            "no recipe has this name",
            where="quantization.recipe",
            expected=", ".join(RECIPES),
            found=name,
            hint="choose one of these in the configuration",
        )
    return RECIPES[name]


def require_recipe_fits(row: RecipeRow, expected: Inventory) -> None:
    """Raise if a recipe can't be made of an architecture.

    Raises:
        ScionError: ModelOpt's GPTQ takes single linear modules, and passes over experts in silence.
    """
    if row.compensated and expected.stacked:
        raise ScionError(
            "this recipe does not reach the experts of a mixture",
            where="quantization.recipe",
            expected=", ".join(other.name for other in RECIPES.values() if not other.compensated),
            found=f"{row.name}, and {expected.family.title}",
            hint="choose one of these in the configuration",
        )
