"""The architecture families, one row each: nothing else names a family.

A new family is a row here. What the columns mean says `scion.architectures.family`; the parts and
their shapes are `scion.architectures.parts`'s.
"""

from collections.abc import Mapping
from typing import Any

from scion.architectures.family import (
    FUSED_ATTENTION,
    FUSED_DELTA_NET,
    FUSED_MLP,
    ChatMarks,
    Decoder,
    Family,
    Fused,
    Head,
    ServerParsers,
    TransformersClasses,
)
from scion.common.errors import ScionError

# What takes the answers of Qwen3.5 to 3.8 apart.
_PARSERS = {
    "vllm": ServerParsers("qwen3_xml", "qwen3"),
    "sglang": ServerParsers("qwen3_coder", "qwen3"),
}
_ALL_ENGINES = ("vllm", "sglang", "tensorrt-llm")
_CHATML = ChatMarks("<|im_start|>assistant\n", "<|im_end|>")
_LLAMA_3 = ChatMarks("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>")
_TAGGED = "JSON in tags"
# What NVFP4_DEFAULT_CFG leaves in bf16 inside a decoder layer: the convolution and the thin
# projections of the delta net, the router, the gate of the shared expert.
_KEPT_OF_DELTA_NET = (
    "linear_attn.conv1d",
    "linear_attn.in_proj_b",
    "linear_attn.in_proj_a",
    "linear_attn.in_proj_ba",
)
_KEPT_OF_EXPERTS = ("mlp.gate", "mlp.shared_expert_gate")
# All but the delta net's own.
_ZERO_CENTRED = (
    *("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"),
    *("model.norm", "language_model.norm", "mtp.norm"),
    *("mtp.pre_fc_norm_hidden", "mtp.pre_fc_norm_embedding"),
)

LLAMA = Family(
    model_type="llama",
    title="Llama",
    decoder=Decoder(mlp_bias=True, derived=("head_dim", "num_key_value_heads")),
    architecture="LlamaForCausalLM",
    # Fine-tunes bring either form, and their own way to write tool calls: vLLM stops where a parser
    # does not find its tokens, so none is the family's.
    chats=(_LLAMA_3, _CHATML),
    released=True,
    plain_engines=_ALL_ENGINES,
)
QWEN2 = Family(
    model_type="qwen2",
    title="Qwen2 and 2.5",
    decoder=Decoder(attention_bias="qkv", derived=("head_dim",)),
    architecture="Qwen2ForCausalLM",
    chats=(_CHATML,),
    parsers={
        "vllm": ServerParsers("hermes", None, _TAGGED),
        "sglang": ServerParsers("qwen", None, _TAGGED),
    },
    released=True,
    plain_engines=_ALL_ENGINES,
)
QWEN3 = Family(
    model_type="qwen3",
    title="dense Qwen3",
    decoder=Decoder(qk_norm=True),
    architecture="Qwen3ForCausalLM",
    chats=(_CHATML,),
    parsers={
        "vllm": ServerParsers("hermes", "qwen3", _TAGGED),
        "sglang": ServerParsers("qwen", "qwen3", _TAGGED),
    },
    released=True,
    plain_engines=_ALL_ENGINES,
)
QWEN3_MOE = Family(
    model_type="qwen3_moe",
    title="Qwen3 of experts",
    decoder=Decoder(qk_norm=True, experts="by layer", derived=("head_dim",)),
    architecture="Qwen3MoeForCausalLM",
    kept=_KEPT_OF_EXPERTS,
)
QWEN3_NEXT = Family(
    model_type="qwen3_next",
    title="Qwen3-Next",
    decoder=Decoder(
        delta_net="fused",
        gated_attention=True,
        qk_norm=True,
        experts="by layer",
        shared_expert=True,
    ),
    architecture="Qwen3NextForCausalLM",
    # The published config.json has no key for it; vLLM and SGLang take one layer for granted.
    head=Head("mtp.", "num_nextn_predict_layers", default=1),
    kept=_KEPT_OF_DELTA_NET + _KEPT_OF_EXPERTS,
    zero_centred=_ZERO_CENTRED,
    chats=(_CHATML,),
    # Its template has tool calls as JSON.
    parsers={
        "vllm": ServerParsers("hermes", "qwen3"),
        "sglang": ServerParsers("qwen", "qwen3"),
    },
    released=True,
)
QWEN3_5_HEAD = Head("mtp.", "mtp_num_hidden_layers")
QWEN3_5 = Family(
    model_type="qwen3_5",
    title="dense Qwen3.5/3.6",
    decoder=Decoder(delta_net="split", gated_attention=True, qk_norm=True),
    architecture="Qwen3_5ForConditionalGeneration",
    nested=True,
    text_model_type="qwen3_5_text",
    text_architecture="Qwen3_5ForCausalLM",
    reads_nested=True,
    head=QWEN3_5_HEAD,
    fused={**FUSED_ATTENTION, **FUSED_MLP, **FUSED_DELTA_NET},
    kept=_KEPT_OF_DELTA_NET,
    zero_centred=_ZERO_CENTRED,
    chats=(_CHATML,),
    parsers=_PARSERS,
    transformers=TransformersClasses(
        modeling="transformers.models.qwen3_5.modeling_qwen3_5",
        config="Qwen3_5Config",
        text_model="Qwen3_5TextModel",
        layer="Qwen3_5DecoderLayer",
        norm="Qwen3_5RMSNorm",
        rotary="Qwen3_5TextRotaryEmbedding",
        delta_net="Qwen3_5GatedDeltaNet",
    ),
    released=True,
)
QWEN3_5_MOE = Family(
    model_type="qwen3_5_moe",
    title="Qwen3.5/3.6 of experts",
    decoder=Decoder(
        delta_net="split",
        gated_attention=True,
        qk_norm=True,
        experts="everywhere",
        shared_expert=True,
    ),
    architecture="Qwen3_5MoeForConditionalGeneration",
    nested=True,
    text_model_type="qwen3_5_moe_text",
    text_architecture="Qwen3_5MoeForCausalLM",
    reads_nested=True,
    head=QWEN3_5_HEAD,
    fused={**FUSED_ATTENTION, **FUSED_MLP, **FUSED_DELTA_NET},
    kept=_KEPT_OF_DELTA_NET + _KEPT_OF_EXPERTS,
    zero_centred=_ZERO_CENTRED,
    chats=(_CHATML,),
    parsers=_PARSERS,
    transformers=TransformersClasses(
        modeling="transformers.models.qwen3_5_moe.modeling_qwen3_5_moe",
        config="Qwen3_5MoeConfig",
        text_model="Qwen3_5MoeTextModel",
        layer="Qwen3_5MoeDecoderLayer",
        norm="Qwen3_5MoeRMSNorm",
        rotary="Qwen3_5MoeTextRotaryEmbedding",
        delta_net="Qwen3_5MoeGatedDeltaNet",
    ),
    released=True,
)

