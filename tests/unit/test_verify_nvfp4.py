"""What verify_release lets each recipe make of a weight, and block scales that are wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from torch import Tensor, nn

from scion.common.devices import one_thread
from scion.common.errors import ScionError
from scion.formats.modelopt import NVFP4
from scion.formats.nvfp4 import dequantize
from scion.formats.packing import pack
from scion.quantization.layerwise.layer import calibrate, export, named_alone, scale_checksums
from scion.quantization.layerwise.torch_kernels import on_cpu
from scion.quantization.recipe_table import RECIPES
from scion.quantization.recipes import recipe
from scion.quantization.verify_nvfp4 import Rows, check_module

ROWS, COLUMNS = 96, 256
FACTORS = (0.5, 2.0, 3.0, 4.0)
Made = tuple[str, Rows, dict[str, float]]
"""A recipe, what it makes of a weight, and checksums of the scales that it found."""


class Layer(nn.Module):
    """One module that a recipe quantizes, under a name that ModelOpt's patterns take."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.down_proj = nn.Linear(COLUMNS, ROWS, bias=False, dtype=torch.bfloat16)
        self.mlp.down_proj.weight.data = weight.clone()


def inputs(generator: torch.Generator) -> Tensor:
    """Activations of which some columns go together, and some are large."""
    shared = torch.randn(256, 32, generator=generator) @ torch.randn(
        32, COLUMNS, generator=generator
    )
    sizes = torch.exp(0.5 * torch.randn(COLUMNS, generator=generator))
    own = torch.randn(256, COLUMNS, generator=generator)
    return ((0.1 * shared + own) * sizes).bfloat16()


@pytest.fixture(scope="module", params=RECIPES)
def made(request: pytest.FixtureRequest) -> Made:
    """A recipe, and what ModelOpt makes of a random weight by it."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ROWS, COLUMNS, generator=generator).bfloat16()
    # So that other blocks have room for a larger scale.
    weight[0, 0] = 20
    samples = inputs(generator)
    layer: Any = Layer(weight)
    with on_cpu(), one_thread(torch.device("cpu")), torch.no_grad():
        calibrate(
            named_alone(layer, "model.layers.0"),
            recipe(request.param),
            lambda _root: layer.mlp.down_proj(samples),
        )
        unproven = recipe(request.param).unproven({"l.mlp.down_proj": NVFP4})
        checksums = scale_checksums(layer, unproven, name="l")
        tensors = export(layer, ["l.mlp.down_proj"], [], name="l")
    parts = [
        tensors[f"l.mlp.down_proj.{suffix}"]
        for suffix in ("weight", "weight_scale", "weight_scale_2")
    ]
    return request.param, (weight, parts[0], parts[1], parts[2]), checksums


def wrong_scales(rows: Rows, factor: float, share: float, *, moved: bool) -> Rows:
    """Some blocks with so many times their scale, and the codes nearest to what they held."""
    weight, packed, scale, scale_2 = rows
    generator = torch.Generator().manual_seed(1)
    chosen = torch.rand(scale.shape, generator=generator) < share
    scaled = (scale.float() * factor).clamp(2.0**-9, 448).to(scale.dtype)
    changed = torch.where(chosen, scaled.float(), scale.float()).to(scale.dtype)
    # GPTQ's codes are not the nearest to the source.
    held = dequantize(packed, scale, scale_2) if moved else weight
    codes, _ = pack(held.contiguous(), scale_2, changed)
    return weight, codes, changed, scale_2


def verify(rows: Rows, made: Made) -> tuple[float, float]:
    row, checksums = RECIPES[made[0]], made[2]
    return check_module(
        windows(rows), row, module="l.mlp.down_proj", folder=Path("x"), checksums=checksums
    )


def windows(rows: Rows) -> Iterator[Rows]:
    weight, packed, scale, scale_2 = rows
    for start in range(0, ROWS, 40):
        window = slice(start, start + 40)
        yield weight[window], packed[window], scale[window], scale_2


def test_what_a_recipe_makes_passes(made: Made) -> None:
    error, norm = verify(made[1], made)
    assert 0.004 < error / norm < 0.1


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("factor", FACTORS)
def test_wrong_block_scales_are_found(made: Made, factor: float, share: float) -> None:
    broken = wrong_scales(made[1], factor, share, moved=RECIPES[made[0]].compensated)
    with pytest.raises(ScionError):
        verify(broken, made)


def test_another_choice_than_calibrations_is_found(made: Made) -> None:
    # One block, and a scale that a search may well choose.
    weight, packed, scale, scale_2 = made[1]
    changed = scale.clone()
    changed[5, 3] = (scale[5, 3].float() * 1.25).to(scale.dtype)
    codes, _ = pack(weight, scale_2, changed)
    if made[0] == "gptq":
        codes = packed
    with pytest.raises(ScionError):
        verify((weight, codes, changed, scale_2), made)


def test_samples_may_not_choose_without_a_checksum(made: Made) -> None:
    if not RECIPES[made[0]].bounds.open:
        return
    with pytest.raises(ScionError, match="not those that calibration chose"):
        verify(made[1], (made[0], made[1], {}))


def test_a_row_too_small_for_its_global_scale_is_found() -> None:
    # Rightly rounded, and yet gone: what happened to rows of a delta net (ollama #15866).
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    weight[2] *= 1e-8
    quantized: Any = NVFP4QTensor.quantize(weight.clone(), 16)
    made, scale, scale_2 = quantized
    rows = (weight, made._quantized_data, scale, scale_2)
    with pytest.raises(ScionError, match="became all zero") as caught:
        verify(rows, ("nvfp4_default", rows, {}))
    assert caught.value.found == "1 rows, first 2 of a window"
