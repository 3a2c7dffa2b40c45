"""How engines build the architectures that Scion models: layer names, fused layers, renames.

An exclusion list is written in a checkpoint's names and matched against an engine's, so both must
be known. Read off the model classes of the releases in `scion.engines.releases`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scion.engines.loading.exclusion import Fused
from scion.engines.releases import SGLANG, TENSORRT_LLM, VLLM, Affected, Engine

_ATTENTION: Fused = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}
_MLP: Fused = {"gate_up_proj": ("gate_proj", "up_proj")}
_DELTA_NET: Fused = {
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}
# Every fused layer that an engine builds; which of them its matcher also expands, a family says.
FUSED: Fused = {**_ATTENTION, **_MLP, **_DELTA_NET}
_FUSED_NAME = {part: name for name, parts in FUSED.items() for part in parts}
_EXPERTS = re.compile(r"(?P<layer>.*\.experts)\..+")
_DRAFT = "mtp."
_VISION = ("model.visual.", "visual.")
# Modules that are no linear layers, or that engines build without asking for a quantization.
_PLAIN = re.compile(
    r"(.*\.)?(conv1d|embed_tokens|pos_embed|patch_embed\.proj|shared_expert_gate|A_log|dt_bias"
    r"|[a-z_]*norm[a-z0-9_]*)"
)
_ROUTER = re.compile(r".*\.mlp\.gate")


@dataclass(frozen=True)
class Layer:
    """The engine's layer that holds a checkpoint's module.

    Attributes:
        name: Its name in the engine, less what the engine calls the fused one.
        kind: `linear`, `experts`, `head`, or `plain` where no quantization is ever asked for.
        draft: Whether it belongs to the MTP draft model.
        vision: Whether it belongs to the vision tower.
    """

    name: str
    kind: str
    draft: bool
    vision: bool


@dataclass(frozen=True)
class Family:
    """How one engine builds one architecture.

    Attributes:
        engine: The engine.
        known: The releases that have the architecture.
        fused: The fused layers that the matcher expands, by fused name.
        draft_fused: Those of the MTP draft model.
        other_draft_fused: Releases that describe the draft model otherwise, and how.
        renames: Prefixes of a checkpoint's modules and what the engine calls them.
        maps_lists: The releases that rename the entries of an exclusion list alike; None where the
            engine leaves the list as it is written. In vLLM they also rewrite `X*` entries.
        quantized_head: The releases that ask for a quantization of the head; None for all.
        quantized_router: Whether the experts' router asks for a quantization.
        plain_fc: The releases that build mtp.fc unquantized in NVFP4 checkpoints, whatever is
            listed (vLLM).
        plain_qkv: Whether attention's qkv_proj is built unquantized in NVFP4 checkpoints, whatever
            is listed (SGLang).
        plain_draft: Whether the draft model is built unquantized in NVFP4 checkpoints, and in
            mixed ones that don't list it (SGLang).
    """

    engine: str
    known: Affected
    fused: Fused
    draft_fused: Fused = field(default_factory=dict)
    other_draft_fused: tuple[Affected, Fused] | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    maps_lists: Affected | None = None
    quantized_head: Affected | None = None
    quantized_router: bool = False
    plain_fc: Affected | None = None
    plain_qkv: bool = False
    plain_draft: bool = True

    def fused_in_draft(self, engine: Engine) -> Fused:
        """The fused layers that the matcher expands for the draft model of a release."""
        if self.other_draft_fused is not None:
            releases, fused = self.other_draft_fused
            if releases.holds_for(engine):
                return fused
        return self.draft_fused

    def layer(self, module: str) -> Layer:
        """The engine's layer for a module, which is named as the checkpoint names it."""
        draft, vision = module.startswith(_DRAFT), module.startswith(_VISION)
        name = rename(f"{module}.", self.renames).removesuffix(".")
        if module == "lm_head" or module.endswith(".lm_head"):
            return Layer(name, "head", draft, vision)
        if experts := _EXPERTS.fullmatch(name):
            return Layer(experts["layer"], "experts", draft, vision)
        router = _ROUTER.fullmatch(name) is not None and not self.quantized_router
        if router or _PLAIN.fullmatch(name):
            return Layer(name, "plain", draft, vision)
        above, dot, last = name.rpartition(".")
        if not vision:
            last = _FUSED_NAME.get(last, last)
        return Layer(f"{above}{dot}{last}", "linear", draft, vision)


