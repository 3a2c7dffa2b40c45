"""How vLLM lays out the cache of a model, and the two numbers that it prints about it.

A plain decoder keeps keys and values alone, in equal blocks of a few tokens. A Qwen3.5/3.6 model
keeps them in its full-attention layers, which grow by the token, and a state in each delta-net
layer (a convolution's window and a matrix for each value head), which a sequence needs once, and
once more for each drafted token, since a rejected draft must be undone. Both lie in one pool of
equal blocks:

- The attention block takes so many tokens that its page holds a whole state; the state is padded
  to that page (`Setting attention block size to 1600 tokens…`).
- Layers are put into groups of equal size, the size being the number of layers of the rarer kind
  (that of the commoner kind, if it is less than half as many again). A block serves one group:
  its bytes are the group's layers times the page, padding layers included.
- A sequence takes `ceil(context / block)` blocks for each attention group and its states' number
  for each state group. The pool's blocks divided by that sum are vLLM's "Maximum concurrency".
- "GPU KV cache size" is that concurrency times the context. Until 0.20 it was the blocks divided
  by the number of groups times the tokens of a block, a smaller number which says little.

Read off vLLM 0.32's `kv_cache_utils.py`, `platforms/interface.py` and `mamba_utils.py`; the tests
hold the arithmetic to what servers of 0.19.1rc1, 0.25.1 and 0.32.0 have printed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from scion.architectures.config_keys import Keys
from scion.architectures.inventory import inventory, language_keys
from scion.architectures.parts import AttentionHeads
from scion.common.errors import ScionError
from scion.engines.config import Launch
from scion.engines.releases import EngineRelease, affects

_FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Tokens that an attention block is a multiple of: what FlashInfer and FlashAttention take on a
# GPU, and the CPU platform's own default.
_ALIGNMENT = {"cuda": 16, "cpu": 128}

# Whose max_position_embeddings are those of the stretched model.
_STRETCHED = ("su", "longrope", "llama3")
_MOST_STRETCHED = 1024

Platform = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a config.json that memory follows from; those of delta nets are 0 without any.

    Attributes:
        attention_layers: Full-attention layers, without the MTP layer.
        state_layers: Delta-net layers.
        kv_heads: Key and value heads of a full-attention layer, each of `head_dim`.
        head_dim: Elements of a key, and of a value.
        conv_channels: Channels of a delta-net layer's convolution.
        conv_window: Tokens that the convolution looks back.
        value_width: Elements of all its value heads together.
        state_elements: Elements of a delta-net layer's matrices.
        state_bytes: Bytes an element of these.
        hidden: Width of the residual stream.
        intermediate: Width of the MLP; of a mixture, of all experts of a token together.
        vocabulary: Tokens that the head scores.
        context: Tokens that the model was made for, as vLLM reads it; None where it is not said.
        heads: The numbers of heads that GPUs which share the layers must be able to divide.
        experts_per_token: How many a token is sent to; 0 where there is one MLP.
    """

    attention_layers: int
    state_layers: int
    kv_heads: int
    head_dim: int
    conv_channels: int
    conv_window: int
    value_width: int
    state_elements: int
    state_bytes: int
    hidden: int
    intermediate: int
    vocabulary: int
    context: int | None
    heads: tuple[int, ...]
    experts_per_token: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: object) -> "ModelSizes":
        """Read a config.json, with suspicion.

        Raises:
            ScionError: Another architecture, or a key that is missing, of another type or absurd.
        """
        expected = inventory(config, where=where)
        tensors = expected.language
        text = language_keys(config, expected.family, where=where)
        attention = AttentionHeads.of(expected.family.decoder, text)
        hybrid = expected.family.decoder.delta_net != "none"

        def of_state(key: str) -> int:
            return text.size(key) if hybrid else 0

        key_width = of_state("linear_key_head_dim") * of_state("linear_num_key_heads")
        value_width = of_state("linear_value_head_dim") * of_state("linear_num_value_heads")
        kept = text.values.get("mamba_ssm_dtype")
        if kept is not None and not (isinstance(kept, str) and kept in _FLOAT_BYTES):
            raise text.unusable("mamba_ssm_dtype", wanted=" or ".join(_FLOAT_BYTES))
        per_token = text.size("num_experts_per_tok") if expected.stacked else 0
        return cls(
            attention_layers=sum(name.endswith(".self_attn.q_proj.weight") for name in tensors),
            state_layers=sum(name.endswith(".linear_attn.conv1d.weight") for name in tensors),
            kv_heads=attention.keys,
            head_dim=attention.size,
            conv_channels=2 * key_width + value_width,
            conv_window=text.size("linear_conv_kernel_dim") - 1 if hybrid else 0,
            value_width=value_width,
            state_elements=value_width * of_state("linear_key_head_dim"),
            # Without the key vLLM keeps states in the model's dtype.
            state_bytes=_FLOAT_BYTES[kept or "bfloat16"],
            hidden=text.size("hidden_size"),
            intermediate=_inner_width(text, per_token),
            vocabulary=text.size("vocab_size"),
            context=longest_context(text),
            heads=(
                attention.queries,
                of_state("linear_num_key_heads"),
                of_state("linear_num_value_heads"),
            ),
            experts_per_token=per_token,
        )

    def share(self, gpus: int) -> "ModelSizes":
        """What each of so many GPUs holds of every layer; key and value heads are never halved."""
        return replace(
            self,
            kv_heads=max(1, self.kv_heads // gpus),
            conv_channels=self.conv_channels // gpus,
            value_width=self.value_width // gpus,
            state_elements=self.state_elements // gpus,
            intermediate=self.intermediate // gpus,
        )

    def divisible(self, gpus: int) -> bool:
        """Whether so many GPUs can share the layers."""
        copies = gpus % self.kv_heads if gpus > self.kv_heads else self.kv_heads % gpus
        return not copies and not any(heads % gpus for heads in self.heads)


def _inner_width(text: Keys, experts_per_token: int) -> int:
    if not experts_per_token:
        return text.size("intermediate_size")
    shared = text.size("shared_expert_intermediate_size")
    return experts_per_token * text.size("moe_intermediate_size") + shared


def longest_context(text: Keys) -> int | None:
    """The most tokens that vLLM takes for `--max-model-len`: the model's, stretched as it says.

    Args:
        text: The language model's keys of config.json.

    Returns:
        The number; None where config.json does not say, and a class's default counts.

    Raises:
        ScionError: `max_position_embeddings` is unusable.
    """
    if not text.has("max_position_embeddings"):
        return None
    longest = text.size("max_position_embeddings")
    rope: Any = text.values.get("rope_parameters") or text.values.get("rope_scaling")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) in _STRETCHED:
        return longest
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if isinstance(factor, (int, float)) and 1 < factor <= _MOST_STRETCHED:
        return int(factor * (original if type(original) is int else longest))
    return longest


