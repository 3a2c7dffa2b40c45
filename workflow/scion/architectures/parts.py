"""The tensors that the parts of a model hold: attention, delta net, MLP, experts, tower, MTP head.

Each function reads the sizes that it needs and returns shapes by name; linear weights are
[out, in]. A `Decoder` says which parts the layers of a family are put together from.
"""

from collections.abc import Callable
from dataclasses import dataclass

from scion.architectures.config_keys import Keys
from scion.architectures.family import Decoder, Head
from scion.common.errors import ScionError

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

# Several times what the largest published models hold, expert by expert, and still quick to list.
MAX_TENSORS = 500_000
# No decoder layer or vision block holds more beside its experts.
_MOST_IN_A_LAYER = 20


def refuse_absurd(decoder: Decoder, text: Keys, *, head: Head | None, vision: Keys | None) -> None:
    """Refuse a config whose tensors would be too many to list, before any is listed.

    Raises:
        ScionError: It implies more than `MAX_TENSORS`, or a key that counts them is unusable.
    """
    layers = text.size("num_hidden_layers") + head_layers(head, text)
    experts = _expert_count(decoder, text)
    blocks = vision.size("depth") if vision else 0
    if layers * (_MOST_IN_A_LAYER + 3 * experts) + blocks * _MOST_IN_A_LAYER > MAX_TENSORS:
        raise ScionError(
            "config.json implies more tensors than any checkpoint holds",
            where=text.where,
            expected=f"at most {MAX_TENSORS}",
            found=f"{layers} layers of {experts} experts, {blocks} vision blocks",
            hint="fetch config.json again from the checkpoint's repository",
        )


def language_tensors(decoder: Decoder, text: Keys, *, prefix: str) -> Shapes:
    """The tensors of embeddings, decoder layers and last norm."""
    hidden, vocabulary = text.size("hidden_size"), text.size("vocab_size")
    sparse = _sparse_layers(decoder, text)
    kinds: dict[tuple[str, bool], Shapes] = {}
    shapes: Shapes = {f"{prefix}embed_tokens.weight": (vocabulary, hidden)}
    for layer, mixer in enumerate(_mixers(decoder, text)):
        kind = mixer, sparse(layer)
        # Layers of a kind are equal, and with experts there are hundreds of names to each.
        if kind not in kinds:
            kinds[kind] = _layer(decoder, text, mixer=mixer, sparse=sparse(layer))
        shapes |= _under(f"{prefix}layers.{layer}.", kinds[kind])
    shapes[f"{prefix}norm.weight"] = (hidden,)
    return shapes


def mtp_tensors(decoder: Decoder, text: Keys, head: Head | None) -> Shapes:
    """The tensors of the MTP head; none where the config has no MTP layer."""
    layers = head_layers(head, text)
    if head is None or not layers:
        return {}
    hidden, sparse = text.size("hidden_size"), _sparse_layers(decoder, text)
    shapes: Shapes = {
        "fc.weight": (hidden, 2 * hidden),
        "norm.weight": (hidden,),
        "pre_fc_norm_embedding.weight": (hidden,),
        "pre_fc_norm_hidden.weight": (hidden,),
    }
    for layer in range(layers):
        # vLLM builds a decoder layer of this number, so a rule by number holds here as well.
        parts = _layer(decoder, text, mixer="full_attention", sparse=sparse(layer))
        shapes |= _under(f"layers.{layer}.", parts)
    return _under(head.prefix, shapes)


def head_layers(head: Head | None, text: Keys) -> int:
    """The number of MTP layers that the language model's keys declare; 0 without a head."""
    return text.count(head.layers_key, default=head.default) if head else 0


def vision_tensors(vision: Keys, *, prefix: str) -> Shapes:
    """The tensors of the vision tower."""
    width, inner = vision.size("hidden_size"), vision.size("intermediate_size")
    patch, merged = vision.size("patch_size"), width * vision.size("spatial_merge_size") ** 2
    block = {
        **_linear("attn.qkv", 3 * width, width, bias=True),
        **_linear("attn.proj", width, width, bias=True),
        **_linear("mlp.linear_fc1", inner, width, bias=True),
        **_linear("mlp.linear_fc2", width, inner, bias=True),
        **_layer_norm("norm1", width),
        **_layer_norm("norm2", width),
    }
    frames = vision.size("temporal_patch_size")
    shapes: Shapes = {
        "patch_embed.proj.weight": (width, vision.size("in_channels"), frames, patch, patch),
        "patch_embed.proj.bias": (width,),
        "pos_embed.weight": (vision.size("num_position_embeddings"), width),
        **_layer_norm("merger.norm", width),
        **_linear("merger.linear_fc1", merged, merged, bias=True),
        **_linear("merger.linear_fc2", vision.size("out_hidden_size"), merged, bias=True),
    }
    for number in range(vision.size("depth")):
        shapes |= _under(f"blocks.{number}.", block)
    return _under(prefix, shapes)


def _mixers(decoder: Decoder, text: Keys) -> list[str]:
    """`linear_attention` or `full_attention` for each decoder layer."""
    layers = text.size("num_hidden_layers")
    if decoder.delta_net == "none":
        # Sliding windows, which other families' layer_types name, change no shape.
        return ["full_attention"] * layers
    mixers = text.entries("layer_types", str)
    if not mixers:
        interval = text.size("full_attention_interval", default=4)
        return [
            "linear_attention" if (layer + 1) % interval else "full_attention"
            for layer in range(layers)
        ]
    if len(mixers) != layers or not {"linear_attention", "full_attention"}.issuperset(mixers):
        wanted = f"linear_attention or full_attention for each of {layers} layers"
        raise text.unusable("layer_types", wanted=wanted)
    return mixers


