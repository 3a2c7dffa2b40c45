import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

import modelopt_export
from conversion import SAMPLES, Conversion, Pico
from scion.architectures.inventory import inventory
from scion.checkpoint.shards import Checkpoint
from scion.common.digest import digest_file
from scion.engines.registry.decisions import decisions
from scion.engines.registry.engines import DEFAULT_ENGINES
from scion.formats.modelopt import SUFFIXES


@pytest.fixture(scope="module")
def exported(
    conversion: Conversion, pico: Pico, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    """ModelOpt's own export of the text model, calibrated on the same chats, without Scion."""
    target = tmp_path_factory.mktemp("modelopt")
    script = Path(modelopt_export.__file__)
    command = [sys.executable, script, conversion.extract_text.folder, pico.calibration]
    done = subprocess.run([*command, str(SAMPLES), target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Checkpoint.open(target)


def test_packed_weights_and_scales_are_modelopts_own(
    conversion: Conversion, exported: Checkpoint
) -> None:
    rows = conversion.quantize_nvfp4.tensors()
    config = json.loads((conversion.quantize_nvfp4.folder / "config.json").read_bytes())
    quantized = inventory(config, where="x").quantized
    assert len(quantized) == conversion.quantize_nvfp4.facts["quantized_modules"] > 0
    for module in quantized:
        for suffix in SUFFIXES:
            piece = exported.piece(f"{module}.{suffix}")
            size = piece.tensor.size
            theirs = digest_file(piece.path, offset=piece.offset, size=size)
            assert rows[f"{module}.{suffix}"]["sha256"] == theirs, f"{module}.{suffix}"


def test_what_is_not_quantized_is_the_sources_bit_for_bit(conversion: Conversion) -> None:
    before, after = conversion.extract_text.tensors(), conversion.quantize_nvfp4.tensors()
    kept = before.keys() & after.keys() - {
        f"{name.removesuffix('.weight_scale')}.weight"
        for name in after
        if name.endswith(".weight_scale")
    }
    assert len(kept) == len(before) - conversion.quantize_nvfp4.facts["quantized_modules"]
    for name in kept:
        row = after[name]
        assert (row["dtype"], row["shape"]) == (before[name]["dtype"], before[name]["shape"])
        assert row["sha256"] == before[name]["sha256"]


def test_modules_that_engines_fuse_share_their_scales(conversion: Conversion) -> None:
    rows = conversion.quantize_nvfp4.tensors()
    config = json.loads((conversion.quantize_nvfp4.folder / "config.json").read_bytes())
    groups = inventory(config, where="x").fused_groups()
    assert len(groups) == 2 * config["text_config"]["num_hidden_layers"]
    for group in groups:
        for suffix in ("weight_scale_2", "input_scale"):
            assert len({rows[f"{module}.{suffix}"]["sha256"] for module in group}) == 1


def test_input_scales_were_calibrated(conversion: Conversion) -> None:
    checkpoint = Checkpoint.open(conversion.quantize_nvfp4.folder)
    names = [name for name in checkpoint.shard_of if name.endswith(".input_scale")]
    values = list[float]()
    for name in names:
        with safe_open(checkpoint.folder / checkpoint.shard_of[name], framework="pt") as file:
            values.append(file.get_tensor(name).item())
    assert all(0 < value < 1 for value in values)
    assert len(set(values)) > len(values) / 4


def test_exactly_the_unquantized_modules_are_excluded(conversion: Conversion) -> None:
    folder = conversion.quantize_nvfp4.folder
    config = json.loads((folder / "config.json").read_bytes())
    patterns = config["quantization_config"]["ignore"]
    rows = conversion.quantize_nvfp4.tensors()
    linear = {
        name.removesuffix(".weight")
        for name, row in rows.items()
        if name.endswith(".weight") and len(row["shape"]) >= 2
    }
    quantized = {name for name in linear if f"{name}.weight_scale" in rows}
    for engine in DEFAULT_ENGINES:
        made = decisions(engine, config, None, linear)
        assert {name for name in linear if made[name].algorithm} == quantized
    second = json.loads((folder / "hf_quant_config.json").read_bytes())
    assert second["quantization"]["exclude_modules"] == patterns
    assert "mtp*" in patterns


def test_shards_have_the_configured_size_and_the_facts_tell_the_calibration(
    conversion: Conversion,
) -> None:
    checkpoint = Checkpoint.open(conversion.quantize_nvfp4.folder)
    assert len(checkpoint.headers) > 1
    for header in checkpoint.headers.values():
        assert sum(tensor.size for tensor in header.tensors.values()) <= 1_000_000
    calibration = conversion.quantize_nvfp4.facts["calibration"]
    assert calibration["samples"] == SAMPLES
    assert calibration["tokens"] > SAMPLES


def test_no_scratch_file_is_left(conversion: Conversion) -> None:
    assert conversion.quantize_nvfp4.check() == []
    assert not any(Path(name).parts[1:] for name in conversion.quantize_nvfp4.files)
