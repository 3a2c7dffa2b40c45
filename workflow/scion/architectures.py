"""What a config.json implies: every tensor's name and shape, what quantizes, what engines fuse.

The tables describe the dense Qwen3.5/3.6 family (`Qwen3_5ForConditionalGeneration`): a hybrid of
gated-delta-net and full-attention layers, a vision tower, and one multi-token-prediction (MTP)
layer. Names and shapes were read off transformers 5.14's `modeling_qwen3_5.py` and vLLM 0.32's
`qwen3_5.py` and `qwen3_5_mtp.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scion.errors import ScionError

Shape = tuple[int, ...]

# Modules that vLLM loads as one; inside a group, scales must be equal and all or none quantizes.
# https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/qwen3_5.py
FUSED_SUFFIXES = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("linear_attn.in_proj_qkv", "linear_attn.in_proj_z"),
)
# The linear modules of a decoder layer that NVFP4_DEFAULT_CFG quantizes. The head, the embeddings,
# the convolution and the two thin projections of the delta net stay bf16.
QUANTIZED_SUFFIXES = (
    "linear_attn.in_proj_qkv",
    "linear_attn.in_proj_z",
    "linear_attn.out_proj",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
KEPT_SUFFIXES = ("linear_attn.conv1d", "linear_attn.in_proj_a", "linear_attn.in_proj_b")
MTP_PREFIX = "mtp."
VISION_PREFIX = "model.visual."
LAYERS_PREFIX = "model.language_model.layers."


@dataclass(frozen=True)
class Inventory:
    """The tensors that a configuration implies.

    Attributes:
        language: Shape by name of the language model's tensors, head and embeddings included.
        vision: Those of the vision tower; empty where the configuration has none.
        mtp: Those of the MTP head; empty where the configuration has none.
        quantized: The modules that NVFP4_DEFAULT_CFG quantizes, in layer order.
        kept: The modules of decoder layers that stay bf16 and that an exclusion list must name.
    """

    language: dict[str, Shape]
    vision: dict[str, Shape]
    mtp: dict[str, Shape]
    quantized: tuple[str, ...]
    kept: tuple[str, ...]

    def fused_groups(self) -> list[tuple[str, ...]]:
        """The quantized modules that engines load as one, group by group."""
        modules = set(self.quantized)
        layers = dict.fromkeys(".".join(name.split(".")[:4]) for name in self.quantized)
        groups = (
            tuple(f"{layer}.{suffix}" for suffix in suffixes)
            for layer in layers
            for suffixes in FUSED_SUFFIXES
        )
        return [group for group in groups if modules.issuperset(group)]


def inventory(config: Mapping[str, Any], *, where: object) -> Inventory:
    """The tensors that a Qwen3.5/3.6 config.json implies.

    Args:
        config: Parsed config.json.
        where: The file to name in errors.

    Raises:
        ScionError: Another architecture, or a key that the shapes depend on is missing.
    """
    if config.get("model_type") != "qwen3_5":
        raise ScionError(
            "this architecture is not known",
            where=where,
            expected="model_type qwen3_5 (dense Qwen3.5/3.6)",
            found=f"model_type {config.get('model_type')!r}",
            hint="name a checkpoint of that family",
        )
    try:
        text = config["text_config"]
        language = _language(text)
        vision = _vision(config["vision_config"]) if config.get("vision_config") else {}
        mtp = _mtp(text) if text.get("mtp_num_hidden_layers", 0) else {}
        layers = range(text["num_hidden_layers"])
    except (KeyError, TypeError) as error:
        raise ScionError(
            "config.json lacks what the tensors' shapes follow from",
            where=where,
            expected="the keys of a Qwen3.5 text_config and vision_config",
            found=f"no usable {error}",
            hint="fetch config.json again from the checkpoint's repository",
        ) from error
    modules = [name.removesuffix(".weight") for name in language]
    order = {module: position for position, module in enumerate(modules)}

    def in_layers(suffixes: tuple[str, ...]) -> tuple[str, ...]:
        names = (f"{LAYERS_PREFIX}{layer}.{suffix}" for layer in layers for suffix in suffixes)
        return tuple(sorted((name for name in names if name in order), key=order.__getitem__))

    return Inventory(language, vision, mtp, in_layers(QUANTIZED_SUFFIXES), in_layers(KEPT_SUFFIXES))


def layer_types(text: Mapping[str, Any]) -> list[str]:
    """`linear_attention` or `full_attention` for each decoder layer."""
    if text.get("layer_types"):
        return list(text["layer_types"])
    interval = text.get("full_attention_interval", 4)
    return [
        "linear_attention" if (layer + 1) % interval else "full_attention"
        for layer in range(text["num_hidden_layers"])
    ]


def _language(text: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, vocabulary = text["hidden_size"], text["vocab_size"]
    shapes: dict[str, Shape] = {"model.language_model.embed_tokens.weight": (vocabulary, hidden)}
    for layer, kind in enumerate(layer_types(text)):
        mixer = _full_attention(text) if kind == "full_attention" else _delta_net(text)
        parts = {**_norms(text), **mixer, **_mlp(text)}
        shapes |= {f"{LAYERS_PREFIX}{layer}.{name}": shape for name, shape in parts.items()}
    shapes["model.language_model.norm.weight"] = (hidden,)
    if not text.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def _norms(text: Mapping[str, Any]) -> dict[str, Shape]:
    hidden = text["hidden_size"]
    return {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}


def _full_attention(text: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, head = text["hidden_size"], text["head_dim"]
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    return {
        # The query projection carries the output gate, hence twice the heads.
        "self_attn.q_proj.weight": (2 * heads * head, hidden),
        "self_attn.k_proj.weight": (kv_heads * head, hidden),
        "self_attn.v_proj.weight": (kv_heads * head, hidden),
        "self_attn.o_proj.weight": (hidden, heads * head),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
    }


def _delta_net(text: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, values = text["hidden_size"], text["linear_num_value_heads"]
    key_width = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    value_width = values * text["linear_value_head_dim"]
    mixed = 2 * key_width + value_width
    return {
        "linear_attn.A_log": (values,),
        "linear_attn.dt_bias": (values,),
        "linear_attn.conv1d.weight": (mixed, 1, text["linear_conv_kernel_dim"]),
        "linear_attn.in_proj_qkv.weight": (mixed, hidden),
        "linear_attn.in_proj_z.weight": (value_width, hidden),
        "linear_attn.in_proj_b.weight": (values, hidden),
        "linear_attn.in_proj_a.weight": (values, hidden),
        "linear_attn.norm.weight": (text["linear_value_head_dim"],),
        "linear_attn.out_proj.weight": (hidden, value_width),
    }


def _mlp(text: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    return {
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }


def _mtp(text: Mapping[str, Any]) -> dict[str, Shape]:
    hidden = text["hidden_size"]
    shapes: dict[str, Shape] = {
        "mtp.fc.weight": (hidden, 2 * hidden),
        "mtp.norm.weight": (hidden,),
        "mtp.pre_fc_norm_embedding.weight": (hidden,),
        "mtp.pre_fc_norm_hidden.weight": (hidden,),
    }
    for layer in range(text["mtp_num_hidden_layers"]):
        parts = {**_norms(text), **_full_attention(text), **_mlp(text)}
        shapes |= {f"mtp.layers.{layer}.{name}": shape for name, shape in parts.items()}
    return shapes


def _vision(vision: Mapping[str, Any]) -> dict[str, Shape]:
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    patch, merged = vision["patch_size"], width * vision["spatial_merge_size"] ** 2
    block = {
        **_biased("attn.qkv", 3 * width, width),
        **_biased("attn.proj", width, width),
        **_biased("mlp.linear_fc1", inner, width),
        **_biased("mlp.linear_fc2", width, inner),
        **_layer_norm("norm1", width),
        **_layer_norm("norm2", width),
    }
    patch_shape = (width, vision["in_channels"], vision["temporal_patch_size"], patch, patch)
    shapes: dict[str, Shape] = {
        "patch_embed.proj.weight": patch_shape,
        "patch_embed.proj.bias": (width,),
        "pos_embed.weight": (vision["num_position_embeddings"], width),
        **_layer_norm("merger.norm", width),
        **_biased("merger.linear_fc1", merged, merged),
        **_biased("merger.linear_fc2", vision["out_hidden_size"], merged),
    }
    for number in range(vision["depth"]):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    return {VISION_PREFIX + name: shape for name, shape in shapes.items()}


def _biased(name: str, out_width: int, in_width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (out_width, in_width), f"{name}.bias": (out_width,)}


def _layer_norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
