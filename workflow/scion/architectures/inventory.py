"""What a config.json implies: every tensor's name and shape, what quantizes, what engines fuse.

The release pipeline (`inventory`) works on the families that releases are made of. `implied` knows
all of `scion.architectures.families`, so that a checkpoint can be held against its own config.json.
Names and shapes were read off transformers 5.14's modeling files and vLLM 0.32's `qwen3_5.py`,
`qwen3_next.py` and their `_mtp.py`; the tests hold them against the former.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scion.architectures.class_variant import GENERATES, ClassVariant, Ending
from scion.architectures.config_keys import Keys
from scion.architectures.families import family_of, unknown_family
from scion.architectures.family import Family
from scion.architectures.parts import (
    Shape,
    head_layers,
    language_tensors,
    mtp_tensors,
    refuse_absurd,
    vision_tensors,
)
from scion.architectures.stacks import Stack, stacks_of, taken_apart
from scion.common.errors import ScionError

__all__ = [
    "Inventory",
    "Shape",
    "implied",
    "inventory",
]


@dataclass(frozen=True)
class Inventory:
    """The tensors that a configuration implies.

    Experts are listed one by one (`mlp.experts.7.up_proj.weight`) in `language` and `mtp` of every
    family: so quantized releases hold them, and so an engine's rules name them. Releases in bf16
    may hold them stacked instead, in some layers or in all; `stacked` has the names.

    Attributes:
        family: The row that it follows from, with the prefixes of this checkpoint.
        ending: What stands behind the last norm.
        tied: Whether that is a head which is the embeddings, and so no tensor of its own.
        language: Shape by name of the language model's tensors, head and embeddings included.
        vision: Those of the vision tower; empty where the configuration has none.
        mtp: Those of the MTP head; empty where the configuration has none.
        mtp_declared: Whether config.json has the key that counts the MTP layers. Without it `mtp`
            is what engines assume, which for Qwen3-Next is one layer: the checkpoint may lack it.
            Nor is a head missed where nothing is generated.
    """

    family: Family
    ending: Ending
    tied: bool
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
            if len(shape) == 2 and not name.removesuffix(".weight").endswith(self.family.embeddings)
        }

    @cached_property
    def quantized(self) -> tuple[str, ...]:
        """The modules that NVFP4_DEFAULT_CFG quantizes, in layer order."""
        return tuple(
            module
            for module in self.layer_modules
            if module in self.linear and not module.endswith(self.family.kept)
        )

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """The modules of decoder layers that stay bf16 and that an exclusion list must name."""
        return tuple(module for module in self.layer_modules if module.endswith(self.family.kept))

    @cached_property
    def stacked(self) -> dict[str, Stack]:
        """The tensors that may stand for those of single experts, by name; empty without experts.

        Qwen3.5's releases stack the experts of decoder layers and list those of the MTP layer one
        by one, Qwen3.6's stack both, and transformers saves all of them one by one.
        """
        return stacks_of(self.tensors)

    @cached_property
    def layer_stacks(self) -> dict[str, Stack]:
        """Those of decoder layers, which quantizing takes apart; the head's stay as they are."""
        return {
            name: stack for name, stack in self.stacked.items() if stack.members[0] in self.language
        }

    @cached_property
    def storable(self) -> dict[str, Shape]:
        """Shape by name of all that a checkpoint in bf16 may hold: `tensors` and `stacked`."""
        return {**self.tensors, **{name: stack.shape for name, stack in self.stacked.items()}}

    def represented(self, names: Iterable[str]) -> set[str]:
        """The tensors of `tensors` that stored ones are or, as stacks, stand for."""
        return set(taken_apart(names, self.stacked))

    @cached_property
    def groups(self) -> list[tuple[str, ...]]:
        """The linear modules that engines load as one, whether they quantize or not."""
        firsts = {suffixes[0]: suffixes for suffixes in self.family.fused.values()}
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
        return [module for module in self.quantized if not module.rpartition(".")[0].endswith(ends)]

    def fused_groups(self) -> list[tuple[str, ...]]:
        """The quantized modules that engines load as one, group by group."""
        modules = set(self.quantized)
        return [group for group in self.groups if modules.issuperset(group)]

    @cached_property
    def layer_modules(self) -> list[str]:
        """Every module and parameter's owner inside a decoder layer, in layer order."""
        return [name.removesuffix(".weight") for name in self.language if ".layers." in name]