def require_context(launch: Launch, text: Keys, *, hint: str) -> None:
    """Refuse a launch of more tokens than vLLM takes: the server would stop at start.

    Args:
        launch: The launch.
        text: The language model's keys of config.json.
        hint: What to do, of `{longest}` tokens.

    Raises:
        ScionError: The launch asks for more, or `max_position_embeddings` is unusable.
    """
    longest = longest_context(text)
    if longest is not None and launch.max_model_len > longest:
        raise ScionError(
            "the launch's context is beyond the model's",
            where=text.where,
            expected=f"max_model_len {longest} at most",
            found=launch.max_model_len,
            hint=hint.format(longest=longest),
        )


@dataclass(frozen=True)
class Layout:
    """The pool's blocks.

    Attributes:
        block_tokens: Tokens of an attention block.
        page_bytes: Bytes that a layer has of a block.
        layers: Layers of a group.
        attention_groups: Groups of full-attention layers, the MTP layer among them.
        state_groups: Groups of delta-net layers.
        states: States that a sequence holds in each delta-net layer.
        token_bytes: Bytes that a token takes in all full-attention layers.
    """

    block_tokens: int
    page_bytes: int
    layers: int
    attention_groups: int
    state_groups: int
    states: int
    token_bytes: int

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return self.layers * self.page_bytes

    @property
    def sequence_bytes(self) -> int:
        """Bytes that a sequence takes before its first token: the blocks of its states."""
        return self.state_groups * self.states * self.block_bytes

    def request_blocks(self, tokens: int) -> int:
        """Blocks that a request of so many tokens takes."""
        return (
            self.attention_groups * _ceil(tokens, self.block_tokens)
            + self.state_groups * self.states
        )


@dataclass(frozen=True)
class Capacity:
    """What a server says of its cache.

    Attributes:
        blocks: Blocks of the pool.
        tokens: "GPU KV cache size".
        concurrency: "Maximum concurrency" of requests that fill the context.
    """

    blocks: int
    tokens: int
    concurrency: float


def layout(
    sizes: ModelSizes, launch: Launch, *, platform: Platform = "cuda", prefix_caching: bool
) -> Layout:
    """The blocks that a launch makes.

    Args:
        sizes: The model.
        launch: Cache dtype and drafts; without drafts no MTP layer is built.
        platform: What vLLM runs on.
        prefix_caching: Whether finished prefixes are kept, which takes one more state a sequence.
    """
    drafts = launch.speculative_tokens
    element = 1 if launch.kv_cache_dtype == "fp8" else 2
    per_token = 2 * sizes.kv_heads * sizes.head_dim * element
    # The convolution's window grows by the drafts, which it must be able to take back.
    state = (sizes.conv_window + drafts) * sizes.conv_channels * 2
    state += sizes.state_elements * sizes.state_bytes
    step = _ALIGNMENT[platform]
    block = step * max(1, _ceil(state, step * per_token))
    attention = sizes.attention_layers + (1 if drafts else 0)
    few, many = sorted((attention, sizes.state_layers))
    group = many if many < 1.5 * few or few == 0 else few
    return Layout(
        block_tokens=block,
        page_bytes=block * per_token,
        layers=group,
        attention_groups=_ceil(attention, group),
        state_groups=_ceil(sizes.state_layers, group),
        states=1 + drafts + (1 if prefix_caching else 0),
        token_bytes=attention * per_token,
    )


def capacity(
    blocks_of: Layout, cache_bytes: int, *, context: int, engine: EngineRelease
) -> Capacity:
    """What a server prints that has so many bytes for its cache.

    Args:
        blocks_of: The blocks.
        cache_bytes: Bytes of the pool.
        context: `--max-model-len`.
        engine: The release of vLLM, which decides what is called the cache's size.
    """
    blocks = max(0, cache_bytes) // blocks_of.block_bytes
    concurrency = blocks / blocks_of.request_blocks(context)
    if affects("vllm<0.21", engine):
        groups = blocks_of.attention_groups + blocks_of.state_groups
        return Capacity(blocks, blocks // groups * blocks_of.block_tokens, concurrency)
    return Capacity(blocks, int(concurrency * context), concurrency)


def caches_prefixes(engine: EngineRelease) -> bool:
    """Whether a release of vLLM keeps the prefixes of hybrid models unless told otherwise.

    0.23 did not and a candidate of 0.28.1 did; when between them it began is not known here.
    """
    return affects("vllm>=0.28", engine)


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)
