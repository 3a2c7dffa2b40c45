"""What an architecture family is, as data: the columns of `scion.architectures.families`.

A row says what the layers above need to know of a family, in plain strings and numbers, so that
none of them names one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

# The layers that engines build of several modules of one parent, by the name they give them.
# Inside a group, scales must be equal, and all or none quantizes.
# https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/qwen3_5.py
Fused = Mapping[str, tuple[str, ...]]
FUSED_ATTENTION: Fused = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}
FUSED_MLP: Fused = {"gate_up_proj": ("gate_proj", "up_proj")}
FUSED_DELTA_NET: Fused = {
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}


@dataclass(frozen=True)
class Decoder:
    """The parts that the decoder layers of a family are put together from.

    Attributes:
        delta_net: Whether `layer_types` mixes in gated-delta-net layers, and whether the checkpoint
            holds their input projections split (`in_proj_qkv`, `_z`, `_b`, `_a`) or fused
            (`in_proj_qkvz`, `in_proj_ba`).
        gated_attention: Whether the query projection carries the output gate, twice the heads.
        qk_norm: Whether queries and keys are normalized.
        attention_bias: Which attention projections have biases: all if the config says so, or
            query, key and value always.
        mlp_bias: Whether the config may give the MLP biases.
        derived: Keys that may be missing: `head_dim` is then hidden_size / num_attention_heads,
            `num_key_value_heads` is num_attention_heads. What transformers puts in for others is
            the size of one published model, so a config that lacks it is not whole.
        experts: Whether no layer, the layers that the config names, or all have experts.
        shared_expert: Whether layers with experts have one that sees every token.
    """

    delta_net: Literal["none", "split", "fused"] = "none"
    gated_attention: bool = False
    qk_norm: bool = False
    attention_bias: Literal["config", "qkv"] = "config"
    mlp_bias: bool = False
    derived: tuple[str, ...] = ()
    experts: Literal["none", "by layer", "everywhere"] = "none"
    shared_expert: bool = False


@dataclass(frozen=True)
class Head:
    """Where the multi-token-prediction (MTP) head of a family lies.

    Attributes:
        prefix: What its tensors' names begin with, with a dot at its end.
        layers_key: The key of the language model's configuration that counts its layers.
        default: How many there are where the key is missing.
    """

    prefix: str
    layers_key: str
    default: int = 0

    @property
    def fc(self) -> str:
        """The module that joins embedding and hidden state."""
        return f"{self.prefix}fc"

    @property
    def pattern(self) -> str:
        """The glob that covers the whole head in an exclusion list, and nothing else."""
        return f"{self.prefix.removesuffix('.')}*"


@dataclass(frozen=True)
class ChatMarks:
    """What stands around the turns of a rendered chat.

    Attributes:
        answer: What an assistant's turn begins with.
        end: The token that ends a turn.
    """

    answer: str
    end: str


@dataclass(frozen=True)
class ServerParsers:
    """The parsers of an engine's server that take a family's answers apart.

    Attributes:
        tools: The parser of tool calls.
        reasoning: The parser that splits the reasoning off; None where the family has none.
        calls: How the model writes tool calls, in words.
    """

    tools: str
    reasoning: str | None
    calls: str = "XML functions"


@dataclass(frozen=True)
class TransformersClasses:
    """The classes of transformers that a family is measured with, by their names in it.

    Attributes:
        modeling: The module that has them all.
        config: The class of the whole config.json.
        text_model: Embeddings, decoder layers and final norm.
        layer: A decoder layer.
        norm: The norm of the residual stream.
        rotary: The rotary embedding.
        delta_net: The gated delta net.
    """

    modeling: str
    config: str
    text_model: str
    layer: str
    norm: str
    rotary: str
    delta_net: str


@dataclass(frozen=True)
class Family:
    """An architecture family.

    The language model's tensors have one of two prefixes: that of a nested config.json, or that of
    a flat one.

    Attributes:
        model_type: As config.json names it.
        title: As a reader knows it.
        decoder: The parts of its decoder layers.
        architecture: The class that config.json names under `architectures`.
        nested: Whether the language model's keys stand in a `text_config`; flat if not.
        text_model_type: The model_type of a nested family's language model alone, whose config.json
            is flat; None where there is no such.
        text_architecture: The class of that.
        reads_nested: Whether transformers' class of the language model alone takes the nested
            prefix as well.
        nested_prefix: What the language model's tensors begin with under a nested config.
        flat_prefix: What they begin with under a flat one, and in transformers' class of the
            language model alone.
        vision_prefix: What the vision tower's tensors begin with.
        head: The MTP head; None where the family has none.
        fused: The layers that engines build of several modules, by their name.
        kept: Ends of the names of modules in decoder layers that stay bf16 in every recipe. They
            have to be those that ModelOpt's own configurations leave out: recipes add none.
        zero_centred: Ends of the names of norms that multiply by 1 + w, and so hold numbers near 0.
        embeddings: Ends of the names of tables that rows are looked up in: of two dimensions, but
            no weights to multiply with.
        chats: What stands around turns, in each form that the family's chat templates write.
        parsers: The servers' parsers, by engine.
        transformers: The classes that it is measured with; None where it is not.
        released: Whether the workflow makes releases of it.
        plain_engines: The engine releases (`vllm>=0.27`, `sglang`) that build the class as they do
            every plain decoder: the layers of `fused` fused, no name changed.
    """

    model_type: str
    title: str
    decoder: Decoder
    architecture: str
    nested: bool = False
    text_model_type: str | None = None
    text_architecture: str | None = None
    reads_nested: bool = False
    nested_prefix: str = "model.language_model."
    flat_prefix: str = "model."
    vision_prefix: str = "model.visual."
    head: Head | None = None
    fused: Fused = field(default_factory=lambda: {**FUSED_ATTENTION, **FUSED_MLP})
    kept: tuple[str, ...] = ()
    zero_centred: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ("embed_tokens", "pos_embed")
    chats: tuple[ChatMarks, ...] = ()
    parsers: Mapping[str, ServerParsers] = field(default_factory=dict)
    transformers: TransformersClasses | None = None
    released: bool = False
    plain_engines: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What the language model's tensors begin with."""
        return self.nested_prefix if self.nested else self.flat_prefix

    @property
    def embedding(self) -> str:
        """The module that holds the embeddings of tokens."""
        return f"{self.prefix}embed_tokens"

    @property
    def vision_pattern(self) -> str:
        """The glob that covers the vision tower in an exclusion list."""
        return f"{self.vision_prefix.removesuffix('.')}*"

    def spellings(self) -> tuple["Family", ...]:
        """The family, and the flat one of its language model alone if there is such."""
        if self.text_model_type is None or self.text_architecture is None:
            return (self,)
        text = replace(
            self,
            model_type=self.text_model_type,
            title=f"the language model of {self.title}",
            architecture=self.text_architecture,
            nested=False,
            text_model_type=None,
            text_architecture=None,
            released=False,
        )
        return self, text
