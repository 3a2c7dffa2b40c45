import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from checkpoints import TEXT, VISION, tiny_config
from scion.architectures.families import chat_marks
from scion.architectures.inventory import Inventory, Shape, implied, inventory
from scion.checkpoint.shards import SINGLE, Checkpoint
from scion.common.errors import ScionError

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


# Those of Qwen3.5-35B-A3B, text and MTP head alone.
PUBLISHED_35B: dict[str, Any] = {
    **PUBLISHED_27B["text_config"],
    "model_type": "qwen3_5_moe_text",
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "linear_num_value_heads": 32,
    "num_experts": 256,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}
# Tiny members of the other families. Widths differ wherever they may, so that none hides another.
MOE: dict[str, Any] = {
    **{key: value for key, value in TEXT.items() if key != "intermediate_size"},
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 24,
}
NEXT = {**MOE, "intermediate_size": 64, "num_hidden_layers": 4, "layer_types": None}
PLAIN: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "vocab_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PLAIN_MOE = {**PLAIN, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
TINY: dict[str, dict[str, Any]] = {
    "qwen3_5": tiny_config(),
    "qwen3_5_text": TEXT,
    "qwen3_5_moe": {"text_config": MOE, "vision_config": VISION},
    "qwen3_5_moe_text": MOE,
    "qwen3_next": NEXT,
    "llama": PLAIN,
    "qwen2": PLAIN,
    "qwen3": {**PLAIN, "head_dim": 16},
    "qwen3_moe": PLAIN_MOE,
}
MTP_27B = {
    *("mtp.fc", "mtp.norm", "mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden"),
    *("mtp.layers.0.input_layernorm", "mtp.layers.0.post_attention_layernorm"),
    *(f"mtp.layers.0.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *("mtp.layers.0.self_attn.q_norm", "mtp.layers.0.self_attn.k_norm"),
    *(f"mtp.layers.0.mlp.{part}" for part in ("gate_proj", "up_proj", "down_proj")),
}


def of(model_type: str, **changes: Any) -> dict[str, Any]:
    """config.json of the tiny member of a family."""
    return {**TINY[model_type], "model_type": model_type, **changes}


def known(config: dict[str, Any]) -> Inventory:
    """The inventory of a config whose family is known."""
    expected = implied(config, where="x")
    assert expected is not None
    return expected


def saved(folder: Path, model_type: str, **sizes: Any) -> tuple[PreTrainedModel, Checkpoint]:
    """A tiny model of transformers' own, and the checkpoint that it writes."""
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    assert isinstance(config, PreTrainedConfig)
    kind = (
        transformers.AutoModelForImageTextToText
        if hasattr(config, "vision_config")
        else transformers.AutoModelForCausalLM
    )
    model: PreTrainedModel = kind.from_config(config)
    model.save_pretrained(folder)
    return model, Checkpoint.open(folder)


def elements(shapes: dict[str, Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def test_the_published_27b() -> None:
    expected = inventory(PUBLISHED_27B, where="x")
    assert len(expected.vision) == 333
    assert elements(expected.vision) * 2 == 921_460_192
    assert set(expected.mtp) == {f"{module}.weight" for module in MTP_27B}
    assert elements(expected.mtp) * 2 == 849_398_784
    assert expected.mtp["mtp.fc.weight"] == (5120, 10240)
    assert elements(expected.language) / 1e9 == pytest.approx(26.896, abs=5e-4)
    assert len(expected.quantized) == 400
    assert len(expected.kept) == 144
    # Attention and MLP of 16 layers, delta net and MLP of 48.
    assert len(expected.fused_groups()) == 16 * 2 + 48 * 2
    # Engines load b and a of the 48 delta nets as one, and q, k, v, gate, up of the MTP layer.
    assert len(expected.groups) == 16 * 2 + 48 * 3 + 2
    # All that quantizes or is thin, four in a vision block and two in the merger, eight in the MTP
    # head, the head.
    assert len(expected.linear) == 400 + 48 * 2 + 27 * 4 + 2 + 8 + 1


def test_the_published_35b_of_experts() -> None:
    expected = known(PUBLISHED_35B)
    assert elements(expected.language) / 1e9 == pytest.approx(34.66, abs=5e-3)
    # Qwen3.5 lists the experts of the MTP layer one by one, Qwen3.6 stacks them.
    assert len(expected.mtp) == 785
    stacks = [stack for name, stack in expected.stacked.items() if name.startswith("mtp.")]
    assert len(expected.mtp.keys() - {name for stack in stacks for name in stack.members}) == 17
    assert [stack.shape for stack in stacks] == [(256, 1024, 2048), (256, 2048, 512)]
    # Query, key, value or two pairs of the delta net; the shared expert; 256 experts.
    assert len(expected.groups) == 10 * (2 + 256) + 30 * (3 + 256) + (2 + 256)


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
def test_names_and_shapes_are_those_that_transformers_saves(
    tmp_path: Path, text: dict[str, Any], vision: dict[str, Any]
) -> None:
    text, tied = {**TEXT, **text}, text.get("tie_word_embeddings", False)
    model, checkpoint = saved(
        tmp_path,
        "qwen3_5",
        text_config=text,
        vision_config={**VISION, "num_heads": 2, **vision},
        tie_word_embeddings=tied,
    )
    expected = inventory(checkpoint.config, where="x")
    assert {**expected.language, **expected.vision} == checkpoint.shapes()
    linear = linear_modules(model)
    assert set(expected.quantized) <= linear
    unnamed = {name for name in linear if name.startswith("model.language_model.")}
    assert unnamed - set(expected.quantized) <= set(expected.kept)


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("qwen3_5", {"text_config": TEXT, "vision_config": {**VISION, "num_heads": 2}}),
        ("qwen3_5_text", {**TEXT, "attention_bias": True}),
        ("qwen3_5_moe", {"text_config": MOE, "vision_config": {**VISION, "num_heads": 2}}),
        ("qwen3_5_moe_text", {**MOE, "tie_word_embeddings": True}),
        ("qwen3_next", NEXT),
        ("qwen3_next", {**NEXT, "mlp_only_layers": [3]}),
        ("qwen3_next", {**NEXT, "decoder_sparse_step": 2, "attention_bias": True}),
        ("qwen3_next", {**NEXT, "num_experts": 0}),
        ("llama", PLAIN),
        ("llama", {**PLAIN, "num_key_value_heads": None, "tie_word_embeddings": True}),
        ("llama", {**PLAIN, "head_dim": 16, "attention_bias": True, "mlp_bias": True}),
        ("qwen2", PLAIN),
        ("qwen2", {**PLAIN, "tie_word_embeddings": True}),
        ("qwen3", {**PLAIN, "head_dim": 16}),
        ("qwen3", {**PLAIN, "head_dim": 4, "attention_bias": True}),
        ("qwen3_moe", PLAIN_MOE),
        ("qwen3_moe", {**PLAIN_MOE, "head_dim": 16, "mlp_only_layers": [0]}),
    ],
)
def test_every_family_saves_what_its_config_implies(
    tmp_path: Path, model_type: str, sizes: dict[str, Any]
) -> None:
    model, checkpoint = saved(tmp_path, model_type, **sizes)
    expected = known(checkpoint.config)
    # Qwen stacks experts in its own releases; transformers saves those of every family singly.
    assert {**expected.language, **expected.vision} == checkpoint.shapes()
    ours = {name for name in expected.linear if not name.startswith("mtp.")}
    experts = {name for name in ours if ".mlp.experts." in name or name.endswith(".mlp.gate")}
    tied = set() if "lm_head.weight" in expected.language else {"lm_head"}
    assert ours - experts == linear_modules(model) - tied
    # Norms that multiply by 1 + w begin at 0.
    ends = tuple(f"{end}.weight" for end in expected.family.zero_centred)
    begun = {
        name
        for name, values in model.named_parameters()
        if name in expected.language and name.endswith("norm.weight") and not values.any()
    }
    assert begun == {name for name in expected.language if ends and name.endswith(ends)}


def linear_modules(model: PreTrainedModel) -> set[str]:
    return {name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [("qwen3_5_moe_text", MOE), ("qwen3_next", NEXT), ("qwen3_moe", PLAIN_MOE)],
)
def test_stacked_experts_are_those_of_the_model_in_memory(
    tmp_path: Path, model_type: str, sizes: dict[str, Any]
) -> None:
    model, checkpoint = saved(tmp_path, model_type, **sizes)
    stacked = {
        name: stack
        for name, stack in known(checkpoint.config).stacked.items()
        if not name.startswith("mtp.")
    }
    held = {name: value for name, value in model.state_dict().items() if ".mlp.experts." in name}
    assert {name: stack.shape for name, stack in stacked.items()} == {
        name: tuple(value.shape) for name, value in held.items()
    }
    with safe_open(tmp_path / SINGLE, "pt") as file:
        for name, stack in stacked.items():
            rows = torch.cat([file.get_tensor(member) for member in stack.members])
            assert torch.equal(rows.view(stack.shape), held[name])


@pytest.mark.parametrize("model_type", ["qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_next"])
def test_the_mtp_layer_is_a_full_attention_layer(model_type: str) -> None:
    expected = known(of(model_type))
    full = next(name for name in expected.language if name.endswith("self_attn.q_proj.weight"))
    layer = full.removesuffix("self_attn.q_proj.weight")
    inside = {name: shape for name, shape in expected.language.items() if name.startswith(layer)}
    head = {name for name in MTP_27B if ".layers." not in name}
    assert set(expected.mtp) == {f"{name}.weight" for name in head} | {
        name.replace(layer, "mtp.layers.0.") for name in inside
    }
    assert all(
        expected.mtp[name.replace(layer, "mtp.layers.0.")] == shape
        for name, shape in inside.items()
    )


def test_qwen3_next_need_not_say_that_it_has_an_mtp_head() -> None:
    silent = known(of("qwen3_next"))
    assert silent.mtp
    assert not silent.mtp_declared
    assert known(of("qwen3_next", num_nextn_predict_layers=1)).mtp_declared
    assert known(of("qwen3_next", num_nextn_predict_layers=0)).mtp == {}
    two = known(of("qwen3_next", num_nextn_predict_layers=2))
    assert "mtp.layers.1.mlp.experts.2.down_proj.weight" in two.mtp
    # vLLM builds the MTP layer of number 0 dense where decoder layer 0 is.
    assert "mtp.layers.0.mlp.up_proj.weight" in known(of("qwen3_next", mlp_only_layers=[0])).mtp
    assert known(of("qwen3_5")).mtp_declared
    assert not known(of("llama")).mtp_declared


@pytest.mark.parametrize(
    ("model_type", "parent", "parts"),
    [
        ("qwen3_5", "model.language_model.layers.0.linear_attn", "in_proj_b in_proj_a"),
        ("qwen3_5_text", "model.layers.0.linear_attn", "in_proj_qkv in_proj_z"),
        ("qwen3_5_moe_text", "model.layers.0.mlp.experts.2", "gate_proj up_proj"),
        ("qwen3_5_moe", "mtp.layers.0.mlp.experts.0", "gate_proj up_proj"),
        ("qwen3_next", "model.layers.0.mlp.shared_expert", "gate_proj up_proj"),
        ("qwen2", "model.layers.1.self_attn", "q_proj k_proj v_proj"),
    ],
)
def test_what_engines_load_as_one(model_type: str, parent: str, parts: str) -> None:
    expected = known(of(model_type))
    assert tuple(f"{parent}.{part}" for part in parts.split()) in expected.groups
    assert expected.linear.keys() >= {name for names in expected.groups for name in names}
    assert set(expected.fused_groups()) <= set(expected.groups)


def test_what_quantizes_and_what_stays() -> None:
    expected = known(of("qwen3_next"))
    layer = "model.layers.0."
    kept = ("linear_attn.conv1d", "linear_attn.in_proj_ba", "mlp.gate", "mlp.shared_expert_gate")
    assert {name for name in expected.kept if name.startswith(layer)} == {
        layer + suffix for suffix in kept
    }
    quantized = {name for name in expected.quantized if name.startswith(layer)}
    assert {layer + "linear_attn.in_proj_qkvz", layer + "mlp.experts.2.up_proj"} <= quantized
    assert len(quantized) == 2 + 3 * 3 + 3
    # Biases are tensors, but no modules.
    assert not any("bias" in name for name in known(of("qwen2")).linear)
    assert not any("bias" in name for name in known(of("qwen2")).quantized)


def test_the_outer_key_decides_whether_the_head_is_tied() -> None:
    tied, untied = {**TEXT, "tie_word_embeddings": True}, {**TEXT, "tie_word_embeddings": False}
    assert "lm_head.weight" not in known(of("qwen3_5", text_config=tied)).language
    assert "lm_head" in known(of("qwen3_5", text_config=tied, tie_word_embeddings=False)).linear
    assert (
        "lm_head" not in known(of("qwen3_5", text_config=untied, tie_word_embeddings=True)).linear
    )


def test_without_tower_or_head_their_tensors_are_not_expected() -> None:
    config = tiny_config(mtp_num_hidden_layers=0)
    del config["vision_config"]
    expected = inventory(config, where="x")
    assert (expected.vision, expected.mtp) == ({}, {})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "mistral"}, "architecture is not known"),
        ({"model_type": "qwen3_moe"}, "architecture is not known"),
        ({"model_type": ["qwen3_5"]}, "architecture is not known"),
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


