"""Conversion without samples: the bytes of the calibrated one whose activation scales it takes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import half_made
from conversion import ENVIRONMENT, Conversion, Pico
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.shards import INDEX
from scion.common.errors import ScionError
from scion.quantization.config import Calibration, CalibrationSet, Quantization
from scion.stages.quantize_nvfp4 import quantize_nvfp4


def convert(conversion: Conversion, output: Path, **settings: object) -> Artifact:
    wanted = {"device": "cpu", "max_shard_megabytes": 1, "recipe": "nvfp4_default", **settings}
    return quantize_nvfp4(
        text=conversion.extract_text,
        output=Output.at(output),
        settings=Quantization.model_validate(wanted),
        environment=ENVIRONMENT,
    )


def test_the_weights_are_those_of_the_calibrated_release(
    conversion: Conversion, tmp_path: Path
) -> None:
    scales = str(conversion.quantize_nvfp4.folder)
    made = convert(conversion, tmp_path / "made", input_scales=scales)
    assert made.tensors() == conversion.quantize_nvfp4.tensors()
    assert made.facts["calibration"]["samples"] == 0
    assert made.facts["input_scales"].startswith("sha256:")
    assert half_made(tmp_path) == []


def test_other_scales_are_another_request(conversion: Conversion, tmp_path: Path) -> None:
    release = tmp_path / "release"
    shutil.copytree(conversion.quantize_nvfp4.folder, release)
    first = convert(conversion, tmp_path / "made", input_scales=str(release))
    before = first.tensors()
    shard = next(release.glob("model-*.safetensors"))
    tensors = load_file(shard)
    name = next(name for name in tensors if name.endswith("input_scale"))
    save_file(tensors | {name: tensors[name] * 2}, shard)
    second = convert(conversion, tmp_path / "made", input_scales=str(release))
    assert first.root != second.root
    changed = [n for n, row in second.tensors().items() if row["sha256"] != before[n]["sha256"]]
    assert changed == [name]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_positive_number_is_named(
    conversion: Conversion, tmp_path: Path, value: float
) -> None:
    release = tmp_path / "release"
    shutil.copytree(conversion.quantize_nvfp4.folder, release)
    shard = next(release.glob("model-*.safetensors"))
    tensors = load_file(shard)
    name = next(name for name in tensors if name.endswith("input_scale"))
    save_file(tensors | {name: torch.tensor(value)}, shard)
    with pytest.raises(ScionError, match="activation scales can't be taken") as error:
        convert(conversion, tmp_path / "made", input_scales=str(release))
    assert name in error.value.where


def test_a_release_that_lacks_a_module_is_refused(
    conversion: Conversion, pico: Pico, tmp_path: Path
) -> None:
    with pytest.raises(ScionError, match="activation scales can't be taken") as error:
        convert(conversion, tmp_path / "made", input_scales=str(pico.base))
    assert error.value.found == "no such tensor"
    assert not (tmp_path / "made").exists()
    assert json.loads((pico.base / INDEX).read_bytes())


def test_a_recipe_that_needs_samples_takes_no_scales() -> None:
    with pytest.raises(ValueError, match="needs samples"):
        Quantization(recipe="local_hessian", input_scales="somewhere")


def test_samples_that_nobody_reads_need_not_exist(conversion: Conversion, tmp_path: Path) -> None:
    sets = (CalibrationSet(dataset=str(tmp_path / "none.jsonl")),)
    scales = str(conversion.quantize_nvfp4.folder)
    made = convert(
        conversion, tmp_path / "made", input_scales=scales, calibration=Calibration(sets=sets)
    )
    assert made.tensors() == conversion.quantize_nvfp4.tensors()
