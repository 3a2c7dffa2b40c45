"""The published layouts, one function each, named after what it mirrors."""

from collections.abc import Callable
from typing import Any

from lint_checkpoints import Stored, fp8, nvfp4, scalar
from published import (
    CONFIGS,
    FP8_BLOCK,
    FP8_GROUP,
    MODELOPT,
    NVFP4_GROUP,
    QWEN3_MOE,
    QWEN3_NEXT,
    W4A16_LAYER,
    Layout,
    block_fp8_scheme,
    cache_scales,
    compressed,
    compressed_group,
    decoder,
    filled,
    fp8_block,
    fp8_channel,
    hf_quant,
    modelopt_scheme,
    packed,
    packed_a16,
    qwen35,
    qwen35_text,
    w4a16,
)

Q = r"model\.language_model\.layers\.\d+\."
P = r"model\.layers\.\d+\."
ATTENTION = r"(linear_attn\.(in_proj_qkv|in_proj_z|out_proj)|self_attn\.[qkvo]_proj)\."
MLP = r"mlp\.(experts\.\d+\.|shared_expert\.)?(gate|up|down)_proj\."
_NVIDIA_27B = f"{CONFIGS}/nvidia--Qwen3.6-27B-NVFP4_config.json"
_NVIDIA_35B = f"{CONFIGS}/nvidia--Qwen3.6-35B-A3B-NVFP4_config.json"


NO_CACHE_SCALES = frozenset({"Q411"})
"""Declared with an FP8 cache, and published without its scales."""


def _f32(layout: Layout, *parts: str) -> Layout:
    """Give the delta net's parameters the dtype that Qwen publishes them in."""
    for name, tensor in layout.tensors.items():
        if name.endswith(parts):
            layout.tensors[name] = Stored("F32", tensor.shape, tensor.data * 2)
    return layout


def qwen35_27b() -> Layout:
    config = qwen35()
    del config["dtype"]
    layout = Layout("Qwen/Qwen3.5-27B", f"{CONFIGS}/Qwen--Qwen3.5-27B_config.json", config)
    return _f32(layout, ".A_log", ".linear_attn.norm.weight")


def qwen36_27b() -> Layout:
    config = qwen35()
    config["text_config"] |= {"output_gate_type": "swish", "tie_word_embeddings": False}
    config["language_model_only"] = False
    return Layout("Qwen/Qwen3.6-27B", _NVIDIA_27B, config)


def qwen35_35b_a3b() -> Layout:
    source = f"{CONFIGS}/Qwen--Qwen3.5-35B-A3B_config.json"
    layout = Layout("Qwen/Qwen3.5-35B-A3B", source, qwen35(moe=True))
    return layout.stack_experts(r"model\.")


def qwen36_35b_a3b() -> Layout:
    source = "https://github.com/0xBakeer/inference-atlas/pull/151"
    return Layout("Qwen/Qwen3.6-35B-A3B", source, qwen35(moe=True)).stack_experts()


def _official_exclusions(config: dict[str, Any]) -> list[str]:
    """The list of Qwen's FP8 releases: modules, single parameters and an engine's own names."""
    text = config["text_config"]
    names = ["lm_head", "model.embed_tokens"]
    for layer, kind in enumerate(text["layer_types"]):
        above = f"model.language_model.layers.{layer}"
        parts = ["input_layernorm", "post_attention_layernorm"]
        parts += ["mlp.gate", "mlp.shared_expert_gate"] if "num_experts" in text else []
        delta_net = ("A_log", "conv1d", "dt_bias", "in_proj_ba", "in_proj_b", "in_proj_a", "norm")
        parts += (
            [f"linear_attn.{part}" for part in delta_net]
            if kind == "linear_attention"
            else ["self_attn.q_norm", "self_attn.k_norm"]
        )
        names += [f"{above}.{part}" for part in parts]
    names += [f"mtp.layers.0.{part}" for part in ("input_layernorm", "post_attention_layernorm")]
    if "num_experts" in text:
        names += ["mtp.layers.0.mlp.gate", "mtp.layers.0.mlp.shared_expert_gate"]
    names += ["mtp.layers.0.self_attn.q_norm", "mtp.layers.0.self_attn.k_norm", "mtp.fc"]
    names += ["mtp.norm", "mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden"]
    for above in ("model.visual", "visual"):
        names += [above, f"{above}.patch_embed.proj", f"{above}.pos_embed", f"{above}.merger.norm"]
        names += [f"{above}.merger.linear_fc1", f"{above}.merger.linear_fc2"]
        names += [f"{above}.deepstack_merger_list.0.linear_fc1"]
        for block in range(config["vision_config"]["depth"]):
            qkv = "qkv" if above.startswith("model.") else "qkv_proj"
            parts = ("attn.proj", f"attn.{qkv}", "mlp.linear_fc1", "mlp.linear_fc2")
            names += [f"{above}.blocks.{block}.{part}" for part in parts]
    return names


