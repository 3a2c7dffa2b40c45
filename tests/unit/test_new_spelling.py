"""A spelling that Scion does not have, added as one row: a release is written in it, and back."""

import dataclasses
import json
from pathlib import Path

import pytest

from conversion import ENVIRONMENT, Conversion
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.formats.modelopt import NVFP4, Declared
from scion.formats.spellings import SPELLINGS, SpelledTensor
from scion.stages.respell import respell

ROW = dataclasses.replace(
    SPELLINGS["modelopt"],
    name="codes",
    quant_method="codes",
    tensors={
        NVFP4: {
            "weight": SpelledTensor("codes"),
            "weight_scale": SpelledTensor("block_scales"),
            "weight_scale_2": SpelledTensor("divisor", reciprocal=True),
            "input_scale": SpelledTensor("input_scale"),
        }
    },
    declaration=lambda exclude, *, producer, algorithms: {
        "quant_method": "codes",
        "kept": exclude,
        "by": dict(producer),
    },
    reading=lambda declared, plain, *, where: Declared(declared["kept"], declared["by"]),
    sidecars={},
)


def written(quantized: Artifact, spelling: str, folder: Path) -> Artifact:
    output = Output.at(folder / spelling)
    return respell(quantized=quantized, spelling=spelling, output=output, environment=ENVIRONMENT)


def test_one_row_is_all_that_it_takes(
    conversion: Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPELLINGS, ROW.name, ROW)
    made = written(conversion.quantize_nvfp4, ROW.name, tmp_path)
    modules = {name.removesuffix(".divisor") for name in made.tensors() if "divisor" in name}
    assert len(modules) == conversion.quantize_nvfp4.facts["quantized_modules"]
    assert all(f"{module}.block_scales" in made.tensors() for module in modules)
    declared = json.loads((made.folder / "config.json").read_bytes())["quantization_config"]
    assert declared["quant_method"] == "codes"
    back = written(made, "modelopt", tmp_path)
    assert back.content == conversion.quantize_nvfp4.content
