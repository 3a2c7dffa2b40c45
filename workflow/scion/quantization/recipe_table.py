"""The recipes: one row each, which is all that Scion knows of one; needs no torch.

A row names ModelOpt's configuration and what it changes in it. The configuration's checks, the
estimate, the comparison's variants, the manifest and the card read the same rows, in this order;
`scion.quantization.recipes` builds what ModelOpt is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
class RecipeRow:
    """One recipe.

    Attributes:
        name: As the configuration names it.
        title: A few words for tables and pictures.
        description: A sentence for the card.
        modelopt: ModelOpt's configuration, by its name in `modelopt.torch.quantization`.
        searched: Whether block scales are chosen, not computed from maxima, or weights have moved
            under them: they are then not held against the source's maxima.
        work: What it does to a layer.
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
        ),
        RecipeRow(
            name="mse_sweep",
            title="least squares",
            description="Each block has the FP8 scale of 126 with the smallest squared error.",
            modelopt="NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG",
            searched=True,
            work=RecipeWork(passes=1, candidates=_SWEEP),
        ),
        RecipeRow(
            name="local_hessian",
            title="local Hessian",
            description="Each block has the FP8 scale of 126 with the smallest error of its "
            "output on the calibration samples.",
            modelopt=_LOCAL_HESSIAN,
            searched=True,
            work=RecipeWork(passes=2, candidates=_SWEEP, local_hessians=True),
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
        ),
        RecipeRow(
            name="local_hessian_gptq",
            title="local Hessian, GPTQ",
            description="Scales by local Hessian, then GPTQ on these scales.",
            modelopt=_LOCAL_HESSIAN,
            searched=True,
            work=RecipeWork(passes=4, candidates=_SWEEP, local_hessians=True, compensated=True),
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
