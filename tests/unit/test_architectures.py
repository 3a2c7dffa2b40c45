import math
from typing import Any

import pytest
import torch
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from checkpoints import TEXT, VISION, tiny_config
from scion.architectures import Shape, inventory
from scion.errors import ScionError

# The dimensions that the 27B models of the family publish in their config.json.
PUBLISHED_27B: dict[str, Any] = {
    "model_type": "qwen3_5",
    "text_config": {
        "hidden_size": 5120,
        "intermediate_size": 17408,
        "vocab_size": 248320,
        "num_hidden_layers": 64,
        "full_attention_interval": 4,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 48,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "mtp_num_hidden_layers": 1,
    },
    "vision_config": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "depth": 27,
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": 5120,
    },
}


def elements(shapes: dict[str, Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def test_the_published_27b() -> None:
    expected = inventory(PUBLISHED_27B, where="x")
    assert len(expected.vision) == 333
    assert elements(expected.vision) * 2 == 921_460_192
    assert len(expected.mtp) == 15
    assert elements(expected.mtp) * 2 == 849_398_784
    assert expected.mtp["mtp.fc.weight"] == (5120, 10240)
    assert elements(expected.language) / 1e9 == pytest.approx(26.896, abs=5e-4)
    assert len(expected.quantized) == 400
    assert len(expected.kept) == 144
    # Attention and MLP of 16 layers, delta net and MLP of 48.
    assert len(expected.fused_groups()) == 16 * 2 + 48 * 2


@pytest.mark.parametrize(
    ("text", "vision"),
    [
        ({}, {}),
        ({"num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 48}, {"depth": 3}),
        ({"linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 8}, {}),
        ({"linear_conv_kernel_dim": 3, "linear_value_head_dim": 24}, {"spatial_merge_size": 3}),
        ({"num_hidden_layers": 8, "layer_types": None}, {"patch_size": 4, "hidden_size": 48}),
        ({"tie_word_embeddings": True}, {"num_position_embeddings": 9, "in_channels": 1}),
    ],
)
def test_names_and_shapes_are_those_of_transformers(
    text: dict[str, Any], vision: dict[str, Any]
) -> None:
    config: dict[str, Any] = {
        "model_type": "qwen3_5",
        "text_config": {**TEXT, **text},
        "vision_config": {**VISION, "num_heads": 2, **vision},
    }
    tied = config["text_config"].get("tie_word_embeddings", False)
    with torch.device("meta"):
        model = Qwen3_5ForConditionalGeneration(
            Qwen3_5Config(
                text_config=config["text_config"],
                vision_config=config["vision_config"],
                tie_word_embeddings=tied,
            )
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if tied:
        # A saved checkpoint holds a shared tensor once.
        del shapes["lm_head.weight"]
    expected = inventory(config, where="x")
    assert {**expected.language, **expected.vision} == shapes
    linear = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert set(expected.quantized) <= linear
    unnamed = {name for name in linear if name.startswith("model.language_model.")}
    assert unnamed - set(expected.quantized) <= set(expected.kept)


def test_without_tower_or_head_their_tensors_are_not_expected() -> None:
    config = tiny_config(mtp_num_hidden_layers=0)
    del config["vision_config"]
    expected = inventory(config, where="x")
    assert (expected.vision, expected.mtp) == ({}, {})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "llama"}, "architecture is not known"),
        ({"model_type": None}, "architecture is not known"),
        ({"text_config": None}, "lacks what"),
        ({"text_config": {}}, "lacks what"),
        ({"text_config": {**TEXT, "num_hidden_layers": "2"}}, "lacks what"),
        ({"text_config": {k: v for k, v in TEXT.items() if k != "num_hidden_layers"}}, "lacks"),
        ({"text_config": {**TEXT, "hidden_size": None}}, "lacks what"),
        ({"vision_config": {"depth": 1}}, "lacks what"),
    ],
)
def test_a_config_of_another_kind_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ScionError, match=problem) as caught:
        inventory({**tiny_config(), **change}, where="some/config.json")
    assert caught.value.where == "some/config.json"
