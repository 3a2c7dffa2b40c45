"""Recipes: what becomes of the weights of a decoder layer, as named settings.

All of them write NVFP4 with the same four tensors a module, so that every engine that loads one
loads all; what differs is how block scales are chosen, and what stays in bf16. ModelOpt 0.47 does
the searching: `modelopt/torch/quantization/model_calib.py`.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import modelopt.torch.quantization as mtq
from modelopt.torch.quantization.utils.shared_input import SHARED_PATTERNS

from scion.architectures import Inventory
from scion.config_conversion import Kept
from scion.errors import ScionError
from scion.nvfp4_config import KEPT_PARENTS

# Engines load these two as one as well, and take one scale for both; ModelOpt's own list of groups
# lacks them, so a search would choose block scales for a global scale that export then replaces.
_DELTA_NET = r"(?:(.*)\.)?(?:in_proj_qkv|in_proj_z)"
_SHARED = {"weight_global_amax": {"patterns": [*SHARED_PATTERNS, _DELTA_NET]}}


@dataclass(frozen=True)
class Recipe:
    """How the modules of a layer are quantized.

    Attributes:
        name: As the configuration names it.
        title: A few words for tables.
        description: A sentence for the card.
        searched: Whether block scales are chosen, not computed from maxima.
        compensated: Whether weights move to make up for rounding errors (GPTQ).
        config: ModelOpt's configuration.
        kept: Parents whose projections stay bf16, such as `linear_attn`.
    """

    name: str
    title: str
    description: str
    searched: bool
    compensated: bool
    config: dict[str, Any]
    kept: tuple[str, ...] = ()

    def quantized(self, expected: Inventory) -> list[str]:
        """Stored names of the modules that become NVFP4, in layer order."""
        return expected.quantized_outside(self.kept)

    def record(self) -> dict[str, Any]:
        """What a manifest says of the recipe."""
        return {
            "name": self.name,
            "description": self.description,
            "searched": self.searched,
            "compensated": self.compensated,
            "kept": list(self.kept),
        }


def _searching(config: dict[str, Any], **algorithm: Any) -> dict[str, Any]:
    """A configuration whose search sees the groups that engines fuse."""
    config = copy.deepcopy(config)
    config["algorithm"] = {**config["algorithm"], "shared_states": _SHARED, **algorithm}
    return config


_LOCAL_HESSIAN = _searching(mtq.NVFP4_W4A4_WEIGHT_LOCAL_HESSIAN_CFG)
# Static scales that start as maxima: what GPTQ needs, which holds them while it moves weights.
_STATIC_MAX = {**_LOCAL_HESSIAN, "algorithm": {"method": "max", "shared_states": _SHARED}}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="nvfp4_default",
            title="maximum scales",
            description="ModelOpt's NVFP4_DEFAULT_CFG: each block's scale is its largest weight.",
            searched=False,
            compensated=False,
            config=mtq.NVFP4_DEFAULT_CFG,
        ),
        Recipe(
            name="four_over_six",
            title="four over six",
            description="Each block is scaled to a largest code of 6 or of 4, whichever is nearer.",
            searched=True,
            compensated=False,
            config=_searching(mtq.NVFP4_FOUR_OVER_SIX_CFG),
        ),
        Recipe(
            name="mse_sweep",
            title="least squares",
            description="Each block has the FP8 scale of 126 with the smallest squared error.",
            searched=True,
            compensated=False,
            config=_searching(mtq.NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG),
        ),
        Recipe(
            name="local_hessian",
            title="local Hessian",
            description="Each block has the FP8 scale of 126 with the smallest error of its "
            "output on the calibration samples.",
            searched=True,
            compensated=False,
            config=_LOCAL_HESSIAN,
        ),
        Recipe(
            name="gptq",
            title="GPTQ",
            description="Maximum scales; GPTQ moves weights so that later columns make up for the "
            "rounding of earlier ones.",
            searched=True,
            compensated=True,
            config=_STATIC_MAX,
        ),
        Recipe(
            name="local_hessian_gptq",
            title="local Hessian, GPTQ",
            description="Scales by local Hessian, then GPTQ on these scales.",
            searched=True,
            compensated=True,
            config=_LOCAL_HESSIAN,
        ),
    )
}


def recipe(name: str, *, keep_bf16: Kept = "none") -> Recipe:
    """The recipe of that name, with the projections of `keep_bf16` left out.

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
    found = RECIPES[name]
    parents = KEPT_PARENTS[keep_bf16]
    if not parents:
        return found
    config = copy.deepcopy(found.config)
    config["quant_cfg"] += [
        {"quantizer_name": f"*{parent}.*", "enable": False} for parent in parents
    ]
    return replace(found, config=config, kept=parents)
