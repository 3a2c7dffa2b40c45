import json
from pathlib import Path
from typing import Any

import pytest

from checkpoints import tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Conversion
from scion.artifact import Artifact, Draft, remake
from scion.checkpoint import INDEX, Checkpoint
from scion.errors import ScionError
from scion.files import link_or_copy, write_json
from scion.stages.fetch_donor import fetch_donor
from scion.stages.graft_mtp import graft_mtp


def with_exclusions(quantized: Artifact, output: Path, exclude: list[str]) -> Artifact:
    """A copy of a quantized checkpoint whose two config files exclude other modules."""

    def build(draft: Draft) -> None:
        for name in quantized.files:
            link_or_copy(quantized.folder / name, draft.folder / name)
        for name, keys in (
            ("config.json", ("quantization_config", "ignore")),
            ("hf_quant_config.json", ("quantization", "exclude_modules")),
        ):
            content: Any = json.loads((draft.folder / name).read_bytes())
            content[keys[0]][keys[1]] = exclude
            write_json(draft.folder / name, content)

    return remake(
        output,
        stage="quantize_nvfp4",
        inputs={},
        settings={},
        environment=ENVIRONMENT,
        build=build,
    )


def test_the_head_is_the_donors_bit_for_bit(conversion: Conversion) -> None:
    grafted, donor = conversion.graft_mtp.tensors(), conversion.fetch_donor.tensors()
    head = {name: row for name, row in grafted.items() if name.startswith("mtp.")}
    assert len(head) == 15
    assert head == donor


def test_quantized_shards_and_the_heads_are_linked(conversion: Conversion) -> None:
    release = conversion.graft_mtp.folder
    shards = Checkpoint.open(conversion.quantize_nvfp4.folder).headers
    for shard in shards:
        assert (release / shard).samefile(conversion.quantize_nvfp4.folder / shard)
    head = "model-mtp.safetensors"
    assert (release / head).samefile(conversion.fetch_donor.folder / head)
    assert Checkpoint.open(release).headers.keys() == {*shards, head}


def test_the_index_names_every_tensor(conversion: Conversion) -> None:
    index = json.loads((conversion.graft_mtp.folder / INDEX).read_bytes())
    rows = conversion.graft_mtp.tensors()
    assert index["weight_map"] == {name: row["file"] for name, row in rows.items()}
    size = sum(row["range"][1] - row["range"][0] for row in rows.values())
    assert index["metadata"]["total_size"] == size


def test_configs_that_exclude_the_head_are_linked(conversion: Conversion) -> None:
    for name in ("config.json", "hf_quant_config.json", "tokenizer.json"):
        release, quantized = conversion.graft_mtp.folder, conversion.quantize_nvfp4.folder
        assert (release / name).samefile(quantized / name)


def test_configs_that_do_not_exclude_the_head_are_written(
    conversion: Conversion, tmp_path: Path
) -> None:
    quantized = with_exclusions(conversion.quantize_nvfp4, tmp_path / "quantized", ["lm_head"])
    release = graft_mtp(
        quantized=quantized,
        donor=conversion.fetch_donor,
        output=tmp_path / "release",
        environment=ENVIRONMENT,
    )
    config = json.loads((release.folder / "config.json").read_bytes())
    second = json.loads((release.folder / "hf_quant_config.json").read_bytes())
    assert config["quantization_config"]["ignore"] == ["lm_head", "mtp*"]
    assert second["quantization"]["exclude_modules"] == ["lm_head", "mtp*"]


def test_a_head_of_another_hidden_size_is_refused(conversion: Conversion, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "other", tiny_config())
    donor = fetch_donor(location=str(folder), output=tmp_path / "donor", environment=ENVIRONMENT)
    with pytest.raises(ScionError, match="head does not fit the target") as caught:
        graft_mtp(
            quantized=conversion.quantize_nvfp4,
            donor=donor,
            output=tmp_path / "release",
            environment=ENVIRONMENT,
        )
    assert caught.value.where.endswith("mtp.fc.weight")
    assert caught.value.expected == "BF16 [192, 384]"
    assert caught.value.found == "BF16 [32, 64] (donor hidden_size 32)"
    assert not (tmp_path / "release").exists()