def inventory(config: Mapping[str, Any], *, where: object) -> Inventory:
    """The tensors that the config.json of a family implies that releases are made of.

    Args:
        config: Parsed config.json.
        where: The file to name in errors.

    Raises:
        ScionError: Another architecture, or a key that the shapes depend on is unusable.
    """
    family = family_of(config)
    expected = implied(config, where=where) if family and family.released else None
    if expected is None:
        raise unknown_family(config, where=where)
    return expected


def implied(
    config: Mapping[str, Any], *, where: object, variant: ClassVariant = GENERATES
) -> Inventory | None:
    """The tensors that the config.json of any known architecture implies.

    The config may be hostile: each value that is read is checked, and their product is bounded
    before a name is made.

    Args:
        config: Parsed config.json.
        where: The file to name in errors.
        variant: Which of the family's classes and spellings the tensors are of.

    Returns:
        The inventory, or None where the model_type is not known.

    Raises:
        ScionError: A key that the shapes depend on is missing, of another type, or absurd.
    """
    row = family_of(config)
    if row is None:
        return None
    family = variant.spelled(row)
    top = Keys(config, where)
    text = language_keys(config, family, where=where)
    has_tower = family.nested and config.get("vision_config")
    vision = top.section("vision_config") if has_tower else None
    refuse_absurd(family.decoder, text, head=family.head, vision=vision)
    # The class that owns both tensors decides whether they are one: transformers and vLLM read
    # the outer key. Configs of older versions have the inner one alone.
    tied = (top if top.has("tie_word_embeddings") else text).flag("tie_word_embeddings")
    generates = variant.ending == "lm_head"
    body = language_tensors(family.decoder, text, prefix=family.prefix)
    vocabulary, hidden = body[f"{family.embedding}.weight"]
    head = variant.head(top, hidden=hidden, vocabulary=vocabulary)
    return Inventory(
        family=family,
        ending=variant.ending,
        tied=tied and generates,
        language=body if tied and generates else {**body, **head},
        vision=vision_tensors(vision, prefix=family.vision_prefix) if vision else {},
        mtp=mtp_tensors(family.decoder, text, family.head),
        mtp_declared=generates and family.head is not None and text.has(family.head.layers_key),
    )


def language_keys(config: Mapping[str, Any], family: Family, *, where: object) -> Keys:
    """The keys of a config.json that are the language model's.

    Raises:
        ScionError: The family nests them, and there is no such object.
    """
    keys = Keys(config, where)
    if family.nested and not keys.has("text_config") and keys.has("hidden_size"):
        flat = family.text_model_type
        raise ScionError(
            "config.json is flat, and its model_type is that of a nested one",
            where=where,
            expected=f"the language model's keys in a text_config, as {family.model_type} has them"
            + (f", or model_type {flat}" if flat else ""),
            found=f"model_type {family.model_type!r}, and hidden_size beside it",
            hint=f"set model_type {flat} and architectures [{family.text_architecture}], if the "
            "tensors are those of the language model alone; or take the base model's config.json",
        )
    return keys.section("text_config") if family.nested else keys


def declared_mtp_layers(config: Mapping[str, Any], *, where: object) -> int:
    """The number of MTP layers that a config.json declares; 0 where the family has no head.

    Raises:
        ScionError: The key is unusable.
    """
    family = family_of(config)
    if family is None:
        return 0
    return head_layers(family.head, language_keys(config, family, where=where))


def with_mtp_layers(config: Mapping[str, Any], count: int) -> dict[str, Any]:
    """A config.json that declares `count` MTP layers.

    It is unchanged if it does already, and where the family has no head.
    """
    family = family_of(config)
    if family is None or family.head is None:
        return dict(config)
    text = config["text_config"] if family.nested else config
    if text.get(family.head.layers_key, family.head.default) == count:
        return dict(config)
    changed = {**text, family.head.layers_key: count}
    return {**config, "text_config": changed} if family.nested else changed
