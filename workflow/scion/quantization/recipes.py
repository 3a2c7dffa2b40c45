"""Recipes as ModelOpt is given them: what becomes of the weights of a decoder layer.

All of them write NVFP4 with the same four tensors a module, so that every engine that loads one
loads all; what differs is how block scales are chosen, and which projections stay in bf16 or become
FP8 instead. ModelOpt 0.47 does the searching: `modelopt/torch/quantization/model_calib.py`; which
recipes there are says `scion.quantization.recipe_table`.

FP8 is ModelOpt's `configs/numerics/fp8`: weights and activations in E4M3, one scale each, from the
largest number. Its recipes for Qwen3.5 treat the same projections so
(`modelopt_recipes/huggingface/qwen3_5/ptq`).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import modelopt.torch.quantization as mtq
from modelopt.torch.quantization.utils.shared_input import SHARED_PATTERNS

from scion.architectures.inventory import Inventory
from scion.formats.modelopt import FP8, NVFP4, W4A16
from scion.formats.stored_modules import algorithms, projection_parents
from scion.quantization.config import Projections
from scion.quantization.recipe_table import RecipeRow, recipe_row

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
        row: The recipe's row of the table.
        config: ModelOpt's configuration.
        kept: Parents whose projections stay bf16, such as `linear_attn`.
        fp8: Parents whose projections become FP8.
        four_bits: What all others become: NVFP4 or W4A16.
    """

    row: RecipeRow
    config: dict[str, Any]
    kept: tuple[str, ...] = ()
    fp8: tuple[str, ...] = ()
    four_bits: str = NVFP4

    @property
    def name(self) -> str:
        """As the configuration names it."""
        return self.row.name

    @property
    def compensated(self) -> bool:
        """Whether weights move to make up for rounding errors (GPTQ)."""
        return self.row.compensated

    def quantized(self, expected: Inventory) -> dict[str, str]:
        """What becomes of the modules that do not stay bf16, by stored name, in layer order."""
        return algorithms(expected, kept=self.kept, fp8=self.fp8, four_bits=self.four_bits)

    def unproven(self, modules: Mapping[str, str]) -> list[str]:
        """Those of some quantized modules whose scales nothing in a release proves."""
        return [m for m, algorithm in modules.items() if algorithm != FP8 and self.row.bounds.open]

    def record(self) -> dict[str, Any]:
        """What a manifest says of the recipe."""
        return {
            "name": self.row.name,
            "description": self.row.description,
            "searched": self.row.searched,
            "compensated": self.row.compensated,
            "kept": list(self.kept),
            "fp8": list(self.fp8),
            "four_bits": self.four_bits,
        }


def _config(row: RecipeRow) -> dict[str, Any]:
    """ModelOpt's configuration of a row; a search sees the groups that engines fuse."""
    config = copy.deepcopy(getattr(mtq, row.modelopt))
    algorithm = config["algorithm"] if row.algorithm is None else dict(row.algorithm)
    if row.searched:
        algorithm = {"method": algorithm} if isinstance(algorithm, str) else algorithm
        algorithm = {**algorithm, "shared_states": copy.deepcopy(_SHARED)}
    return {**config, "algorithm": algorithm}


def recipe(
    name: str,
    *,
    keep_bf16: Projections = "none",
    use_fp8: Projections = "none",
    four_bits: str = NVFP4,
) -> Recipe:
    """The recipe of that name, but for some projections.

    Args:
        name: The recipe's.
        keep_bf16: Projections that stay bf16.
        use_fp8: Projections that become FP8, unless they stay bf16.
        four_bits: NVFP4, or W4A16, which leaves the inputs of the others as they are.

    Raises:
        ScionError: There is no such recipe.
    """
    row = recipe_row(name)
    kept, fp8 = projection_parents(keep_bf16, use_fp8)
    config = _config(row)
    # The last entry that matches a quantizer holds.
    if four_bits == W4A16:
        config["quant_cfg"].append({"quantizer_name": "*input_quantizer", "enable": False})
    config["quant_cfg"] += [{"quantizer_name": f"*{parent}.*", "enable": False} for parent in kept]
    config["quant_cfg"] += [
        {"quantizer_name": f"*{parent}.{projection}.{kind}_quantizer", "cfg": _FP8_QUANTIZER}
        for parent in fp8
        for projection in _PROJECTIONS[parent]
        for kind in ("weight", "input")
    ]
    return Recipe(row, config, kept, fp8, four_bits)