def qwen36_27b_fp8() -> Layout:
    config = qwen35()
    config = qwen35(scheme=block_fp8_scheme(_official_exclusions(config)))
    source = "https://github.com/jundot/omlx/issues/190"
    layout = Layout("Qwen/Qwen3.5-27B-FP8", source, config)
    return layout.quantize(rf"({Q}|mtp\.layers\.0\.)({ATTENTION}|{MLP})", fp8_block)


def qwen36_35b_a3b_fp8() -> Layout:
    config = qwen35(moe=True)
    config = qwen35(moe=True, scheme=block_fp8_scheme(_official_exclusions(config)))
    source = "https://github.com/0xBakeer/inference-atlas/pull/145"
    layout = Layout("Qwen/Qwen3.6-35B-A3B-FP8", source, config)
    return layout.quantize(rf"({Q}|mtp\.layers\.0\.)({ATTENTION}|{MLP})", fp8_block)


def qwen3_30b_a3b_fp8() -> Layout:
    exclude = ["lm_head"]
    for layer in range(2):
        parts = ("input_layernorm", "mlp.gate", "post_attention_layernorm")
        exclude += [f"model.layers.{layer}.{part}" for part in parts]
    config = decoder("qwen3_moe", scheme=block_fp8_scheme(exclude), **QWEN3_MOE)
    source = f"{CONFIGS}/Qwen--Qwen3-30B-A3B-FP8_config.json"
    layout = Layout("Qwen/Qwen3-30B-A3B-FP8", source, config)
    return layout.quantize(rf"{P}({ATTENTION}|{MLP})", fp8_block)


def qwen3_32b_fp8() -> Layout:
    config = decoder("qwen3", scheme=block_fp8_scheme())
    source = f"{CONFIGS}/Qwen--Qwen3-32B-FP8_config.json"
    layout = Layout("Qwen/Qwen3-32B-FP8", source, config)
    return layout.quantize(rf"{P}({ATTENTION}|{MLP})", fp8_block)


def qwen3_next_80b_a3b() -> Layout:
    source = "https://github.com/FlashML-org/FreeToken/pull/212"
    config = decoder("qwen3_next", **QWEN3_NEXT)
    return Layout("Qwen/Qwen3-Next-80B-A3B-Instruct", source, config)


def qwen3_next_80b_a3b_fp8() -> Layout:
    exclude = ["lm_head", "model.embed_tokens", "mtp.fc", "mtp.layers.0.mlp.gate"]
    exclude += ["mtp.layers.0.mlp.shared_expert_gate"]
    for layer in range(4):
        exclude += [
            f"model.layers.{layer}.{part}" for part in ("mlp.gate", "mlp.shared_expert_gate")
        ]
        if (layer + 1) % 4:
            exclude += [f"model.layers.{layer}.linear_attn.{p}" for p in ("conv1d", "in_proj_ba")]
    config = decoder("qwen3_next", scheme=block_fp8_scheme(exclude), **QWEN3_NEXT)
    source = "https://github.com/vllm-project/vllm/pull/24709"
    layout = Layout("Qwen/Qwen3-Next-80B-A3B-Instruct-FP8", source, config)
    pattern = rf"({P}|mtp\.layers\.0\.)(linear_attn\.(in_proj_qkvz|out_proj)\.|{ATTENTION}|{MLP})"
    return layout.quantize(pattern, fp8_block)


