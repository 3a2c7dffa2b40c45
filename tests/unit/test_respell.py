"""One quantization in two spellings: the same bytes, either declared as its engines read it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import measured
from checkpoints import edit_json, half_made
from conversion import ENVIRONMENT, Conversion, copied
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.safetensors_file import read_header
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.formats.modelopt import FP8, HF_QUANT_CONFIG, NVFP4
from scion.formats.spellings import SPELLINGS
from scion.lint.config import Lint
from scion.quantization.config import Quantization
from scion.quantization.respelling import respelling
from scion.stages.graft_mtp import graft_mtp
from scion.stages.quantize_nvfp4 import quantize_nvfp4
from scion.stages.respell import respell
from scion.stages.verify_release import verify_release
from sealed import sealed
from tampering import edit_manifest, manifest_of, named, rehash, told

MODELOPT, PACKED = SPELLINGS["modelopt"], SPELLINGS["compressed-tensors"]


def respelled(quantized: Artifact, folder: Path, spelling: str = PACKED.name) -> Artifact:
    return respell(
        quantized=quantized,
        spelling=spelling,
        output=Output.at(folder / f"respell-{spelling}"),
        environment=ENVIRONMENT,
    )


def grafted(quantized: Artifact, conversion: Conversion, folder: Path) -> Artifact:
    return graft_mtp(
        quantized=quantized,
        fixed=conversion.fix_keys,
        donor=conversion.fetch_donor,
        output=Output.at(folder / "graft_mtp"),
        environment=ENVIRONMENT,
    )


def verified(release: Artifact, conversion: Conversion, folder: Path) -> Artifact:
    return verify_release(
        release=release,
        fixed=conversion.fix_keys,
        donor=conversion.fetch_donor,
        output=Output.at(folder / "verify_release"),
        settings=Lint(),
        environment=ENVIRONMENT,
    )


@pytest.fixture(scope="module")
def packed(conversion: Conversion, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return respelled(conversion.quantize_nvfp4, tmp_path_factory.mktemp("packed"))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    shards = folder.glob("*.safetensors")
    return {name: tensor for shard in shards for name, tensor in load_file(shard).items()}


def equal_bytes(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (first, second)))


def test_numbers_are_the_same_under_other_names(packed: Artifact, conversion: Conversion) -> None:
    ours, theirs = tensors(packed.folder), tensors(conversion.quantize_nvfp4.folder)
    modules = [name.removesuffix(".input_scale") for name in theirs if "input_scale" in name]
    assert len(modules) == packed.facts["quantized_modules"]
    names = {name: name for name in theirs}
    for module in modules:
        for suffix, spelled in PACKED.tensors[NVFP4].items():
            names[f"{module}.{suffix}"] = f"{module}.{spelled.name}"
    assert ours.keys() == set(names.values())
    for name, stored in names.items():
        if not stored.endswith("_global_scale"):
            assert equal_bytes(ours[stored], theirs[name]), name
            continue
        assert (ours[stored].dtype, ours[stored].shape) == (torch.float32, (1,))
        assert ours[stored].item() == (1 / theirs[name]).item()
        # What vLLM multiplies by.
        last_bit = torch.finfo(torch.float32).eps * theirs[name]
        assert abs(1 / ours[stored] - theirs[name]).item() <= last_bit
    # All are of maxima in bf16.
    assert packed.facts["inexact_scales"] == 0


def test_the_scheme_is_declared_in_config_json_alone(
    packed: Artifact, conversion: Conversion
) -> None:
    config = json.loads((packed.folder / "config.json").read_bytes())
    theirs = json.loads((conversion.quantize_nvfp4.folder / "config.json").read_bytes())
    declared, before = config.pop("quantization_config"), theirs.pop("quantization_config")
    assert config == theirs
    (group,) = declared["config_groups"].values()
    assert declared["format"] == group["format"] == "nvfp4-pack-quantized"
    assert group["input_activations"]["dynamic"] == "local"
    plain = [entry for entry in before["ignore"] if "*" not in entry]
    assert declared["ignore"] == [*plain, "re:mtp.*$"]
    assert packed.files.keys() == conversion.quantize_nvfp4.files.keys() - {HF_QUANT_CONFIG}
    assert packed.facts["spelling"] == "compressed-tensors"


def test_a_round_trip_gives_the_same_artifact(
    packed: Artifact, conversion: Conversion, tmp_path: Path
) -> None:
    back = respelled(packed, tmp_path, "modelopt")
    assert back.files == conversion.quantize_nvfp4.files
    assert back.content == conversion.quantize_nvfp4.content


def test_verify_release_finds_the_same_in_it(
    packed: Artifact, conversion: Conversion, tmp_path: Path
) -> None:
    facts = verified(grafted(packed, conversion, tmp_path), conversion, tmp_path).facts
    theirs = conversion.verify_release.facts
    for same in ("relative_weight_error", "tensors", "unchanged_tensors", "quantized_modules"):
        assert facts[same] == theirs[same]
    # SGLang loads a head beside this spelling without some of its tensors, and lint says so.
    found = {row["code"]: row["severity"] for row in facts["lint"]["findings"]}
    told = {row["code"]: row["severity"] for row in theirs["lint"]["findings"]}
    assert found == told | {"M305": "warning"}


@pytest.fixture(scope="module")
def release(
    packed: Artifact, conversion: Conversion, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A sealed release in the other spelling. Read it."""
    folder = tmp_path_factory.mktemp("sealed")
    grafted_ = grafted(packed, conversion, folder)
    made = dataclasses.replace(
        conversion,
        graft_mtp=grafted_,
        verify_release=verified(grafted_, conversion, folder),
    )
    return sealed(made, folder, measured.results(), beside={"respell": packed})


