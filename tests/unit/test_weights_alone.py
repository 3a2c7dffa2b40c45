"""Releases of NVFP4 weights alone (W4A16): what is stored, declared, checked, told and decoded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import measured
from conversion import ENVIRONMENT, Conversion, Pico, convert
from scion.artifacts.making import Output
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.config import load_config
from scion.evaluation.offline.linear import NvFp4Linear
from scion.evaluation.offline.weights import Weights
from scion.lint.config import Lint
from scion.lint.gate import lint_folder
from scion.lint.rule import Severity
from scion.quantization.config import Quantization
from scion.quantization.estimate.estimate import Machine, estimate
from scion.stages.graft_mtp import graft_mtp
from scion.stages.quantize_nvfp4 import quantize_nvfp4
from scion.stages.respell import respell
from sealed import rendered

MODULE = "model.language_model.layers.3.self_attn.q_proj"


def declared(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_bytes())["quantization_config"]


def test_the_weights_are_those_of_w4a4_and_nothing_else_is_stored(
    weights_alone: Conversion, conversion: Conversion
) -> None:
    ours, theirs = (made.quantize_nvfp4.tensors() for made in (weights_alone, conversion))
    assert theirs.keys() - ours.keys() == {name for name in theirs if "input_scale" in name}
    assert all(row["sha256"] == theirs[name]["sha256"] for name, row in ours.items())


def test_both_files_declare_it_as_modelopt_does(weights_alone: Conversion) -> None:
    folder = weights_alone.graft_mtp.folder
    nested = json.loads((folder / "hf_quant_config.json").read_bytes())["quantization"]
    flat = declared(folder)
    assert flat["quant_algo"] == nested["quant_algo"] == "W4A16_NVFP4"
    # As ModelOpt's own export has it (tests/unit/test_quantizing.py).
    assert [group.keys() for group in flat["config_groups"].values()] == [{"targets", "weights"}]


def test_no_sample_is_read_where_scales_follow_from_weights(
    weights_alone: Conversion, tmp_path: Path
) -> None:
    settings = {
        "recipe": "nvfp4_default",
        "activations": "bf16",
        "calibration": {"sets": [{"dataset": str(tmp_path / "none.jsonl")}]},
        "device": "cpu",
        "max_shard_megabytes": 1,
    }
    made = quantize_nvfp4(
        text=weights_alone.extract_text,
        output=Output.at(tmp_path / "made"),
        settings=Quantization.model_validate(settings),
        environment=ENVIRONMENT,
    )
    assert made.content == weights_alone.quantize_nvfp4.content
    assert made.facts["calibration"]["samples"] == 0
    assert made.facts["input_scales"] is None


def test_engines_build_what_is_stored_in_either_spelling(
    weights_alone: Conversion, tmp_path: Path
) -> None:
    # verify_release has linted the release for the default engines, and would have stopped.
    facts = weights_alone.verify_release.facts
    assert facts["quantized_modules"] == 50
    packed = respell(
        quantized=weights_alone.quantize_nvfp4,
        spelling="compressed-tensors",
        output=Output.at(tmp_path / "packed"),
        environment=ENVIRONMENT,
    )
    (group,) = declared(packed.folder)["config_groups"].values()
    assert group["input_activations"] is None
    assert f"{MODULE}.weight_global_scale" in packed.tensors()
    assert f"{MODULE}.input_global_scale" not in packed.tensors()
    found = lint_folder(packed.folder, Lint())
    assert [result.rule.code for result in found if result.rule.severity is Severity.ERROR] == []
    back = respell(
        quantized=packed,
        spelling="modelopt",
        output=Output.at(tmp_path / "back"),
        environment=ENVIRONMENT,
    )
    assert back.content == weights_alone.quantize_nvfp4.content


def test_a_search_beside_fp8_is_verified_too(pico: Pico, tmp_path: Path) -> None:
    made = convert(
        pico, tmp_path, samples=1, activations="bf16", recipe="four_over_six", use_fp8="attention"
    )
    # It has linted the release, whose modules in FP8 round their inputs, and no others.
    facts = made.verify_release.facts
    assert (facts["quantized_modules"], facts["fp8_modules"]) == (50, 26)
    # Of the weights in either format together, as a verdict judges it.
    by_module = json.loads((made.verify_release.folder / "verification.json").read_bytes())[
        "relative_weight_error_by_module"
    ]
    assert min(by_module.values()) < 0.04 < facts["relative_weight_error"] < 0.09
    scaled = {name for name in made.graft_mtp.tensors() if name.endswith(".input_scale")}
    assert len(scaled) == 26
    layers = declared(made.graft_mtp.folder)["quantized_layers"]
    assert layers["model.language_model.layers.3.mlp.up_proj"] == {
        "quant_algo": "W4A16_NVFP4",
        "group_size": 16,
    }
    packed = respell(
        quantized=made.quantize_nvfp4,
        spelling="compressed-tensors",
        output=Output.at(tmp_path / "packed"),
        environment=ENVIRONMENT,
    )
    groups = declared(packed.folder)["config_groups"].values()
    assert [group["input_activations"] is None for group in groups].count(True) == 1
    found = lint_folder(packed.folder, Lint())
    assert [result.rule.code for result in found if result.rule.severity is Severity.ERROR] == []


def test_the_estimate_of_the_shards_is_exact(weights_alone: Conversion) -> None:
    settings = Quantization(recipe="nvfp4_default", activations="bf16", max_shard_megabytes=1)
    checkpoint = Checkpoint.open(weights_alone.extract_text.folder)
    made = estimate(checkpoint, settings, [], Machine("any", None, 10**12))
    shards = weights_alone.quantize_nvfp4.files
    written = sum(entry["size"] for name, entry in shards.items() if name.endswith(".safetensors"))
    assert made.written[0].size == written
    # No sample is read, no layer runs.
    assert (made.passes, made.samples, made.device) == (0, 0, ())


@pytest.mark.parametrize("spelling", ["modelopt", "compressed-tensors"])
def test_it_is_decoded_offline(weights_alone: Conversion, tmp_path: Path, spelling: str) -> None:
    release = weights_alone.graft_mtp
    if spelling != "modelopt":
        release = graft_mtp(
            quantized=respell(
                quantized=weights_alone.quantize_nvfp4,
                spelling=spelling,
                output=Output.at(tmp_path / "packed"),
                environment=ENVIRONMENT,
            ),
            fixed=weights_alone.fix_keys,
            donor=weights_alone.fetch_donor,
            output=Output.at(tmp_path / "grafted"),
            environment=ENVIRONMENT,
        )
    checkpoint, device = Checkpoint.open(release.folder), torch.device("cpu")
    weights = Weights(checkpoint, device=device, activations="nvfp4")
    assert weights.activations == "bf16"
    rows, columns = weights.inventory.linear[MODULE]
    module = weights._linear(MODULE, torch.nn.Linear(columns, rows, device="meta"))
    assert isinstance(module, NvFp4Linear)
    assert module._input_scale is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {
                "quantization": {
                    "recipe": "nvfp4_default",
                    "input_scales": "x",
                    "activations": "bf16",
                }
            },
            "activations bf16 have no scales",
        ),
        (
            {"quantization": {"activations": "bf16"}, "lint": {"engines": ["vllm==0.20.0"]}},
            "refuses the quant_algo W4A16_NVFP4",
        ),
        ({"quantization": {"activations": "fp8"}}, "'nvfp4' or 'bf16'"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ScionError) as error:
        load_config(settings, where="x.yaml")
    assert message in str(error.value)


def test_the_card_says_that_activations_stay_as_they_are(
    weights_alone: Conversion, tmp_path: Path
) -> None:
    card, _ = rendered(weights_alone, tmp_path, measured.results())
    text = (card.folder / "README.md").read_text()
    assert "NVFP4 weights (modelopt, W4A16, blocks of 16)" in text
    assert "Activations stay in bf16: the release is for GPUs without FP4 units as well" in text
    assert "Calibration: none; the scales follow from the weights." in text
    assert "W4A4" not in text