_ROWS = (LLAMA, QWEN2, QWEN3, QWEN3_MOE, QWEN3_NEXT, QWEN3_5, QWEN3_5_MOE)
FAMILIES: dict[str, Family] = {
    spelling.model_type: spelling for row in _ROWS for spelling in row.spellings()
}


def family_of(config: Mapping[str, Any]) -> Family | None:
    """The family of a config.json, by its model_type; None where it is not known."""
    model_type = config.get("model_type")
    return FAMILIES.get(model_type) if isinstance(model_type, str) else None


def family_of_class(name: str) -> Family | None:
    """The family that has a class of that name under `architectures`; None where none has."""
    return next((row for row in FAMILIES.values() if row.architecture == name), None)


def head_prefixes() -> tuple[str, ...]:
    """What the tensors of MTP heads begin with, of all known families, each once."""
    return tuple(dict.fromkeys(row.head.prefix for row in FAMILIES.values() if row.head))


def in_head(name: str) -> bool:
    """Whether a tensor or module belongs to an MTP head of a known family.

    More may stand before the head's own prefix, as in `model.mtp.fc`.
    """
    return any(f".{prefix}" in f".{name}." for prefix in head_prefixes())


def vision_prefixes() -> tuple[str, ...]:
    """What the tensors of vision towers begin with, of all known families, each once."""
    return tuple(dict.fromkeys(row.vision_prefix for row in FAMILIES.values()))


def text_only_classes() -> tuple[str, ...]:
    """The classes of language models that nested families have for themselves."""
    return tuple(row.text_architecture for row in FAMILIES.values() if row.text_architecture)


def embedding_names() -> tuple[str, ...]:
    """Ends of the names of tables that rows are looked up in, of all known families."""
    return tuple(dict.fromkeys(name for row in FAMILIES.values() for name in row.embeddings))


def fused_layers() -> Fused:
    """The layers that engines build of several modules, of all known families.

    Where two rows name a layer, it is the earlier one's.
    """
    layers: dict[str, tuple[str, ...]] = {}
    for row in FAMILIES.values():
        for name, parts in row.fused.items():
            layers.setdefault(name, parts)
    return layers


def released_families() -> str:
    """The families that the workflow makes releases of, as errors and help texts name them."""
    return " or ".join(
        f"model_type {row.model_type} ({row.title})" for row in FAMILIES.values() if row.released
    )


def offline_families() -> list[Family]:
    """The families whose acceptance can be measured without a server."""
    return [row for row in FAMILIES.values() if row.released and row.head and row.transformers]


def chat_marks(config: Mapping[str, Any], template: str, *, where: object) -> ChatMarks:
    """What stands around the turns of a chat in a checkpoint's family.

    Args:
        config: Parsed config.json.
        template: The checkpoint's chat template, which tells the family's forms apart.
        where: The file to name in errors.

    Raises:
        ScionError: The family is not known, or no form of its row's is the template's.
    """
    family = family_of(config)
    if family is None:
        raise unknown_family(config, where=where)
    marks = next((each for each in family.chats if each.end in template), None)
    if marks is None:
        raise ScionError(
            "it is not known where answers begin and end in this checkpoint's chats",
            where=where,
            expected="a chat template with "
            f"{' or '.join(each.end for each in family.chats) or 'marks that are known'}",
            found=f"another, of {family.title}",
            hint="add the marks that the chat template writes around a turn to `chats` in the "
            "family's row of workflow/scion/architectures/families.py",
        )
    return marks


def parsers_of(family: Family | None, engine: str) -> ServerParsers | None:
    """The parsers that an engine's server has for a family; None where none are known."""
    return family.parsers.get(engine) if family is not None else None


def released_classes() -> str:
    """Those families with their classes, as help texts name them."""
    return " or ".join(
        f"{row.title} ({row.architecture})" for row in FAMILIES.values() if row.released
    )


def unknown_family(config: Mapping[str, Any], *, where: object) -> ScionError:
    """The error for a config.json of a family that no release is made of.

    Args:
        config: Parsed config.json.
        where: The file to name.
    """
    return ScionError(
        "this architecture is not known",
        where=where,
        expected=released_families(),
        found=f"model_type {config.get('model_type')!r}",
        hint="name a checkpoint of that family; a new family is a row in "
        "workflow/scion/architectures/families.py",
    )
