import json

from scion.architectures.families import QWEN3_5
from scion.formats.modelopt import declared_exclusions, hf_quant_config, quantization_config

KEPT = [
    "model.language_model.layers.0.linear_attn.conv1d",
    "model.language_model.layers.10.linear_attn.in_proj_a",
]


def test_modules_are_excluded_by_full_name_and_the_head_by_pattern() -> None:
    # Tied or not: vLLM builds a head in any case.
    base = ["lm_head", "model.language_model.embed_tokens", *KEPT]
    assert declared_exclusions(QWEN3_5, KEPT) == [*base, "mtp*"]


def test_both_files_declare_the_same_scheme() -> None:
    producer = {"name": "modelopt", "version": "0"}
    flat = quantization_config(["lm_head"], producer=producer)
    assert flat["quant_method"] == "modelopt"
    # With null activations vLLM 0.33 would serve weights only, without a word.
    for group in flat["config_groups"].values():
        for part in (group["weights"], group["input_activations"]):
            assert (part["num_bits"], part["type"], part["group_size"]) == (4, "float", 16)
    assert hf_quant_config(flat) == {
        "producer": producer,
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": None,
            "group_size": 16,
            "exclude_modules": ["lm_head"],
        },
    }


def test_fp8_beside_nvfp4_names_every_module() -> None:
    algorithms = {"a.mlp.up_proj": "NVFP4", "a.self_attn.o_proj": "FP8"}
    flat = quantization_config(["lm_head"], producer={"name": "modelopt"}, algorithms=algorithms)
    assert flat["quant_algo"] == "MIXED_PRECISION"
    layers = {
        "a.mlp.up_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "a.self_attn.o_proj": {"quant_algo": "FP8"},
    }
    assert flat["quantized_layers"] == layers
    assert flat["kv_cache_scheme"] is None
    groups = [(g["targets"], g["weights"]["num_bits"]) for g in flat["config_groups"].values()]
    assert groups == [(["a.mlp.up_proj"], 4), (["a.self_attn.o_proj"], 8)]
    nested = hf_quant_config(flat)["quantization"]
    assert nested["quant_algo"] == "MIXED_PRECISION"
    assert nested["quantized_layers"] == layers
    json.dumps([flat, nested])