def _mixed(layers: dict[str, Any], *, cache: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both declarations of a mixed-precision release of NVIDIA's."""
    groups: dict[str, Any] = {}
    for algorithm in ("FP8", "W4A16_NVFP4"):
        targets = sorted(k for k, v in layers.items() if v["quant_algo"] == algorithm)
        group: dict[str, Any] = {"weights": FP8_GROUP if algorithm == "FP8" else NVFP4_GROUP}
        if algorithm == "FP8":
            group["input_activations"] = FP8_GROUP
        groups[f"group_{len(groups)}"] = {**group, "targets": targets}
    scheme: dict[str, Any] = {
        "config_groups": groups,
        "quantized_layers": layers,
        "ignore": ["mtp*", "mtp.layers.0*"],
        "quant_algo": "MIXED_PRECISION",
        **({"kv_cache_scheme": FP8_GROUP} if cache else {}),
        "producer": MODELOPT,
        "quant_method": "modelopt",
    }
    exclude = ["mtp*", "mtp.layers.0*"]
    return scheme, hf_quant("MIXED_PRECISION", exclude, quantized_layers=layers)


def _mixed_layers(layout: Layout) -> dict[str, Any]:
    layers: dict[str, Any] = {m: {"quant_algo": "FP8"} for m in layout.modules(Q + ATTENTION)}
    for module in [*layout.modules(Q + MLP), "lm_head"]:
        layers[module.partition("experts.")[0] + "experts" if ".experts." in module else module] = (
            W4A16_LAYER
        )
    return layers


def nvidia_qwen36_27b_nvfp4() -> Layout:
    layers = _mixed_layers(Layout("", "", qwen35()))
    scheme, declared = _mixed(layers, cache=True)
    mirrors = "nvidia/Qwen3.6-27B-NVFP4"
    config = qwen35(scheme=scheme)
    layout = Layout(mirrors, _NVIDIA_27B, config, declared, frozenset({"Q405"}), "vllm>=0.23")
    layout.quantize(Q + ATTENTION, fp8).quantize(Q + MLP, w4a16).quantize("lm_head", w4a16)
    return layout.add(cache_scales(layout))


def nvidia_qwen36_35b_a3b_nvfp4() -> Layout:
    """Weight-only experts that bring scales of inputs all the same; the cache in one file only."""
    layers = _mixed_layers(Layout("", "", qwen35(moe=True)))
    scheme, declared = _mixed(layers, cache=False)
    scheme["config_groups"]["group_1"]["input_activations"] = NVFP4_GROUP
    config = qwen35(moe=True, scheme=scheme)
    mirrors = "nvidia/Qwen3.6-35B-A3B-NVFP4"
    layout = Layout(
        mirrors, _NVIDIA_35B, config, declared, NO_CACHE_SCALES | {"Q410"}, "vllm>=0.23"
    )
    layout.quantize(Q + ATTENTION, fp8).quantize(Q + MLP, nvfp4).quantize("lm_head", nvfp4)
    return layout.stack_experts(r"mtp\.")


def _experts_only(layers: int) -> list[str]:
    names = ["lm_head", "*.mlp.shared_expert.*", "model.visual*", "mtp.layers.0*"]
    for layer in range(layers):
        above = f"model.language_model.layers.{layer}"
        names += [f"{above}.{'linear' if (layer + 1) % 4 else 'self'}_attn*"]
        names += [f"{above}.mlp.shared_expert*", f"{above}.mlp.shared_expert_gate"]
    return names


def nvidia_qwen35_397b_a17b_nvfp4() -> Layout:
    exclude = _experts_only(12)
    scheme = modelopt_scheme("NVFP4", exclude)
    config = qwen35(layers=12, moe=True, scheme=scheme)
    source = f"{CONFIGS}/nvidia--Qwen3.5-397B-A17B-NVFP4_config.json"
    declared = hf_quant("NVFP4", exclude)
    layout = Layout("nvidia/Qwen3.5-397B-A17B-NVFP4", source, config, declared, NO_CACHE_SCALES)
    return layout.quantize(rf"{Q}mlp\.experts\.", nvfp4)


def nvidia_qwen35_122b_a10b_nvfp4() -> Layout:
    exclude = [*(n for n in _experts_only(4) if not n.startswith("*")), "mtp*"]
    config = qwen35(moe=True, scheme=modelopt_scheme("NVFP4", exclude))
    source = f"{CONFIGS}/nvidia--Qwen3.5-122B-A10B-NVFP4_config.json"
    declared = hf_quant("NVFP4", exclude)
    layout = Layout("nvidia/Qwen3.5-122B-A10B-NVFP4", source, config, declared, NO_CACHE_SCALES)
    return layout.quantize(rf"{Q}mlp\.experts\.", nvfp4)


def nvidia_qwen3_next_80b_a3b_nvfp4() -> Layout:
    """q, k and v stay bf16, o_proj does not.

    SGLang calls the draft's layer `model.layers.0`, so that `mtp*` does not exclude it.
    """
    exclude = ["lm_head", "mtp*"]
    for layer in range(4):
        above = f"model.layers.{layer}"
        exclude += [f"{above}.mlp.gate", f"{above}.mlp.shared_expert_gate"]
        delta_net = ("conv1d", "in_proj_ba", "in_proj_qkvz", "out_proj")
        attention = ("q_proj", "k_proj", "v_proj")
        exclude += (
            [f"{above}.linear_attn.{part}" for part in delta_net]
            if (layer + 1) % 4
            else [f"{above}.self_attn.{part}" for part in attention]
        )
    config = decoder("qwen3_next", scheme=modelopt_scheme("NVFP4", exclude), **QWEN3_NEXT)
    source = "https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/models"
    layout = Layout("nvidia/Qwen3-Next-80B-A3B-Instruct-NVFP4", source, config)
    layout.hf_quant_config, layout.expected = hf_quant("NVFP4", exclude), frozenset({"M304"})
    layout.quantize(rf"{P}({MLP}|self_attn\.o_proj)", nvfp4)
    return layout.add(cache_scales(layout))


def nvidia_qwen3_235b_a22b_nvfp4() -> Layout:
    """hf_quant_config.json is all there is."""
    exclude = ["lm_head", *(f"model.layers.{layer}.mlp.gate" for layer in range(2))]
    source = f"{CONFIGS}/nvidia--Qwen3-235B-A22B-NVFP4_hf_quant_config.json"
    config, declared = decoder("qwen3_moe", **QWEN3_MOE), hf_quant("NVFP4", exclude)
    layout = Layout("nvidia/Qwen3-235B-A22B-NVFP4", source, config, declared)
    layout.quantize(rf"{P}({ATTENTION}|{MLP})", nvfp4)
    return layout.add(cache_scales(layout))


def nvidia_qwen3_235b_a22b_instruct_nvfp4() -> Layout:
    """q, k and v stay bf16."""
    exclude = ["lm_head"]
    for layer in range(2):
        parts = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate")
        exclude += [f"model.layers.{layer}.{part}" for part in (*parts, "self_attn.o_proj")]
    config = decoder("qwen3_moe", scheme=modelopt_scheme("NVFP4", exclude), **QWEN3_MOE)
    source = "https://github.com/sgl-project/sglang/pull/18189"
    declared = hf_quant("NVFP4", exclude)
    layout = Layout(
        "nvidia/Qwen3-235B-A22B-Instruct-2507-NVFP4", source, config, declared, NO_CACHE_SCALES
    )
    return layout.quantize(rf"{P}{MLP}", nvfp4)


def nvidia_llama31_8b_fp8() -> Layout:
    source = f"{CONFIGS}/nvidia--Llama-3.1-70B-Instruct-FP8_hf_quant_config.json"
    declared = hf_quant("FP8", ["lm_head"])
    layout = Layout("nvidia/Llama-3.1-8B-Instruct-FP8", source, decoder(), declared)
    layout.quantize(rf"{P}({ATTENTION}|{MLP})", fp8)
    return layout.add(cache_scales(layout))


def nvidia_llama31_8b_nvfp4() -> Layout:
    source = "https://github.com/NVIDIA/Model-Optimizer/blob/main/modelopt/torch/export"
    declared = hf_quant("NVFP4", ["lm_head"])
    layout = Layout("nvidia/Llama-3.1-8B-Instruct-NVFP4", source, decoder(), declared)
    layout.quantize(rf"{P}({ATTENTION}|{MLP})", nvfp4)
    return layout.add(cache_scales(layout))


def modelopt_llama_fp8_both_files() -> Layout:
    """What a recent ModelOpt writes; nothing else but the head is excluded."""
    source = "https://github.com/NVIDIA/Model-Optimizer/blob/main/modelopt/torch/export"
    config = decoder(scheme=modelopt_scheme("FP8", ["lm_head"]))
    layout = Layout("ModelOpt FP8", source, config, hf_quant("FP8", ["lm_head"]), NO_CACHE_SCALES)
    return layout.quantize(rf"{P}({ATTENTION}|{MLP})", fp8)


def modelopt_tied_nvfp4() -> Layout:
    """Nothing is excluded where the head is tied: one file has an empty list, the other null."""
    source = "https://github.com/NVIDIA/Model-Optimizer/blob/main/modelopt/torch/export"
    config = decoder("qwen3", scheme=modelopt_scheme("NVFP4", []), tie_word_embeddings=True)
    declared = hf_quant("NVFP4", [])
    declared["quantization"]["exclude_modules"] = None
    layout = Layout(
        "ModelOpt NVFP4 of Qwen3-0.6B", source, config, declared, NO_CACHE_SCALES, "vllm>=0.25"
    )
    return layout.quantize(rf"{P}({ATTENTION}|{MLP})", nvfp4)


def redhat_qwen35_9b_nvfp4() -> Layout:
    """The list names every module in full, the MTP head by a pattern."""
    bare = Layout("", "", qwen35())
    ignore = [
        *bare.modules(r"model\.visual\.(blocks|merger)"),
        *bare.modules(rf"{Q}linear_attn\.(in_proj|out_proj)"),
        "lm_head",
        "re:^mtp.*",
    ]
    scheme = compressed([compressed_group("nvfp4-pack-quantized", ["Linear"])], ignore)
    source = "https://github.com/vllm-project/llm-compressor/pull/2740"
    layout = Layout(
        "RedHatAI/Qwen3.5-9B-NVFP4", source, qwen35(scheme=scheme), None, frozenset({"M305"})
    )
    return layout.quantize(rf"{Q}(self_attn\.[qkvo]_proj|mlp\.)", packed)


def redhat_qwen36_35b_a3b_nvfp4() -> Layout:
    ignore = [
        *("re:.*lm_head", "re:visual.*", "re:model.visual.*", "re:.*mlp.gate$"),
        *("re:.*embed_tokens$", "re:.*shared_expert_gate$", "re:.*linear_attn.*", "re:^mtp.*"),
    ]
    scheme = compressed([compressed_group("nvfp4-pack-quantized", ["Linear"])], ignore)
    source = "https://github.com/vllm-project/llm-compressor/pull/2740"
    config = qwen35(moe=True, scheme=scheme)
    layout = Layout("RedHatAI/Qwen3.6-35B-A3B-NVFP4", source, config, None, frozenset({"M305"}))
    return layout.quantize(rf"{Q}(self_attn\.[qkvo]_proj|{MLP})", packed)


def redhat_qwen35_397b_fp8_dynamic() -> Layout:
    ignore = [
        *("re:.*lm_head", "re:visual.*", "re:model.visual.*", "re:.*mlp.gate$", "re:^mtp.*"),
        *("re:.*embed_tokens$", "re:.*shared_expert_gate$", "re:.*linear_attn.*"),
    ]
    scheme = compressed([compressed_group("float-quantized", ["Linear"])], ignore)
    source = (
        "https://github.com/vllm-project/llm-compressor/blob/main/examples/"
        "quantization_w8a8_fp8/qwen3_5_moe.py"
    )
    layout = Layout(
        "RedHatAI/Qwen3.5-397B-A17B-FP8-dynamic", source, qwen35(moe=True, scheme=scheme)
    )
    return layout.quantize(rf"{Q}(self_attn\.[qkvo]_proj|{MLP})", fp8_channel)


def redhat_llama31_8b_fp8_dynamic() -> Layout:
    scheme = compressed([compressed_group("float-quantized", ["Linear"])], ["lm_head"])
    source = "https://github.com/vllm-project/vllm/blob/v0.33.0/docs/features/quantization/fp8.md"
    layout = Layout(
        "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", source, decoder(scheme=scheme)
    )
    return layout.quantize(rf"{P}({ATTENTION}|{MLP})", fp8_channel)


def redhat_llama31_8b_fp8_static() -> Layout:
    """One scale a tensor, in bf16, of shape [1]; and one for inputs."""
    group = compressed_group("float-quantized", ["Linear"])
    group["weights"] |= {"strategy": "tensor"}
    group["input_activations"] |= {"strategy": "tensor", "dynamic": False}
    source = "https://github.com/vllm-project/vllm/blob/v0.33.0/docs/features/quantization/fp8.md"
    config = decoder(scheme=compressed([group], ["lm_head"]))
    layout = Layout("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8", source, config)

    def make(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
        tensors = fp8(module, shape)
        for suffix in ("weight_scale", "input_scale"):
            tensors[f"{module}.{suffix}"] = Stored("BF16", (1,), b"\x80\x3c")
        return tensors

    return layout.quantize(rf"{P}({ATTENTION}|{MLP})", make)


def redhat_llama31_8b_fp8_block() -> Layout:
    """Block scales called weight_scale."""
    group = compressed_group("float-quantized", ["Linear"])
    group["weights"] |= {"strategy": "block", "block_structure": [FP8_BLOCK, FP8_BLOCK]}
    group["input_activations"] |= {"strategy": "group", "group_size": 128}
    source = "https://github.com/vllm-project/llm-compressor/issues/1758"
    config = decoder(scheme=compressed([group], ["lm_head"]))
    layout = Layout("RedHatAI/Llama-3.1-8B-Instruct-FP8-BLOCK", source, config)

    def make(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
        return fp8_block(module, shape, suffix="weight_scale")

    return layout.quantize(rf"{P}({ATTENTION}|{MLP})", make)


def redhat_llama31_8b_nvfp4a16() -> Layout:
    group = compressed_group("nvfp4-pack-quantized", ["Linear"], input_activations=None)
    source = (
        "https://github.com/vllm-project/llm-compressor/tree/main/examples/quantization_w4a16_fp4"
    )
    config = decoder(scheme=compressed([group], ["lm_head"]))
    layout = Layout("RedHatAI/Llama-3.1-8B-Instruct-NVFP4A16", source, config)
    return layout.quantize(rf"{P}({ATTENTION}|{MLP})", packed_a16)


def unsloth_qwen38_27b_nvfp4() -> Layout:
    """MLPs in NVFP4 but for the last, all else in FP8 by channel, head too; cache scales."""
    last = r"re:.*layers\.3\.mlp\.(gate|up|down)_proj$"
    groups = [
        compressed_group(
            "float-quantized", [r"re:.*self_attn\.(q|k|v|o)_proj$", last, "re:.*lm_head$"]
        ),
        compressed_group(
            "nvfp4-pack-quantized", [r"re:.*layers\.[0-2]\.mlp\.(gate|up|down)_proj$"]
        ),
    ]
    groups[0]["targets"].append(r"re:.*linear_attn\.(in_proj_qkv|in_proj_z|out_proj)$")
    ignore = ["re:.*visual.*", "re:.*mtp.*", r"re:.*linear_attn\.in_proj_[ab]$"]
    scheme = compressed(groups, ignore, kv_cache_scheme={**FP8_GROUP, "strategy": "tensor"})
    source = "https://github.com/vllm-project/vllm/issues/54623"
    config, expected = qwen35(scheme=scheme), frozenset({"M305", "Q405"})
    layout = Layout("unsloth/Qwen3.8-27B-NVFP4", source, config, None, expected, "vllm>=0.23")
    layout.quantize(Q + ATTENTION, fp8_channel).quantize("lm_head", fp8_channel)
    layout.quantize(rf"model\.language_model\.layers\.3\.{MLP}", fp8_channel)
    for number in range(3):
        layout.quantize(rf"model\.language_model\.layers\.{number}\.{MLP}", packed)
    attention = "model.language_model.layers.3.self_attn"
    return layout.add({f"{attention}.{part}_scale": scalar(0.02, shape=(1,)) for part in "kv"})


def qwen3_32b_fp8_static() -> Layout:
    """Without quant_method, so that vLLM takes it for an unquantized checkpoint."""
    scheme = modelopt_scheme("FP8", ["lm_head"], kv_cache_scheme="FP8")
    del scheme["quant_method"], scheme["config_groups"]["group_0"]["targets"]
    source = f"{CONFIGS}/Qwen--Qwen3-32B-FP8-Static-PerTensor_config.json"
    config, declared = decoder("qwen3", scheme=scheme), hf_quant("FP8", ["lm_head"])
    expected = NO_CACHE_SCALES | {"Q403", "Q409"}
    layout = Layout("Qwen/Qwen3-32B-FP8-Static-PerTensor", source, config, declared, expected)
    return layout.quantize(rf"{P}({ATTENTION}|{MLP})", fp8)


def neuralmagic_compression_config() -> Layout:
    """The key that the first releases of compressed-tensors used."""
    layout = redhat_llama31_8b_fp8_dynamic()
    layout.mirrors = "neuralmagic's first compressed-tensors releases"
    layout.config["compression_config"] = layout.config.pop("quantization_config")
    return layout


def qwen3_8b() -> Layout:
    return Layout("Qwen/Qwen3-8B", f"{CONFIGS}/Qwen--Qwen3-8B_config.json", decoder("qwen3"))


def qwen25_7b() -> Layout:
    source = "https://github.com/huggingface/transformers/tree/main/src/transformers/models/qwen2"
    return Layout("Qwen/Qwen2.5-7B-Instruct", source, decoder("qwen2"))


def llama31_8b() -> Layout:
    source = f"{CONFIGS}/meta-llama--Meta-Llama-3.1-8B_config.json"
    return Layout("meta-llama/Llama-3.1-8B", source, decoder(mlp_bias=False, attention_bias=False))


def llama2_7b_with_rotary_buffers() -> Layout:
    source = "https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/utils.py"
    layout = Layout("meta-llama/Llama-2-7b-hf", source, decoder())
    name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    return layout.add({name.format(n): Stored("F32", (8,), b"\0" * 32) for n in range(2)})


def qwen3_06b() -> Layout:
    """Tied, and the shard holds the head all the same."""
    source = "https://github.com/vllm-project/vllm/pull/51665"
    config = decoder("qwen3", tie_word_embeddings=True)
    layout = Layout("Qwen/Qwen3-0.6B", source, config, None, frozenset({"N208"}))
    return layout.add({"lm_head.weight": layout.tensors["model.embed_tokens.weight"]})


def qwen25_05b() -> Layout:
    source = "https://github.com/huggingface/transformers/tree/main/src/transformers/models/qwen2"
    return Layout("Qwen/Qwen2.5-0.5B", source, decoder("qwen2", tie_word_embeddings=True))


def qwen35_text_only() -> Layout:
    """A text-only copy as transformers 5 saves it, without the MTP head that it does not load."""
    source = "https://github.com/QwenLM/Qwen3.8/issues/64"
    config = {"architectures": ["Qwen3_5ForCausalLM"], **qwen35_text(), "mtp_num_hidden_layers": 0}
    config["tie_word_embeddings"] = False
    mirrors = "Qwen3.5, text only, of transformers 5"
    return Layout(mirrors, source, config, sound_in="vllm>=0.27")


def qwen35_text_only_with_mtp() -> Layout:
    source = "https://github.com/QwenLM/Qwen3.8/issues/64"
    config = {
        "architectures": ["Qwen3_5ForCausalLM"],
        **qwen35_text(),
        "tie_word_embeddings": False,
    }
    mirrors = "Qwen3.5, text only, with the MTP head"
    return Layout(mirrors, source, config, sound_in="vllm>=0.27")


def _gptq(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    rows, columns = shape
    return {
        f"{module}.qweight": filled("I32", columns // 8, rows),
        f"{module}.qzeros": filled("I32", 1, rows // 8),
        f"{module}.scales": filled("F16", 1, rows),
        f"{module}.g_idx": filled("I32", columns),
        f"{module}.bias": filled("F16", rows),
    }


def _awq(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    rows, columns = shape
    return {
        f"{module}.qweight": filled("I32", columns, rows // 8),
        f"{module}.qzeros": filled("I32", 1, rows // 8),
        f"{module}.scales": filled("F16", 1, rows),
    }


def _bnb4(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    count = shape[0] * shape[1]
    weight = f"{module}.weight"
    return {
        weight: filled("U8", count // 2, 1),
        f"{weight}.absmax": filled("U8", count // 64),
        f"{weight}.nested_absmax": scalar(1.0, shape=(1,)),
        f"{weight}.nested_quant_map": filled("F32", 256),
        f"{weight}.quant_map": filled("F32", 16),
        f"{weight}.quant_state.bitsandbytes__nf4": filled("U8", 40),
    }


def _bnb8(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    return {
        f"{module}.weight": filled("I8", *shape),
        f"{module}.SCB": filled("F32", shape[0]),
        f"{module}.weight_format": filled("U8"),
    }


def _wna16(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    rows, columns = shape
    return {
        f"{module}.weight_packed": filled("I32", rows, columns // 8),
        f"{module}.weight_scale": filled("BF16", rows, columns // 32),
        f"{module}.weight_shape": filled("I64", 2),
        f"{module}.weight_zero_point": filled("I32", rows // 8, columns // 32),
    }


def _int8(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    weight, scale = filled("I8", *shape), filled("BF16", shape[0], 1)
    return {f"{module}.weight": weight, f"{module}.weight_scale": scale}


def _mxfp4(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    rows, columns = shape
    return {
        f"{module}.weight": filled("U8", rows, columns // 2),
        f"{module}.weight_scale": filled("U8", rows, columns // 32, byte=b"\x7f"),
    }


def _mxfp8(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    rows, columns = shape
    return {
        f"{module}.weight": filled("F8_E4M3", rows, columns),
        f"{module}.weight_scale": filled("U8", rows, columns // 32, byte=b"\x7f"),
    }


def _packed_mxfp4(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    tensors = _mxfp4(module, shape)
    tensors[f"{module}.weight_packed"] = tensors.pop(f"{module}.weight")
    return tensors


def _awq_of_modelopt(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    rows, columns = shape
    return {
        f"{module}.weight": filled("U8", rows // 2, columns),
        f"{module}.weight_scale": filled("BF16", rows, columns // 32),
        f"{module}.pre_quant_scale": filled("BF16", columns),
        f"{module}.input_scale": scalar(0.1),
    }


def _foreign(
    mirrors: str,
    scheme: dict[str, Any],
    make: Callable[[str, tuple[int, int]], dict[str, Stored]],
    *expected: str,
) -> Layout:
    source = "https://github.com/huggingface/transformers/tree/main/docs/source/en/quantization"
    config = decoder("qwen3", scheme=scheme)
    layout = Layout(mirrors, source, config, None, frozenset(expected))
    return layout.quantize(rf"{P}({ATTENTION}|{MLP})", make)


def _int_group(**weights: Any) -> dict[str, Any]:
    group = compressed_group("pack-quantized", ["Linear"], input_activations=None)
    group["weights"] |= {"type": "int", "num_bits": 4, "strategy": "group", "group_size": 32}
    group["weights"] |= weights
    return group


def foreign() -> list[Layout]:
    """Releases of methods that lint does not know."""
    gptq = {"bits": 4, "group_size": 64, "desc_act": False}
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    int8 = _int_group(num_bits=8, strategy="channel", group_size=None)
    mxfp4 = compressed_group("mxfp4-pack-quantized", ["Linear"])
    w8a8 = compressed([int8 | {"format": "int-quantized"}], ["lm_head"])
    # Engines may refuse these algorithms of ModelOpt's, and are then said to.
    awq, mxfp8 = (modelopt_scheme(algorithm, ["lm_head"]) for algorithm in ("W4A8_AWQ", "MXFP8"))
    return [
        _foreign("GPTQ", {"quant_method": "gptq", **gptq}, _gptq),
        _foreign("auto-round", {"quant_method": "auto-round", **gptq}, _gptq),
        _foreign("AWQ", {"quant_method": "awq", "bits": 4, "version": "gemm"}, _awq),
        _foreign("bitsandbytes nf4", nf4, _bnb4),
        _foreign("bitsandbytes int8", {"quant_method": "bitsandbytes"}, _bnb8),
        _foreign("mxfp4", {"quant_method": "mxfp4"}, _mxfp4),
        _foreign("quark", {"quant_method": "quark", "exclude": ["lm_head"]}, _mxfp4),
        _foreign("torchao", {"quant_method": "torchao"}, _int8),
        _foreign("compressed-tensors W4A16", compressed([_int_group()], ["lm_head"]), _wna16),
        _foreign("compressed-tensors W8A8", w8a8, _int8),
        _foreign("compressed-tensors MXFP4", compressed([mxfp4], ["lm_head"]), _packed_mxfp4),
        _foreign("ModelOpt W4A8_AWQ", awq, _awq_of_modelopt, "Q407", *NO_CACHE_SCALES),
        _foreign("ModelOpt MXFP8", mxfp8, _mxfp8, "Q407", *NO_CACHE_SCALES),
    ]


LAYOUTS: list[Callable[[], Layout]] = [
    qwen35_27b,
    qwen36_27b,
    qwen35_35b_a3b,
    qwen36_35b_a3b,
    qwen36_27b_fp8,
    qwen36_35b_a3b_fp8,
    qwen3_30b_a3b_fp8,
    qwen3_32b_fp8,
    qwen3_next_80b_a3b,
    qwen3_next_80b_a3b_fp8,
    nvidia_qwen36_27b_nvfp4,
    nvidia_qwen36_35b_a3b_nvfp4,
    nvidia_qwen35_397b_a17b_nvfp4,
    nvidia_qwen35_122b_a10b_nvfp4,
    nvidia_qwen3_next_80b_a3b_nvfp4,
    nvidia_qwen3_235b_a22b_nvfp4,
    nvidia_qwen3_235b_a22b_instruct_nvfp4,
    nvidia_llama31_8b_fp8,
    nvidia_llama31_8b_nvfp4,
    modelopt_llama_fp8_both_files,
    modelopt_tied_nvfp4,
    redhat_qwen35_9b_nvfp4,
    redhat_qwen36_35b_a3b_nvfp4,
    redhat_qwen35_397b_fp8_dynamic,
    redhat_llama31_8b_fp8_dynamic,
    redhat_llama31_8b_fp8_static,
    redhat_llama31_8b_fp8_block,
    redhat_llama31_8b_nvfp4a16,
    unsloth_qwen38_27b_nvfp4,
    qwen3_32b_fp8_static,
    neuralmagic_compression_config,
    qwen3_8b,
    qwen25_7b,
    llama31_8b,
    llama2_7b_with_rotary_buffers,
    qwen3_06b,
    qwen25_05b,
    qwen35_text_only,
    qwen35_text_only_with_mtp,
]