def _expert_count(decoder: Decoder, text: Keys) -> int:
    if decoder.experts == "none":
        return 0
    if decoder.experts == "everywhere":
        return text.size("num_experts")
    # transformers 5 writes Qwen3-MoE's number under the name that other families use.
    other = text.has("num_local_experts") and not text.has("num_experts")
    return text.count("num_local_experts" if other else "num_experts")


def _sparse_layers(decoder: Decoder, text: Keys) -> Callable[[int], bool]:
    """Which decoder layers have experts in place of one MLP."""
    experts = _expert_count(decoder, text)
    if decoder.experts != "by layer":
        return lambda layer: experts > 0
    dense = frozenset(text.entries("mlp_only_layers", int) or ())
    step = text.size("decoder_sparse_step", default=1)
    return lambda layer: experts > 0 and layer not in dense and (layer + 1) % step == 0


def _layer(decoder: Decoder, text: Keys, *, mixer: str, sparse: bool) -> Shapes:
    hidden = text.size("hidden_size")
    attention = mixer == "full_attention"
    inner = None if sparse else text.size("intermediate_size")
    return {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        **(_attention(decoder, text) if attention else _delta_net(decoder, text)),
        **(_moe(decoder, text) if inner is None else _mlp(decoder, text, "mlp", inner)),
    }


@dataclass(frozen=True)
class AttentionHeads:
    """The heads of full attention.

    Attributes:
        queries: Heads of the queries.
        keys: Heads of keys and values.
        size: Elements of each.
    """

    queries: int
    keys: int
    size: int

    @classmethod
    def of(cls, decoder: Decoder, text: Keys) -> "AttentionHeads":
        """Read the language model's keys; those that the family derives may be missing."""
        hidden, heads = text.size("hidden_size"), text.size("num_attention_heads")
        derived = {"head_dim": hidden // heads, "num_key_value_heads": heads}
        defaults = {key: derived[key] for key in decoder.derived}
        return cls(
            queries=heads,
            keys=text.size("num_key_value_heads", default=defaults.get("num_key_value_heads")),
            size=text.size("head_dim", default=defaults.get("head_dim")),
        )


def _attention(decoder: Decoder, text: Keys) -> Shapes:
    hidden, heads = text.size("hidden_size"), AttentionHeads.of(decoder, text)
    head = heads.size
    queries, keys = heads.queries * head, heads.keys * head
    always = decoder.attention_bias == "qkv"
    bias = always or text.flag("attention_bias")
    shapes = {
        **_linear("self_attn.q_proj", (1 + decoder.gated_attention) * queries, hidden, bias=bias),
        **_linear("self_attn.k_proj", keys, hidden, bias=bias),
        **_linear("self_attn.v_proj", keys, hidden, bias=bias),
        **_linear("self_attn.o_proj", hidden, queries, bias=bias and not always),
    }
    if decoder.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    return shapes


def _delta_net(decoder: Decoder, text: Keys) -> Shapes:
    hidden, heads = text.size("hidden_size"), text.size("linear_num_value_heads")
    value = text.size("linear_value_head_dim")
    key_width = text.size("linear_num_key_heads") * text.size("linear_key_head_dim")
    value_width = heads * value
    mixed = 2 * key_width + value_width
    split: dict[str, Shape] = {
        "linear_attn.in_proj_qkv.weight": (mixed, hidden),
        "linear_attn.in_proj_z.weight": (value_width, hidden),
        "linear_attn.in_proj_b.weight": (heads, hidden),
        "linear_attn.in_proj_a.weight": (heads, hidden),
    }
    fused: dict[str, Shape] = {
        "linear_attn.in_proj_qkvz.weight": (mixed + value_width, hidden),
        "linear_attn.in_proj_ba.weight": (2 * heads, hidden),
    }
    return {
        "linear_attn.A_log": (heads,),
        "linear_attn.dt_bias": (heads,),
        "linear_attn.conv1d.weight": (mixed, 1, text.size("linear_conv_kernel_dim")),
        **(fused if decoder.delta_net == "fused" else split),
        "linear_attn.norm.weight": (value,),
        "linear_attn.out_proj.weight": (hidden, value_width),
    }


def _mlp(decoder: Decoder, text: Keys, name: str, inner: int) -> Shapes:
    hidden = text.size("hidden_size")
    bias = decoder.mlp_bias and text.flag("mlp_bias")
    return {
        **_linear(f"{name}.gate_proj", inner, hidden, bias=bias),
        **_linear(f"{name}.up_proj", inner, hidden, bias=bias),
        **_linear(f"{name}.down_proj", hidden, inner, bias=bias),
    }


def _moe(decoder: Decoder, text: Keys) -> Shapes:
    hidden, experts = text.size("hidden_size"), _expert_count(decoder, text)
    inner = text.size("moe_intermediate_size")
    shapes: Shapes = {"mlp.gate.weight": (experts, hidden)}
    for expert in range(experts):
        shapes |= _mlp(decoder, text, f"mlp.experts.{expert}", inner)
    if decoder.shared_expert:
        shared = text.size("shared_expert_intermediate_size")
        shapes |= _mlp(decoder, text, "mlp.shared_expert", shared)
        shapes["mlp.shared_expert_gate.weight"] = (1, hidden)
    return shapes


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def _linear(name: str, out_width: int, in_width: int, *, bias: bool) -> Shapes:
    weight: Shapes = {f"{name}.weight": (out_width, in_width)}
    return weight | {f"{name}.bias": (out_width,)} if bias else weight


def _layer_norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
