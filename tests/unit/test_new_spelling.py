"""A spelling that Scion does not have, added as one row: written, declared, read and verified."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conversion import ENVIRONMENT, SAMPLES, Conversion, Pico
from lint_checkpoints import compressed_scheme
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.common.errors import ScionError
from scion.formats.modelopt import FP8, HF_QUANT_CONFIG, NVFP4
from scion.formats.spellings import SPELLINGS, SpelledTensor, Spelling
from scion.lint.config import Lint
from scion.quantization.config import Calibration, CalibrationSet, Quantization
from scion.stages.graft_mtp import graft_mtp
from scion.stages.quantize_nvfp4 import quantize_nvfp4
from scion.stages.verify_release import verify_release


def declaration(
    exclude: list[str], *, producer: Mapping[str, str], algorithms: Mapping[str, str]
) -> dict[str, Any]:
    assert set(algorithms.values()) == {NVFP4}
    return {**compressed_scheme(exclude), "producer": dict(producer)}


# What engines call compressed-tensors, so that verify_release's lint can judge it, too.
ROW = Spelling(
    name="packed",
    quant_method="compressed-tensors",
    tensors={
        NVFP4: {
            "weight": SpelledTensor("weight_packed"),
            "weight_scale": SpelledTensor("weight_scale"),
            "weight_scale_2": SpelledTensor("weight_global_scale", reciprocal=True),
            "input_scale": SpelledTensor("input_global_scale", reciprocal=True),
        },
        FP8: {},
    },
    declaration=declaration,
    sidecars={},
)


@pytest.fixture(scope="module")
def quantized(
    conversion: Conversion, pico: Pico, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """The text model as the `conversion` has quantized it, in the other spelling."""
    sets = (CalibrationSet(dataset=str(pico.calibration), samples=SAMPLES),)
    return quantize_nvfp4(
        text=conversion.extract_text,
        output=Output.at(tmp_path_factory.mktemp("packed") / "quantize_nvfp4"),
        settings=Quantization(
            recipe="nvfp4_default",
            calibration=Calibration(sets=sets),
            device="cpu",
            max_shard_megabytes=1,
        ),
        environment=ENVIRONMENT,
        spelling=ROW,
    )


@pytest.fixture
def grafted(quantized: Artifact, conversion: Conversion, tmp_path: Path) -> Artifact:
    return graft_mtp(
        quantized=quantized,
        text=conversion.extract_text,
        donor=conversion.fetch_donor,
        output=Output.at(tmp_path / "graft_mtp"),
        environment=ENVIRONMENT,
    )


def verify(release: Artifact, conversion: Conversion, output: Path) -> Artifact:
    return verify_release(
        release=release,
        text=conversion.extract_text,
        donor=conversion.fetch_donor,
        output=Output.at(output),
        settings=Lint(),
        environment=ENVIRONMENT,
    )


def tensors(artifact: Artifact) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for shard in artifact.folder.glob("*.safetensors")
        for name, tensor in load_file(shard).items()
    }


def equal_bytes(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (first, second)))


def test_numbers_are_the_same_under_other_names(
    quantized: Artifact, conversion: Conversion
) -> None:
    ours, theirs = tensors(quantized), tensors(conversion.quantize_nvfp4)
    suffixes = ROW.tensors[NVFP4]
    modules = [name.removesuffix(".input_scale") for name in theirs if "input_scale" in name]
    assert len(modules) == conversion.quantize_nvfp4.facts["quantized_modules"]
    same = {name: name for name in theirs}
    for module in modules:
        for suffix, spelled in suffixes.items():
            same[f"{module}.{suffix}"] = f"{module}.{spelled.name}"
    assert ours.keys() == set(same.values())
    for name, stored in same.items():
        wanted = theirs[name]
        if name.endswith((".weight_scale_2", ".input_scale")):
            wanted = 1 / wanted
        assert (ours[stored].dtype, ours[stored].shape) == (wanted.dtype, wanted.shape)
        assert equal_bytes(ours[stored], wanted), name


def test_the_scheme_is_declared_as_the_row_says(
    quantized: Artifact, conversion: Conversion
) -> None:
    declared = json.loads((quantized.folder / "config.json").read_bytes())["quantization_config"]
    theirs = json.loads((conversion.quantize_nvfp4.folder / "config.json").read_bytes())
    assert declared == {
        **compressed_scheme(theirs["quantization_config"]["ignore"]),
        "producer": theirs["quantization_config"]["producer"],
    }
    assert not (quantized.folder / HF_QUANT_CONFIG).exists()
    assert quantized.files.keys() == conversion.quantize_nvfp4.files.keys() - {HF_QUANT_CONFIG}
    # The same settings in the other spelling are another request.
    assert quantized.root != conversion.quantize_nvfp4.root


def test_verify_release_knows_it_by_its_row(
    grafted: Artifact, conversion: Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ScionError, match="declares no quantization that Scion writes"):
        verify(grafted, conversion, tmp_path / "before")
    monkeypatch.setitem(SPELLINGS, ROW.name, ROW)
    facts = verify(grafted, conversion, tmp_path / "verify_release").facts
    theirs = conversion.verify_release.facts
    assert facts["relative_weight_error"] == pytest.approx(theirs["relative_weight_error"])
    for count in ("tensors", "unchanged_tensors", "mtp_tensors", "quantized_modules"):
        assert facts[count] == theirs[count]


def test_activation_scales_are_taken_from_it(
    quantized: Artifact, conversion: Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPELLINGS, ROW.name, ROW)
    settings = {"recipe": "nvfp4_default", "input_scales": str(quantized.folder), "device": "cpu"}
    again = quantize_nvfp4(
        text=conversion.extract_text,
        output=Output.at(tmp_path / "again"),
        settings=Quantization.model_validate(settings),
        environment=ENVIRONMENT,
    )
    theirs = tensors(conversion.quantize_nvfp4)
    for name, tensor in tensors(again).items():
        if name.endswith("input_scale"):
            # The reciprocal of a reciprocal, in float32.
            assert tensor.item() == pytest.approx(theirs[name].item(), rel=1e-6)
        else:
            assert equal_bytes(tensor, theirs[name]), name