def test_a_sealed_release_tells_how_it_was_respelled(release: Path) -> None:
    assert told(release) == []
    assert "NVFP4 weights (compressed-tensors, W4A4," in (release / "README.md").read_text()
    origins = {
        row["origin"]["from"]
        for name, row in json.loads((release / "tensors.json").read_bytes()).items()
        if name.endswith("_packed")
    }
    assert origins == {"quantized"}


def other_codes(table: dict[str, dict[str, object]]) -> None:
    name = next(name for name in table if name.endswith("gate_proj.weight"))
    table[name]["sha256"] = "0" * 64


def test_codes_that_are_not_the_quantized_checkpoint_s_are_found(
    release: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(release, tmp_path / "release")
    edit_json(folder / "provenance/tensors/quantize_nvfp4.json", other_codes)
    rehash(folder)
    assert "provenance/tensors/respell.json" in named(told(folder))


def test_a_release_that_hides_its_respelling_is_found(release: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(release, tmp_path / "release")
    edit_manifest(
        manifest_of(folder, "graft_mtp"),
        lambda manifest: manifest["made_from"]["quantized"].update(stage="quantize_nvfp4"),
    )
    rehash(folder)
    assert "provenance/graft_mtp.json" in named(told(folder))


def test_fp8_beside_nvfp4_is_mixed_precision(mixed: Conversion, tmp_path: Path) -> None:
    made = respelled(mixed.quantize_nvfp4, tmp_path)
    declared = json.loads((made.folder / "config.json").read_bytes())["quantization_config"]
    assert declared["format"] == "mixed-precision"
    algorithms = respelling(Checkpoint.open(mixed.quantize_nvfp4.folder), PACKED).algorithms
    four_bits, eight_bits = (
        [module for module, found in algorithms.items() if found == algorithm]
        for algorithm in (NVFP4, FP8)
    )
    # By name: for SGLang a fused layer is a `Linear` before it is its parts.
    groups = {group["format"]: group["targets"] for group in declared["config_groups"].values()}
    assert groups == {"nvfp4-pack-quantized": four_bits, "float-quantized": eight_bits}
    facts = verified(grafted(made, mixed, tmp_path), mixed, tmp_path).facts
    assert facts["fp8_modules"] == len(eight_bits) > 0
    assert respelled(made, tmp_path, "modelopt").content == mixed.quantize_nvfp4.content


def test_activation_scales_are_taken_from_it(
    packed: Artifact, conversion: Conversion, tmp_path: Path
) -> None:
    settings = {
        "recipe": "nvfp4_default",
        "input_scales": str(packed.folder),
        "device": "cpu",
        "max_shard_megabytes": 1,
    }
    again = quantize_nvfp4(
        text=conversion.extract_text,
        output=Output.at(tmp_path / "again"),
        settings=Quantization.model_validate(settings),
        environment=ENVIRONMENT,
    )
    assert again.tensors() == conversion.quantize_nvfp4.tensors()


def test_data_moves_by_whole_blocks(packed: Artifact, conversion: Conversion) -> None:
    for shard in packed.folder.glob("*.safetensors"):
        ours, theirs = (
            read_header(folder / shard.name).data_start
            for folder in (packed.folder, conversion.quantize_nvfp4.folder)
        )
        assert (ours - theirs) % 4096 == 0
        assert ours <= theirs + 4 * 4096


def test_the_spelling_that_it_has_is_refused(packed: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ScionError, match="in the spelling compressed-tensors already"):
        respelled(packed, tmp_path)
    assert half_made(tmp_path) == []


def test_bytes_that_changed_in_the_store_are_found(conversion: Conversion, tmp_path: Path) -> None:
    damaged = copied(conversion.quantize_nvfp4, tmp_path / "damaged")
    name = next(name for name in damaged.tensors() if name.endswith("down_proj.weight"))
    row = damaged.tensors()[name]
    with (damaged.folder / row["file"]).open("r+b") as file:
        file.seek(row["range"][0])
        byte = file.read(1)[0]
        file.seek(row["range"][0])
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ScionError, match="not what quantize_nvfp4 recorded") as error:
        respelled(damaged, tmp_path)
    assert name in error.value.where
    assert half_made(tmp_path) == []


def declared(folder: Path, **changes: object) -> Checkpoint:
    config = json.loads((folder / "config.json").read_bytes())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    return Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_method": "gptq"}, "no quantized release that has another spelling"),
        ({"quant_algo": "NVFP4_AWQ"}, "not of a format that has another spelling"),
        ({"quant_algo": "FP8"}, "not of a format that has another spelling"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "not of a format that has another spelling"),
        ({"quant_algo": ["NVFP4"]}, "not of a format that has another spelling"),
        ({"ignore": "lm_head"}, "is malformed"),
        ({"ignore": [3]}, "is malformed"),
        ({"config_groups": [1]}, "is malformed"),
        ({"quantized_layers": {"a": "NVFP4"}}, "is malformed"),
    ],
)
def test_what_has_no_other_spelling_is_refused(
    conversion: Conversion, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = copied(conversion.quantize_nvfp4, tmp_path / "changed").folder
    with pytest.raises(ScionError, match=message):
        respelling(declared(folder, **changes), PACKED)


@pytest.mark.parametrize("changes", [{"format": "pack-quantized"}, {"ignore": ["re:.*(a|b"]}])
def test_what_compressed_tensors_alone_can_say_is_refused(
    packed: Artifact, tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = copied(packed, tmp_path / "changed").folder
    config = json.loads((folder / "config.json").read_bytes())
    for group in config["quantization_config"]["config_groups"].values():
        group.pop("format")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ScionError, match=r"another spelling|no regular expression"):
        respelling(declared(folder, **changes), MODELOPT)


@pytest.mark.parametrize("scheme", ["NVFP4", [], 4])
def test_a_declaration_that_is_no_object_is_refused(
    conversion: Conversion, tmp_path: Path, scheme: object
) -> None:
    folder = copied(conversion.quantize_nvfp4, tmp_path / "changed").folder
    edit_json(folder / "config.json", lambda config: config.update(quantization_config=scheme))
    with pytest.raises(ScionError, match="no quantized release"):
        respelling(Checkpoint.open(folder), PACKED)


def test_a_checkpoint_in_bf16_is_refused(conversion: Conversion) -> None:
    with pytest.raises(ScionError, match="no quantized release") as error:
        respelling(Checkpoint.open(conversion.extract_text.folder), PACKED)
    assert error.value.found == "no quantization_config"


DELTA_NET = "model.language_model.layers.0.linear_attn"
SMALL = [f"model.language_model.layers.{n}.linear_attn.in_proj_{x}" for n in (0, 1) for x in "ab"]


@pytest.mark.parametrize(
    ("entry", "excluded"),
    [
        (r"re:(model\.)?visual.*$", ["model.visual*"]),
        ("re:.*visual.*", ["*visual*"]),
        ("re:^mtp.*", ["mtp*"]),
        ("re:.*lm_head", ["lm_head"]),
        # As vLLM names them: a glob would not match what it makes of the two.
        (r"re:.*layers\.[01]\.linear_attn\.in_proj_[ab]$", SMALL),
        ("re:lm_heads$", []),
        ("lm_head", ["lm_head"]),
    ],
)
def test_expressions_of_others_become_globs_or_names(
    packed: Artifact, tmp_path: Path, entry: str, excluded: list[str]
) -> None:
    folder = copied(packed, tmp_path / "changed").folder
    found = respelling(declared(folder, ignore=[entry]), MODELOPT)
    assert sorted(found.declared.exclude) == sorted(excluded)


def test_parts_of_names_that_vllm_finds_anywhere_become_names(
    conversion: Conversion, tmp_path: Path
) -> None:
    folder = copied(conversion.quantize_nvfp4, tmp_path / "changed").folder
    found = respelling(declared(folder, ignore=["layers.0.linear_attn.in_proj_", "gone"]), PACKED)
    small = [name for name in SMALL if name.startswith(DELTA_NET)]
    assert sorted(found.declared.exclude) == sorted([*small, "gone"])
