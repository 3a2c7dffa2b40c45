"""A recipe that Scion does not have, added as one row: all that knows recipes knows it then."""

import math
from pathlib import Path

import pytest

from conversion import Conversion, Pico, convert
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.config import load_config
from scion.quantization.config import Quantization
from scion.quantization.estimate.estimate import Machine, estimate
from scion.quantization.estimate.rates import Rates
from scion.quantization.recipe_table import RECIPES, RecipeRow, RecipeWork, WeightBounds
from scion.quantization.variants import together
from scion.quantization.variants_config import Comparison

# Each block's maximum times 0.8, 0.9, 1, 1.1 or 1.2, whichever has the smallest squared error.
STEP, START, STOP = 0.1, 0.8, 1.2
ROW = RecipeRow(
    name="mse_multipliers",
    title="least squares, five scales",
    description="Each block has that of five multiples of its maximum with the smallest error.",
    modelopt="NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG",
    algorithm={
        "method": "mse",
        "fp8_scale_sweep": False,
        "step_size": STEP,
        "start_multiplier": START,
        "stop_multiplier": STOP,
    },
    searched=True,
    work=RecipeWork(passes=1, candidates=math.ceil((STOP - START) / STEP) + 1),
    bounds=WeightBounds(multiples=(0.8, 0.9, 1.0, 1.1, 1.2), module_error=1.0),
)
CPU = Machine("a CPU", None, 16 << 30)
RATES = Rates(1e9, 1e9, 1e9, 1e12, 1e11, 1e9, "made up")


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, ROW.name, ROW)


def test_the_configuration_takes_it() -> None:
    config = load_config({"quantization": {"recipe": ROW.name}}, where="x.yaml")
    assert config.quantization.recipe == ROW.name
    with pytest.raises(ScionError, match=f"or '{ROW.name}'"):
        load_config({"quantization": {"recipe": "none_such"}}, where="x.yaml")


def test_a_comparison_makes_it_with_those_that_share_a_run() -> None:
    variants = Comparison().variants
    assert [variant.name for variant in variants].count(ROW.name) == 1
    shared, *alone = together(variants)
    assert ROW.name in [variant.name for variant in shared]
    assert [len(run) for run in alone] == [1, 1]


def test_the_estimate_counts_its_candidates(conversion: Conversion) -> None:
    source = Checkpoint.open(conversion.extract_text.folder)

    def calculating(recipe: str) -> dict[str, float]:
        priced = estimate(source, Quantization(recipe=recipe), [[8]], CPU)
        assert priced.recipe == recipe
        return {term.name: term.seconds for term in priced.terms(RATES)}

    swept, ours = calculating("mse_sweep"), calculating(ROW.name)
    differing = [name for name in swept if swept[name] != ours[name]]
    assert len(differing) == 1
    assert ours[differing[0]] / swept[differing[0]] == pytest.approx(
        ROW.work.candidates / RECIPES["mse_sweep"].work.candidates
    )


def test_a_release_is_made_by_it_and_verified(
    pico: Pico, conversion: Conversion, tmp_path: Path
) -> None:
    # verify_release holds the scales against the multiples of maxima that the row names.
    made = convert(pico, tmp_path, recipe=ROW.name)
    for artifact in (made.quantize_nvfp4, made.graft_mtp):
        assert artifact.facts["recipe"] == {
            "name": ROW.name,
            "description": ROW.description,
            "searched": True,
            "compensated": False,
            "kept": [],
            "fp8": [],
            "four_bits": "NVFP4",
        }
    assert made.verify_release.facts["quantized_modules"] > 0
    ours = made.verify_release.facts["relative_weight_error"]
    assert ours < conversion.verify_release.facts["relative_weight_error"]
