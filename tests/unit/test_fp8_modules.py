"""Releases whose attention is in FP8: what is declared, checked, told and decoded."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints import edit_json, edit_tensor
from conversion import ENVIRONMENT, Conversion, Pico, convert, copied
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.shards import Checkpoint
from scion.cli.main import main
from scion.common.errors import ScionError
from scion.config import load_config
from scion.engines.vllm.memory_estimates import weights
from scion.evaluation.offline.linear import Fp8Linear
from scion.formats import fp8
from scion.formats.stored_modules import layout
from scion.lint.config import Lint
from scion.quantization.config import Quantization
from scion.quantization.estimate.estimate import Machine, estimate
from scion.quantization.recipes import recipe
from scion.stages.verify_release import verify_release

LAYER = "model.language_model.layers.3"
FUSED = f"{LAYER}.self_attn.q_proj"
ALONE = f"{LAYER}.self_attn.o_proj"


# What is made


def test_every_engine_builds_what_is_stored(mixed: Conversion) -> None:
    # verify_release has linted the release for the default engines, and would have stopped.
    facts = mixed.verify_release.facts
    # A text-only release of a class with a tower, and a template for one system message.
    assert {row["code"] for row in facts["lint"]["findings"]} == {"C806", "T609"}
    assert {engine.split()[0] for engine in facts["lint"]["engines"]} == {"vllm", "sglang"}
    assert facts["fp8_modules"] == mixed.quantize_nvfp4.facts["fp8_modules"] == 26
    assert facts["quantized_modules"] == 50


def test_both_files_declare_each_module_and_exclude_the_head(mixed: Conversion) -> None:
    folder = mixed.graft_mtp.folder
    flat = json.loads((folder / "config.json").read_bytes())["quantization_config"]
    nested = json.loads((folder / "hf_quant_config.json").read_bytes())["quantization"]
    assert flat["quantized_layers"] == nested["quantized_layers"]
    algorithms = {name: layer["quant_algo"] for name, layer in flat["quantized_layers"].items()}
    assert algorithms[FUSED] == "FP8"
    assert algorithms[f"{LAYER}.mlp.up_proj"] == "NVFP4"
    # vLLM keeps mtp.fc in bf16 by itself under NVFP4, and not in mixed precision.
    assert flat["ignore"][-1] == nested["exclude_modules"][-1] == "mtp*"
    assert not set(flat["ignore"]) & algorithms.keys()


def test_modules_of_a_fused_layer_share_their_scales(mixed: Conversion) -> None:
    tensors = mixed.graft_mtp.tensors()
    for names in (
        [f"{LAYER}.self_attn.{part}_proj" for part in "qkv"],
        [f"model.language_model.layers.0.linear_attn.in_proj_{part}" for part in ("qkv", "z")],
    ):
        for suffix in ("weight_scale", "input_scale"):
            assert len({tensors[f"{name}.{suffix}"]["sha256"] for name in names}) == 1


def test_fp8_may_stand_beside_projections_in_bf16() -> None:
    chosen = recipe("nvfp4_default", keep_bf16="linear_attention", use_fp8="attention")
    assert (chosen.kept, chosen.fp8) == (("linear_attn",), ("self_attn",))


@pytest.mark.parametrize("kept", ["linear_attention", "attention"])
def test_fp8_without_a_projection_left_for_it_is_refused(kept: str) -> None:
    settings = {"quantization": {"keep_bf16": kept, "use_fp8": "linear_attention"}}
    with pytest.raises(ScionError) as error:
        load_config(settings, where="x.yaml")
    assert "leaves in bf16" in str(error.value)


# What is checked


def flip(position: int, bits: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[position] ^= bits

    return change


def double(data: bytearray) -> None:
    data[:] = struct.pack("<f", 2 * struct.unpack("<f", data)[0])


def clear_row(data: bytearray) -> None:
    data[:96] = bytes(96)


ROUNDING, SCALE = "further from its source than one rounding", "not that of its largest number"
DAMAGE: dict[str, tuple[str, Callable[[bytearray], None], str]] = {
    "a bit of a weight": (f"{FUSED}.weight", flip(7, 0x04), ROUNDING),
    "a sign": (f"{FUSED}.weight", flip(7, 0x80), ROUNDING),
    "a zeroed row": (f"{ALONE}.weight", clear_row, ROUNDING),
    "a scale of its own in a group": (f"{FUSED}.weight_scale", flip(0, 1), SCALE),
    "a doubled scale": (f"{ALONE}.weight_scale", double, ROUNDING),
    "a negative scale": (f"{ALONE}.weight_scale", flip(3, 0x80), "lint finds"),
    "an input scale of its own": (f"{FUSED}.input_scale", flip(0, 1), "lint finds"),
}


@pytest.mark.parametrize(("name", "change", "problem"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_named(
    mixed: Conversion,
    tmp_path: Path,
    name: str,
    change: Callable[[bytearray], None],
    problem: str,
) -> None:
    folder = tmp_path / "release"
    release = copied(mixed.graft_mtp, folder)
    edit_tensor(folder, name, change)
    with pytest.raises(ScionError, match=problem) as caught:
        verify(mixed, release, tmp_path / "report")
    assert name.rpartition(".")[0] in caught.value.where


def test_a_module_that_is_not_declared_is_found(mixed: Conversion, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    release = copied(mixed.graft_mtp, folder)
    for file, key in (("config.json", "quantization_config"), ("hf_quant_config.json", None)):

        def edit(config: dict[str, Any], key: str | None = key) -> None:
            declared = config[key] if key else config["quantization"]
            del declared["quantized_layers"][ALONE]

        edit_json(folder / file, edit)
    with pytest.raises(ScionError, match="lint finds"):
        verify(mixed, release, tmp_path / "report")


def verify(made: Conversion, release: Artifact, output: Path) -> Artifact:
    return verify_release(
        release=release,
        fixed=made.fix_keys,
        donor=made.fetch_donor,
        output=Output.at(output),
        settings=Lint(),
        environment=ENVIRONMENT,
    )


# The numbers


def test_one_rounding_is_allowed_and_no_more() -> None:
    weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight[0, :4] = torch.tensor([0.0, 1e-6, -1e-4, 1e-3])
    scale = weight.abs().max().float() / fp8.E4M3_LARGEST
    rounded = (weight / scale).to(torch.float8_e4m3fn)
    assert fp8.worst_rounding(weight, rounded, scale) <= 1
    neighbour = (rounded.view(torch.uint8) + 1).view(torch.float8_e4m3fn)
    assert fp8.worst_rounding(weight[1:2], neighbour[1:2], scale) > 1
    assert fp8.worst_rounding(weight, rounded, scale * 0.9) > 1
    broken = rounded.clone()
    broken.view(torch.uint8)[3, 3] = 0x7F
    assert not fp8.worst_rounding(weight, broken, scale) <= 1


@pytest.mark.parametrize("keep", [True, False])
def test_offline_both_sides_are_e4m3(keep: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(10, 32, generator=generator).to(torch.float8_e4m3fn)
    x = torch.randn(2, 3, 32, generator=generator).bfloat16()
    scale, input_scale = torch.tensor(0.02), torch.tensor(0.01)
    made = Fp8Linear(weight, scale, input_scale, keep=keep)(x)
    nearest = (x.float() / input_scale).to(torch.float8_e4m3fn).float() * input_scale
    exact = nearest @ fp8.dequantize(weight, scale).T
    torch.testing.assert_close(made.float(), exact, rtol=2**-7, atol=1e-6)
    beyond = Fp8Linear(weight, scale, input_scale, keep=keep)(1000 * torch.ones(1, 32).bfloat16())
    assert torch.isfinite(beyond).all()


def test_tensors_are_planned_and_counted_as_fp8(mixed: Conversion) -> None:
    assert layout("FP8", (6, 10))["weight"] == ("F8_E4M3", (6, 10))
    checkpoint = Checkpoint.open(mixed.graft_mtp.folder)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.shard_of}
    found = weights(tensors, drafts=True, text_only=True).parts
    eight_bits = [
        t.size for n, t in tensors.items() if t.dtype == "F8_E4M3" and n[-7:] == ".weight"
    ]
    assert found["FP8 weights"] == sum(eight_bits)


def test_an_estimate_knows_the_shards_to_the_byte(mixed: Conversion) -> None:
    machine = Machine(name="test", gpu_bytes=None, free_bytes=10**10)
    settings = Quantization(use_fp8="attention", max_shard_megabytes=1)
    source = Checkpoint.open(mixed.extract_text.folder)
    made = estimate(source, settings, [[100]], machine)
    shards = mixed.quantize_nvfp4.folder.glob("*.safetensors")
    assert made.shard_bytes == sum(path.stat().st_size for path in shards)
    plain = Quantization(recipe="local_hessian")
    counts = [
        {
            operation.name: operation.count
            for operation in estimate(source, quantization, [[100]], machine).operations
        }
        for quantization in (plain, plain.model_copy(update={"use_fp8": "attention"}))
    ]
    assert counts[0]["local Hessians"] == counts[1]["local Hessians"]
    assert counts[0]["scales tried"] > counts[1]["scales tried"]


def test_an_estimate_of_settings_that_contradict_each_other_is_refused(
    mixed: Conversion, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(mixed.extract_text.folder)
    options = ["--keep-bf16", "attention", "--use-fp8", "attention"]
    monkeypatch.setattr(sys, "argv", ["scion", "estimate", folder, *options])
    assert main() == 1
    assert "leaves in bf16" in capsys.readouterr().err


def test_four_over_six_beside_fp8_is_verified(pico: Pico, tmp_path: Path) -> None:
    # It tries 1.5 times FP8's scales as well, in bf16, which rounds them.
    made = convert(pico, tmp_path, samples=2, recipe="four_over_six", use_fp8="attention")
    assert made.verify_release.facts["fp8_modules"] > 0