def rename(name: str, renames: Mapping[str, str]) -> str:
    """A name with each prefix replaced in turn, as vLLM's `WeightsMapper` does."""
    for old, new in renames.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def family_of(engine: Engine, config: Mapping[str, Any]) -> Family | None:
    """How an engine builds what config.json names; None if it does not know it, or we don't."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    family = _FAMILIES.get((engine.name, name)) if isinstance(name, str) else None
    if family is not None and not family.known.holds_for(engine):
        return None
    if name == "Qwen3MoeForCausalLM" and config.get("mlp_only_layers"):
        # Some releases then expand `gate_up_proj` too, depending on when the class is built.
        return None
    return family


_NESTED = {
    "model.visual.": "visual.",
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
}
_FLAT = {"model.language_model.": "model."}
_PLAIN_FUSED = {**_ATTENTION, **_MLP}
# https://github.com/vllm-project/vllm/pull/38832
_PLAIN_FC = Affected.parse("vllm>=0.20")

# https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/qwen3_5.py
# https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/qwen3_vl.py
_VLLM_QWEN3_5 = Family(
    VLLM,
    Affected.parse("vllm"),
    fused={**FUSED, "qkv": ("qkv",)},
    draft_fused=_PLAIN_FUSED,
    renames=_NESTED,
    maps_lists=Affected.parse("vllm"),
    quantized_head=Affected.parse("vllm>=0.23"),
    plain_fc=_PLAIN_FC,
)
# Text-only: registered from 0.27, with a mapper from 0.28.
_VLLM_QWEN3_5_TEXT = Family(
    VLLM,
    Affected.parse("vllm>=0.27"),
    fused=FUSED,
    draft_fused=_PLAIN_FUSED,
    renames=_FLAT,
    maps_lists=Affected.parse("vllm>=0.28"),
    quantized_head=Affected.parse("vllm>=0.23"),
    plain_fc=_PLAIN_FC,
)
# Since 0.25 these classes describe their fused layers by a mapper, which renames nothing.
_VLLM_PLAIN = Family(
    VLLM, Affected.parse("vllm"), fused=_PLAIN_FUSED, maps_lists=Affected.parse("vllm>=0.25")
)
_VLLM_QWEN3_MOE = Family(
    VLLM,
    Affected.parse("vllm"),
    fused=_ATTENTION,
    maps_lists=Affected.parse("vllm>=0.25"),
    quantized_router=True,
)
# Its checkpoints hold both delta-net projections fused already. The mapper, since 0.29, renames
# nothing either: `"mtp.": None` drops weights, and is taken out before lists are mapped.
# https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/qwen3_next.py
_VLLM_QWEN3_NEXT = Family(
    VLLM,
    Affected.parse("vllm"),
    fused={
        **_PLAIN_FUSED,
        "in_proj_qkvz": ("in_proj_qkvz",),
        "in_proj_ba": ("in_proj_ba",),
    },
    draft_fused=_PLAIN_FUSED,
    # A slip: a list with both parts of the shared expert's gate_up_proj, but not its down_proj, was
    # refused. https://github.com/vllm-project/vllm/pull/46316 mended it, and added plain_fc.
    other_draft_fused=(
        Affected.parse("vllm<0.25"),
        {**_ATTENTION, "gate_up_proj": ("up_proj", "down_proj")},
    ),
    maps_lists=Affected.parse("vllm>=0.29"),
    # No release: the class hands its head no quantization.
    quantized_head=Affected.parse("vllm<0"),
    plain_fc=Affected.parse("vllm>=0.25"),
)
# https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/models/qwen3_5.py
_SGLANG_QWEN3_5 = Family(SGLANG, Affected.parse("sglang"), fused=FUSED, draft_fused=FUSED)
_SGLANG_QWEN3_5_TEXT = Family(
    SGLANG, Affected.parse("sglang"), fused=FUSED, draft_fused=FUSED, renames=_FLAT
)
# The draft model's layers have the names of a target's, so that no `mtp*` entry covers them.
# https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/models/qwen3_next.py
# https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/models/qwen3_next_mtp.py
_SGLANG_QWEN3_NEXT = Family(
    SGLANG,
    Affected.parse("sglang"),
    fused=_PLAIN_FUSED,
    draft_fused=_PLAIN_FUSED,
    renames={"mtp.layers.": "model.layers."},
    plain_qkv=True,
    plain_draft=False,
)
_SGLANG_PLAIN = Family(SGLANG, Affected.parse("sglang"), fused={})
# Not Qwen3.5, whose lists TensorRT-LLM rewrites in ways that depend on the GPU.
_TENSORRT_PLAIN = Family(TENSORRT_LLM, Affected.parse("tensorrt-llm"), fused=_PLAIN_FUSED)

_FAMILIES: dict[tuple[str, str], Family] = {
    (VLLM, "Qwen3_5ForConditionalGeneration"): _VLLM_QWEN3_5,
    (VLLM, "Qwen3_5MoeForConditionalGeneration"): _VLLM_QWEN3_5,
    (VLLM, "Qwen3_5ForCausalLM"): _VLLM_QWEN3_5_TEXT,
    (VLLM, "Qwen3_5MoeForCausalLM"): _VLLM_QWEN3_5_TEXT,
    (VLLM, "Qwen3NextForCausalLM"): _VLLM_QWEN3_NEXT,
    (VLLM, "LlamaForCausalLM"): _VLLM_PLAIN,
    (VLLM, "Qwen2ForCausalLM"): _VLLM_PLAIN,
    (VLLM, "Qwen3ForCausalLM"): _VLLM_PLAIN,
    (VLLM, "Qwen3MoeForCausalLM"): _VLLM_QWEN3_MOE,
    (SGLANG, "Qwen3_5ForConditionalGeneration"): _SGLANG_QWEN3_5,
    (SGLANG, "Qwen3_5MoeForConditionalGeneration"): _SGLANG_QWEN3_5,
    (SGLANG, "Qwen3_5ForCausalLM"): _SGLANG_QWEN3_5_TEXT,
    (SGLANG, "Qwen3_5MoeForCausalLM"): _SGLANG_QWEN3_5_TEXT,
    (SGLANG, "Qwen3NextForCausalLM"): _SGLANG_QWEN3_NEXT,
    (SGLANG, "LlamaForCausalLM"): _SGLANG_PLAIN,
    (SGLANG, "Qwen2ForCausalLM"): _SGLANG_PLAIN,
    (SGLANG, "Qwen3ForCausalLM"): _SGLANG_PLAIN,
    (TENSORRT_LLM, "LlamaForCausalLM"): _TENSORRT_PLAIN,
    (TENSORRT_LLM, "Qwen2ForCausalLM"): _TENSORRT_PLAIN,
    (TENSORRT_LLM, "Qwen3ForCausalLM"): _TENSORRT_PLAIN,
}