@pytest.mark.parametrize("model_type", [None, "mamba", "qwen3_5_vision", 7, ["llama"], {}])
def test_of_other_architectures_nothing_is_claimed(model_type: Any) -> None:
    assert implied({**PLAIN, "model_type": model_type}, where="x") is None


@pytest.mark.parametrize(
    ("model_type", "change", "named"),
    [
        ("llama", {"hidden_size": -32}, "hidden_size"),
        ("llama", {"hidden_size": 32.0}, "hidden_size"),
        ("llama", {"vocab_size": True}, "vocab_size"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("llama", {"num_attention_heads": 64}, "head_dim"),
        ("llama", {"mlp_bias": "yes"}, "mlp_bias"),
        ("qwen3", {"head_dim": None}, "head_dim"),
        ("qwen3_moe", {"mlp_only_layers": ["0"]}, "mlp_only_layers"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step"),
        ("qwen3_moe", {"num_experts": None}, "num_experts"),
        ("qwen3_next", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen3_next", {"layer_types": ["mamba"] * 4}, "layer_types"),
        ("qwen3_next", {"full_attention_interval": 0}, "full_attention_interval"),
        ("qwen3_5_moe", {"text_config": {**MOE, "num_experts": 0}}, "text_config.num_experts"),
        ("qwen3_5_moe", {"vision_config": "none"}, "vision_config"),
        ("qwen3_5_text", {"mtp_num_hidden_layers": -1}, "mtp_num_hidden_layers"),
    ],
)
def test_an_unusable_key_is_named(model_type: str, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ScionError, match="lacks what") as caught:
        implied(of(model_type, **change), where="some/config.json")
    assert named in caught.value.expected


@pytest.mark.parametrize(
    ("model_type", "change"),
    [
        ("llama", {"num_hidden_layers": 10**7}),
        ("qwen3_moe", {"num_experts": 10**7}),
        ("qwen3_moe", {"num_experts": 10**4, "num_hidden_layers": 10**3}),
        ("qwen3_next", {"num_nextn_predict_layers": 10**6}),
        ("qwen3_5", {"vision_config": {**VISION, "depth": 10**6}}),
    ],
)
def test_more_tensors_than_any_checkpoint_holds_are_not_listed(
    model_type: str, change: dict[str, Any]
) -> None:
    with pytest.raises(ScionError, match="more tensors than any checkpoint holds"):
        implied(of(model_type, **change), where="x")


@pytest.mark.parametrize("model_type", TINY)
def test_a_hostile_config_is_refused_or_understood(model_type: str) -> None:
    config = of(model_type)
    for section in ("", "text_config", "vision_config"):
        keys = config.get(section, {}) if section else config
        for key in keys:
            for value in ("x", -1, 0, 10**30, None, [], [[]], {}, True, 1.5, float("nan")):
                changed = {**keys, key: value}
                with suppress(ScionError):
                    implied({**config, section: changed} if section else changed, where="x")


def test_what_stands_around_answers_is_asked_of_the_row() -> None:
    chatml = "<|im_start|>assistant\n"
    assert chat_marks(of("qwen3_5"), "…<|im_end|>…", where="x").answer == chatml
    # Of the forms that a family's fine-tunes bring, the template's.
    assert chat_marks(of("llama"), "…<|im_end|>…", where="x").answer == chatml
    assert chat_marks(of("llama"), "…<|eot_id|>…", where="x").end == "<|eot_id|>"
    for model_type, template in (("llama", "[INST]"), ("qwen3_moe", "…<|im_end|>…")):
        with pytest.raises(ScionError, match="not known where answers begin"):
            chat_marks(of(model_type), template, where="x")
    for unknown in ({"model_type": "mamba"}, {}):
        with pytest.raises(ScionError, match="architecture is not known") as caught:
            chat_marks(unknown, "", where="x")
        assert "architectures/families.py" in caught.value.hint
