import json
from collections import Counter
from pathlib import Path

import pytest

from checkpoints import tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Conversion
from scion.artifacts.making import Output
from scion.checkpoint.shards import INDEX, Checkpoint
from scion.common.errors import ScionError
from scion.stages.fetch_donor import fetch_donor
from scion.stages.fetch_source import fetch_source
from scion.stages.graft_mtp import graft_mtp


def test_the_head_is_the_donors_bit_for_bit(conversion: Conversion) -> None:
    grafted, donor = conversion.graft_mtp.tensors(), conversion.fetch_donor.tensors()
    head = {name: row for name, row in grafted.items() if name.startswith("mtp.")}
    assert len(head) == 15
    assert head == {
        name: {**row, "origin": {"from": "donor", "sha256": row["sha256"]}}
        for name, row in donor.items()
    }


def test_each_tensor_says_where_it_comes_from(conversion: Conversion) -> None:
    rows = conversion.graft_mtp.tensors()
    # Renamed by fix_keys, their bytes are the source's.
    source = {row["sha256"] for row in conversion.fetch_source.tensors().values()}
    text = conversion.extract_text.tensors()
    found = Counter[str]()
    for name, row in rows.items():
        origin = row["origin"]
        found[origin["from"]] += 1
        if origin["from"] == "quantized":
            weight = f"{name.rpartition('.')[0]}.weight"
            assert origin["sha256"] == text[weight]["sha256"] != row["sha256"], name
            assert origin["sha256"] in source
        else:
            assert origin["sha256"] == row["sha256"], name
            assert (row["sha256"] in source) == (origin["from"] == "source"), name
    verified = conversion.verify_release.facts
    assert found == {
        "donor": 15,
        "source": verified["unchanged_tensors"] - 15,
        "quantized": 4 * verified["quantized_modules"],
    }


def test_a_checkpoint_that_was_made_of_another_text_model_is_refused(
    conversion: Conversion, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "other", tiny_config(), mtp=False)
    other = fetch_source(
        location=str(folder), output=Output.at(tmp_path / "source"), environment=ENVIRONMENT
    )
    with pytest.raises(ScionError, match="comes from none of the source"):
        graft_mtp(
            quantized=conversion.quantize_nvfp4,
            fixed=other,
            donor=None,
            output=Output.at(tmp_path / "release"),
            environment=ENVIRONMENT,
        )
    assert not (tmp_path / "release").exists()


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


def test_config_declares_the_head_and_all_else_is_linked(conversion: Conversion) -> None:
    release, quantized = conversion.graft_mtp.folder, conversion.quantize_nvfp4.folder
    for name in ("hf_quant_config.json", "tokenizer.json"):
        assert (release / name).samefile(quantized / name)
    config, before = (
        json.loads((folder / "config.json").read_bytes()) for folder in (release, quantized)
    )
    before["text_config"]["mtp_num_hidden_layers"] = 1
    assert config == before
    assert "mtp*" in config["quantization_config"]["ignore"]


def test_a_head_of_another_hidden_size_is_refused(conversion: Conversion, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "other", tiny_config())
    donor = fetch_donor(
        location=str(folder), output=Output.at(tmp_path / "donor"), environment=ENVIRONMENT
    )
    with pytest.raises(ScionError, match="head does not fit the target") as caught:
        graft_mtp(
            quantized=conversion.quantize_nvfp4,
            fixed=conversion.fix_keys,
            donor=donor,
            output=Output.at(tmp_path / "release"),
            environment=ENVIRONMENT,
        )
    assert caught.value.where.endswith("mtp.fc.weight")
    assert caught.value.expected == "BF16 [192, 384]"
    assert caught.value.found == "BF16 [32, 64] (donor hidden_size 32)"
    assert not (tmp_path / "release").exists()
