import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints import edit_json, edit_tensor
from conversion import ENVIRONMENT, Conversion, Pico, copied
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.shards import INDEX
from scion.common.errors import ScionError
from scion.lint.config import Lint
from scion.stages.fetch_donor import fetch_donor
from scion.stages.graft_mtp import graft_mtp
from scion.stages.verify_release import verify_release

LAYER = "model.language_model.layers.3"
PACKED = f"{LAYER}.self_attn.q_proj"
NOT_FUSED = f"{LAYER}.self_attn.o_proj"
NORM = "model.language_model.norm.weight"
NAN_BF16 = b"\xc0\x7f"
LINT = "lint finds"
CODES = "further from its source than NVFP4 rounding allows"


def flip(position: int, bits: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[position] ^= bits

    return change


def put(position: int, value: bytes) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[position : position + len(value)] = value

    return change


def tensor(name: str, change: Callable[[bytearray], None]) -> Callable[[Path], None]:
    return lambda folder: edit_tensor(folder, name, change)


def exclude_everywhere(change: Callable[[list[str]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        edit_json(
            folder / "config.json", lambda config: change(config["quantization_config"]["ignore"])
        )
        edit_json(
            folder / "hf_quant_config.json",
            lambda config: change(config["quantization"]["exclude_modules"]),
        )

    return edit


def lose_declarations(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.pop("quantization_config") and None)
    (folder / "hf_quant_config.json").unlink()


def lose_a_tensor(folder: Path) -> None:
    """A shard and the index that agree on one tensor less."""
    from scion.checkpoint.safetensors_file import copy_subset
    from scion.checkpoint.shards import index_headers

    index = json.loads((folder / INDEX).read_bytes())["weight_map"]
    shard = index[NORM]
    keep = [name for name, file in index.items() if file == shard and name != NORM]
    copy_subset(folder / shard, folder / "smaller", keep)
    (folder / "smaller").rename(folder / shard)
    index_headers(folder, set(index.values()))


NAN_E4M3, NAN_F32 = b"\x7f", struct.pack("<f", float("nan"))
DAMAGE: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a byte of a packed weight": (tensor(f"{PACKED}.weight", flip(7, 0x02)), CODES, PACKED),
    "a block scale": (tensor(f"{PACKED}.weight_scale", flip(3, 0x04)), CODES, PACKED),
    "a NaN block scale": (tensor(f"{PACKED}.weight_scale", put(3, NAN_E4M3)), CODES, PACKED),
    "a zeroed row": (tensor(f"{PACKED}.weight", put(0, bytes(96))), CODES, PACKED),
    "a byte of an unchanged tensor": (tensor(NORM, flip(0, 1)), "not its original", NORM),
    "a byte of the head": (
        tensor("mtp.fc.weight", flip(-1, 0x80)),
        "not its original",
        "mtp.fc.weight",
    ),
    "a NaN input scale": (
        tensor(f"{NOT_FUSED}.input_scale", put(0, NAN_F32)),
        LINT,
        f"{NOT_FUSED}.input_scale",
    ),
    "a zero global scale": (
        tensor(f"{NOT_FUSED}.weight_scale_2", put(0, bytes(4))),
        LINT,
        f"{NOT_FUSED}.weight_scale_2",
    ),
    "a scale of a fused group": (
        tensor(f"{PACKED}.input_scale", flip(0, 1)),
        LINT,
        f"{PACKED}.input_scale",
    ),
    "config files that disagree": (
        lambda folder: (
            edit_json(
                folder / "hf_quant_config.json",
                lambda config: config["quantization"]["exclude_modules"].pop() and None,
            )
            and None
        ),
        LINT,
        "hf_quant_config.json: ignore",
    ),
    "no declaration": (lose_declarations, LINT, "linear_attn.in_proj_qkv"),
    "an excluded quantized module": (
        exclude_everywhere(lambda names: names.append(PACKED)),
        LINT,
        "config.json: language_model.model.layers.3.self_attn.qkv_proj",
    ),
    "a head that is not excluded": (
        exclude_everywhere(lambda names: names.remove("mtp*")),
        LINT,
        "config.json: mtp.layers.0.self_attn.q_proj",
    ),
    "a lost tensor": (lose_a_tensor, LINT, NORM),
}


def verify(conversion: Conversion, release: Artifact, output: Path) -> Artifact:
    return verify_release(
        release=release,
        fixed=conversion.fix_keys,
        donor=conversion.fetch_donor,
        output=Output.at(output),
        settings=Lint(),
        environment=ENVIRONMENT,
    )


@pytest.mark.parametrize(("damage", "problem", "named"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_named(
    conversion: Conversion,
    tmp_path: Path,
    damage: Callable[[Path], Any],
    problem: str,
    named: str,
) -> None:
    folder = tmp_path / "release"
    release = copied(conversion.graft_mtp, folder)
    damage(folder)
    with pytest.raises(ScionError, match=problem) as caught:
        verify(conversion, release, tmp_path / "report")
    assert caught.value.where.startswith(str(folder))
    assert caught.value.where.endswith(named)
    assert not (tmp_path / "report").exists()


def test_a_head_that_is_not_finite_is_found(
    conversion: Conversion, pico: Pico, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(pico.base, base)
    edit_tensor(base, "mtp.norm.weight", put(0, NAN_BF16))
    donor = fetch_donor(
        location=str(base), output=Output.at(tmp_path / "donor"), environment=ENVIRONMENT
    )
    release = graft_mtp(
        quantized=conversion.quantize_nvfp4,
        fixed=conversion.fix_keys,
        donor=donor,
        output=Output.at(tmp_path / "release"),
        environment=ENVIRONMENT,
    )
    with pytest.raises(ScionError, match="MTP head is not finite") as caught:
        verify_release(
            release=release,
            fixed=conversion.fix_keys,
            donor=donor,
            output=Output.at(tmp_path / "report"),
            settings=Lint(),
            environment=ENVIRONMENT,
        )
    assert caught.value.where == f"{base}: mtp.norm.weight"


def test_the_report_counts_every_tensor_and_measures_every_module(conversion: Conversion) -> None:
    report = json.loads((conversion.verify_release.folder / "verification.json").read_bytes())
    release = conversion.graft_mtp
    assert report["tensors"] == len(release.tensors())
    assert report["mtp_tensors"] == 15
    modules = report["quantized_modules"]
    assert modules == conversion.quantize_nvfp4.facts["quantized_modules"]
    assert report["unchanged_tensors"] == report["tensors"] - 4 * modules
    assert report["bytes"] == sum(
        entry["size"] for name, entry in release.files.items() if name.endswith(".safetensors")
    )
    # Four bits with a scale for 16 numbers: about a tenth for bell-shaped weights.
    by_module = report["relative_weight_error_by_module"]
    assert all(0.05 < error < 0.15 for error in by_module.values())
    assert min(by_module.values()) < report["relative_weight_error"] < max(by_module.values())
