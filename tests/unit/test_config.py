import difflib
from pathlib import Path
from typing import Any

import pytest
import yaml

from scion.common.errors import ScionError
from scion.config import Config, default_yaml, load_config, read_config

CONFIG = Path(__file__).parents[2] / "config"


def test_the_committed_default_is_the_generated_one() -> None:
    committed, generated = (CONFIG / "default.yaml").read_text(), default_yaml()
    diff = difflib.unified_diff(
        committed.splitlines(), generated.splitlines(), "config/default.yaml", "generated", n=1
    )
    assert committed == generated, "\n".join(["run `scion config --write`:", *diff])


def test_the_default_says_what_the_model_says() -> None:
    assert read_config(CONFIG / "default.yaml") == Config()


@pytest.mark.parametrize("path", sorted(CONFIG.glob("releases/*.yaml")), ids=lambda path: path.stem)
def test_every_release_is_a_sound_config(path: Path) -> None:
    assert read_config(path).release == path.stem


def test_the_27b_release_is_calibrated_with_the_set_it_was_published_with() -> None:
    config = read_config(CONFIG / "releases/carnice-v2-27b-nvfp4-text-mtp.yaml")
    (only,) = config.quantization.calibration.sets
    assert only.dataset.partition("@")[0] == "hf://datasets/neuralmagic/calibration"
    assert (only.subset, only.split, only.samples, only.max_tokens) == ("LLM", "train", 20, 8192)
    assert config.quantization.calibration.pack_tokens is None


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"sources": "x"}, "sources"),
        ({"quantization": {"calibration": {"samples": 3}}}, "quantization.calibration.samples"),
        ({"quantization": {"calibration": {"sets": []}}}, "quantization.calibration.sets"),
        ({"quantization": {"calibration": {"sets": [{"samples": "many"}]}}}, "found many"),
        (
            {"quantization": {"calibration": {"sets": [{}, {"samples": 0}]}}},
            "quantization.calibration.sets.1.samples",
        ),
        ({"quantization": {"calibration": {"pack_tokens": 0}}}, "calibration.pack_tokens"),
        ({"text_only": "perhaps"}, "text_only"),
        ({"spelling": "gguf"}, "'modelopt' or 'compressed-tensors'"),
        ({"spelling": ["modelopt"]}, "spelling"),
        (
            {"spelling": "compressed-tensors", "lint": {"engines": ["vllm", "tensorrt-llm"]}},
            "tensorrt-llm 1.0.0 is not known to read compressed-tensors",
        ),
        ({"quantization": []}, "quantization"),
        ({"release": "../elsewhere"}, "release"),
        ({"launches": [{"name": "a", "title": "b"}]}, "launches.0.max_model_len"),
    ],
)
def test_a_wrong_key_or_value_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ScionError, match="configuration is not valid") as caught:
        load_config(values, where="my.yaml")
    assert named in caught.value.found
    assert caught.value.where == "my.yaml"


def test_a_store_that_is_no_list_is_told_how_to_write_it() -> None:
    with pytest.raises(ScionError) as caught:
        load_config({"store": "/data/scion"}, where="my.yaml")
    assert "store: [/data/scion]" in caught.value.found


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(ScionError) as caught:
        load_config({"sources": "x", "text_only": "perhaps", "donor": 3}, where="x")
    assert all(key in caught.value.found for key in ("sources", "text_only", "donor"))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sorce": "x"}, "sorce: Extra inputs are not permitted, did you mean source? (found x)"),
        (
            {"quantization": {"calibration": {"sets": [{"sampels": 8}]}}},
            "quantization.calibration.sets.0.sampels: Extra inputs are not permitted, "
            "did you mean samples? (found 8)",
        ),
        ({"card": {"qqq": 1}}, "card.qqq: Extra inputs are not permitted (found 1)"),
    ],
)
def test_an_unknown_key_is_told_once_with_the_nearest_known_one(
    values: dict[str, Any], told: str
) -> None:
    with pytest.raises(ScionError) as caught:
        load_config(values, where="my.yaml")
    assert caught.value.found == told


def test_an_empty_list_is_told_beside_a_mistyped_key() -> None:
    values = {"lint": {"engines": []}, "quantization": {"calibration": {"sets": [{"sampels": 8}]}}}
    with pytest.raises(ScionError) as caught:
        load_config(values, where="my.yaml")
    assert caught.value.found.count("at least 1 item") == 1


@pytest.mark.parametrize("content", ["a: [", "- 1", "text", None])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ScionError) as caught:
        read_config(path)
    assert caught.value.where == str(path)


def test_what_a_file_leaves_out_has_the_default(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"text_only": False}))
    config = read_config(tmp_path / "my.yaml")
    assert config == Config(text_only=False)
    (tmp_path / "my.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "my.yaml") == Config()
