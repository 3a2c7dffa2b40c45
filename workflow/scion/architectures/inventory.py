"""What a config.json implies: every tensor's name and shape, what quantizes, what engines fuse.

The release pipeline (`inventory`) works on one family, dense Qwen3.5/3.6. `implied` knows the
plain and hybrid decoders around it as well, so that a checkpoint can be held against its own
config.json. Names and shapes were read off transformers 5.14's modeling files and vLLM 0.32's
`qwen3_5.py`, `qwen3_next.py` and their `_mtp.py`; the tests hold them against the former.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scion.architectures.config_keys import Keys
from scion.architectures.parts import (
    Family,
    Shape,
    language_tensors,
    mtp_tensors,
    refuse_absurd,
    vision_tensors,
)
from scion.common.errors import ScionError

__all__ = [
    "FLAT_PREFIX",
    "MTP_PREFIX",
    "NESTED_PREFIX",
    "Inventory",
    "Shape",
    "Stack",
    "implied",
    "inventory",
]

# Modules of one parent that engines load as one; inside a group, scales must be equal and all or
# none quantizes. https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/qwen3_5.py
FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("in_proj_qkv", "in_proj_z"),
    ("in_proj_b", "in_proj_a"),
)
# What NVFP4_DEFAULT_CFG leaves in bf16 inside a decoder layer: the convolution and the thin
# projections of the delta net, the router, the gate of the shared expert.
KEPT = (
    "linear_attn.conv1d",
    "linear_attn.in_proj_b",
    "linear_attn.in_proj_a",
    "linear_attn.in_proj_ba",
    "mlp.gate",
    "mlp.shared_expert_gate",
)
# Tables that engines look rows up in; they are of two dimensions, but no matmul weights.
EMBEDDINGS = ("embed_tokens", "pos_embed")
MTP_PREFIX = "mtp."
VISION_PREFIX = "model.visual."
# The language model's tensors beside a vision tower, and in a checkpoint of text alone.
NESTED_PREFIX, FLAT_PREFIX = "model.language_model.", "model."
EXPERTS = ".mlp.experts."

_HYBRID = Family(
    delta_net="split", gated_attention=True, qk_norm=True, mtp_key="mtp_num_hidden_layers"
)
_HYBRID_MOE = Family(
    delta_net="split",
    gated_attention=True,
    qk_norm=True,
    experts="everywhere",
    shared_expert=True,
    mtp_key="mtp_num_hidden_layers",
)
# By model_type: families whose config.json is flat, and those that nest it in a text_config.
_FLAT = {
    "llama": Family(mlp_bias=True, derived=("head_dim", "num_key_value_heads")),
    "qwen2": Family(attention_bias="qkv", derived=("head_dim",)),
    "qwen3": Family(qk_norm=True),
    "qwen3_moe": Family(qk_norm=True, experts="by layer", derived=("head_dim",)),
    "qwen3_next": Family(
        delta_net="fused",
        gated_attention=True,
        qk_norm=True,
        experts="by layer",
        shared_expert=True,
        mtp_key="num_nextn_predict_layers",
        # The published config.json has no key for it; vLLM and SGLang take one layer for granted.
        mtp_default=1,
    ),
    "qwen3_5_text": _HYBRID,
    "qwen3_5_moe_text": _HYBRID_MOE,
}
_NESTED = {"qwen3_5": _HYBRID, "qwen3_5_moe": _HYBRID_MOE}


@dataclass(frozen=True)
class Stack:
    """A tensor that holds one projection of all experts of a layer.

    Attributes:
        shape: [experts, 2 * inner, hidden] of a `gate_up_proj`, whose rows are those of the gate,
            then those of `up`; [experts, hidden, inner] of a `down_proj`.
        members: The tensors that it stands for, expert by expert (gate before up).
    """

    shape: Shape
    members: tuple[str, ...]


@dataclass(frozen=True)
class Inventory:
    """The tensors that a configuration implies.

    Experts are listed one by one (`mlp.experts.7.up_proj.weight`) in `language` and `mtp` of every
    family: so quantized releases hold them, and so an engine's rules name them. Releases in bf16
    may hold them stacked instead, in some layers or in all; `stacked` has the names.

    Attributes:
        language: Shape by name of the language model's tensors, head and embeddings included. A
            head that is tied to the embeddings is no tensor of its own.
        vision: Those of the vision tower; empty where the configuration has none.
        mtp: Those of the MTP head; empty where the configuration has none.
        mtp_declared: Whether config.json has the key that counts the MTP layers. Without it `mtp`
            is what engines assume, which for Qwen3-Next is one layer: the checkpoint may lack it.
    """

    language: dict[str, Shape]
    vision: dict[str, Shape]
    mtp: dict[str, Shape]
    mtp_declared: bool

    @cached_property
    def tensors(self) -> dict[str, Shape]:
        """Shape by name of all tensors."""
        return {**self.language, **self.vision, **self.mtp}

    @cached_property
    def linear(self) -> dict[str, tuple[int, int]]:
        """[out, in] by name of every module that is a matrix to multiply with.

        These are the modules that a scheme might quantize: the language model's with the head and
        the router, each expert's, the MTP head's, the vision tower's. Not among them are
        embeddings, convolutions and norms.
        """
        return {
            name.removesuffix(".weight"): shape
            for name, shape in self.tensors.items()
            if len(shape) == 2 and not name.removesuffix(".weight").endswith(EMBEDDINGS)
        }

    @cached_property
    def quantized(self) -> tuple[str, ...]:
        """The modules that NVFP4_DEFAULT_CFG quantizes, in layer order."""
        return tuple(
            module
            for module in self.layer_modules
            if module in self.linear and not module.endswith(KEPT)
        )

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """The modules of decoder layers that stay bf16 and that an exclusion list must name."""
        return tuple(module for module in self.layer_modules if module.endswith(KEPT))

    @cached_property
    def stacked(self) -> dict[str, Stack]:
        """The tensors that may stand for those of single experts, by name; empty without experts.

        Qwen3.5's releases stack the experts of decoder layers and list those of the MTP layer one
        by one, Qwen3.6's stack both, and transformers saves all of them one by one.
        """
        members: dict[str, list[str]] = {}
        for name in self.tensors:
            block, found, rest = name.partition(EXPERTS)
            if found:
                joined = "down_proj" if rest.endswith(".down_proj.weight") else "gate_up_proj"
                members.setdefault(f"{block}{EXPERTS}{joined}", []).append(name)
        return {
            stack: self._stack(names, joined=2 if stack.endswith("gate_up_proj") else 1)
            for stack, names in members.items()
        }

    @cached_property
    def groups(self) -> list[tuple[str, ...]]:
        """The linear modules that engines load as one, whether they quantize or not."""
        firsts = {suffixes[0]: suffixes for suffixes in FUSED}
        groups: list[tuple[str, ...]] = []
        for module in self.linear:
            parent, _, last = module.rpartition(".")
            if last in firsts:
                groups.append(tuple(f"{parent}.{suffix}" for suffix in firsts[last]))
        return groups

    def quantized_outside(self, parents: Iterable[str]) -> list[str]:
        """The modules of `quantized` but for those directly below a parent of such a name.

        Args:
            parents: Ends of module names, such as `linear_attn`, whose projections stay bf16.
        """
        ends = tuple(parents)
        return [one for one in self.quantized if not one.rpartition(".")[0].endswith(ends)]

    def fused_groups(self) -> list[tuple[str, ...]]:
        """The quantized modules that engines load as one, group by group."""
        modules = set(self.quantized)
        return [group for group in self.groups if modules.issuperset(group)]

    @cached_property
    def layer_modules(self) -> list[str]:
        """Every module and parameter's owner inside a decoder layer, in layer order."""
        return [name.removesuffix(".weight") for name in self.language if ".layers." in name]

    def _stack(self, names: list[str], *, joined: int) -> Stack:
        rows, columns = self.tensors[names[0]]
        return Stack((len(names) // joined, joined * rows, columns), tuple(names))


def inventory(config: Mapping[str, Any], *, where: object) -> Inventory:
    """The tensors that a Qwen3.5/3.6 config.json implies.

    Args:
        config: Parsed config.json.
        where: The file to name in errors.

    Raises:
        ScionError: Another architecture, or a key that the shapes depend on is unusable.
    """
    expected = implied(config, where=where) if config.get("model_type") == "qwen3_5" else None
    if expected is None:
        raise ScionError(
            "this architecture is not known",
            where=where,
            expected="model_type qwen3_5 (dense Qwen3.5/3.6)",
            found=f"model_type {config.get('model_type')!r}",
            hint="name a checkpoint of that family",
        )
    return expected


def with_mtp_layers(config: Mapping[str, Any], count: int) -> dict[str, Any]:
    """A Qwen3.5/3.6 config.json that declares `count` MTP layers; unchanged if it does already."""
    text = config["text_config"]
    if text.get(_HYBRID.mtp_key, 0) == count:
        return dict(config)
    return {**config, "text_config": {**text, _HYBRID.mtp_key: count}}


def implied(config: Mapping[str, Any], *, where: object) -> Inventory | None:
    """The tensors that the config.json of any known architecture implies.

    The config may be hostile: each value that is read is checked, and their product is bounded
    before a name is made.

    Args:
        config: Parsed config.json.
        where: The file to name in errors.

    Returns:
        The inventory, or None where the model_type is not known.

    Raises:
        ScionError: A key that the shapes depend on is missing, of another type, or absurd.
    """
    keys, model_type = Keys(config, where), config.get("model_type")
    if not isinstance(model_type, str):
        return None
    if model_type in _FLAT:
        return _build(_FLAT[model_type], keys, keys, vision=None)
    if model_type in _NESTED:
        vision = keys.section("vision_config") if config.get("vision_config") else None
        return _build(_NESTED[model_type], keys, keys.section("text_config"), vision=vision)
    return None


def _build(family: Family, top: Keys, text: Keys, *, vision: Keys | None) -> Inventory:
    refuse_absurd(family, text, vision)
    # The class that owns both tensors decides whether they are one: transformers and vLLM read
    # the outer key. Configs of older versions have the inner one alone.
    tied = (top if top.has("tie_word_embeddings") else text).flag("tie_word_embeddings")
    prefix = FLAT_PREFIX if text is top else NESTED_PREFIX
    return Inventory(
        language=language_tensors(family, text, prefix=prefix, tied=tied),
        vision=vision_tensors(vision, prefix=VISION_PREFIX) if vision else {},
        mtp=mtp_tensors(family, text, prefix=MTP_PREFIX),
        mtp_declared=family.mtp_key is not None and text.has(family.mtp_key),
    )
