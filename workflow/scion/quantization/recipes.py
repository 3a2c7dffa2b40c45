"""Recipes: what becomes of the weights of a decoder layer, as named settings.

All of them write NVFP4 with the same four tensors a module, so that every engine that loads one
loads all; what differs is how block scales are chosen, and which projections stay in bf16 or become
FP8 instead. ModelOpt 0.47 does the searching: `modelopt/torch/quantization/model_calib.py`.

FP8 is ModelOpt's `configs/numerics/fp8`: weights and activations in E4M3, one scale each, from the
largest number. Its recipes for Qwen3.5 treat the same projections so
(`modelopt_recipes/huggingface/qwen3_5/ptq`).
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import modelopt.torch.quantization as mtq
from modelopt.torch.quantization.utils.shared_input import SHARED_PATTERNS

from scion.architectures.inventory import Inventory
from scion.common.errors import ScionError
from scion.formats.stored_modules import algorithms, projection_parents
from scion.quantization.config import Projections

# Engines load these two as one as well, and take one scale for both; ModelOpt's own list of groups
# lacks them, so a search would choose block scales for a global scale that export then replaces.
_DELTA_NET = r"(?:(.*)\.)?(?:in_proj_qkv|in_proj_z)"
_SHARED = {"weight_global_amax": {"patterns": [*SHARED_PATTERNS, _DELTA_NET]}}
# The projections below each such parent. What else is there stays bf16 in every recipe.
_PROJECTIONS = {
    "linear_attn": ("in_proj_qkv", "in_proj_z", "out_proj"),
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
_FP8_QUANTIZER = next(
    entry["cfg"]
    for entry in mtq.FP8_DEFAULT_CFG["quant_cfg"]
    if entry["quantizer_name"] == "*weight_quantizer"
)


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
        fp8: Parents whose projections become FP8.
    """

    name: str
    title: str
    description: str
    searched: bool
    compensated: bool
    config: dict[str, Any]
    kept: tuple[str, ...] = ()
    fp8: tuple[str, ...] = ()

    def quantized(self, expected: Inventory) -> dict[str, str]:
        """What becomes of the modules that do not stay bf16, by stored name, in layer order."""
        return algorithms(expected, kept=self.kept, fp8=self.fp8)

    def record(self) -> dict[str, Any]:
        """What a manifest says of the recipe."""
        return {
            "name": self.name,
            "description": self.description,
            "searched": self.searched,
            "compensated": self.compensated,
            "kept": list(self.kept),
            "fp8": list(self.fp8),
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


def recipe(name: str, *, keep_bf16: Projections = "none", use_fp8: Projections = "none") -> Recipe:
    """The recipe of that name, but for some projections.

    Args:
        name: The recipe's.
        keep_bf16: Projections that stay bf16.
        use_fp8: Projections that become FP8, unless they stay bf16.

    Raises:
        ScionError: There is no such recipe.
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
    kept, fp8 = projection_parents(keep_bf16, use_fp8)
    config = copy.deepcopy(found.config)
    # The last entry that matches a quantizer holds.
    config["quant_cfg"] += [{"quantizer_name": f"*{parent}.*", "enable": False} for parent in kept]
    config["quant_cfg"] += [
        {"quantizer_name": f"*{parent}.{projection}.{kind}_quantizer", "cfg": _FP8_QUANTIZER}
        for parent in fp8
        for projection in _PROJECTIONS[parent]
        for kind in ("weight", "input")
    ]
    return replace(found, config=config, kept=kept, fp8=fp8)
