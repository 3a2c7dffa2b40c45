"""The model classes that vLLM builds otherwise than a plain decoder."""

from scion.architectures.families import QWEN3_5, QWEN3_5_MOE, QWEN3_MOE, QWEN3_NEXT
from scion.architectures.family import FUSED_ATTENTION, FUSED_DELTA_NET, FUSED_MLP, Fused
from scion.engines.loading.class_build import ClassBuild, by_class, head_projections
from scion.engines.releases import Affected

_NESTED = {
    "model.visual.": "visual.",
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
}
_FLAT = {"model.language_model.": "model."}
_PLAIN_FUSED: Fused = {**FUSED_ATTENTION, **FUSED_MLP}
_FUSED: Fused = {**_PLAIN_FUSED, **FUSED_DELTA_NET}


def _kept_projections(releases: str) -> dict[str, Affected]:
    """The heads' projections that those releases build unquantized by force."""
    return dict.fromkeys(head_projections(), Affected.parse(releases))


# https://github.com/vllm-project/vllm/pull/38832
_PLAIN_FC = _kept_projections("vllm>=0.20")

# Since 0.25 these classes describe their fused layers by a mapper, which renames nothing.
PLAIN = ClassBuild(
    Affected.parse("vllm"), fused=_PLAIN_FUSED, maps_lists=Affected.parse("vllm>=0.25")
)
# https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/qwen3_5.py
# https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/qwen3_vl.py
_QWEN3_5 = ClassBuild(
    Affected.parse("vllm"),
    fused={**_FUSED, "qkv": ("qkv",)},
    draft_fused=_PLAIN_FUSED,
    renames=_NESTED,
    maps_lists=Affected.parse("vllm"),
    quantized_head=Affected.parse("vllm>=0.23"),
    kept_in_nvfp4=_PLAIN_FC,
)
# Text-only: registered from 0.27, with a mapper from 0.28.
_QWEN3_5_TEXT = ClassBuild(
    Affected.parse("vllm>=0.27"),
    fused=_FUSED,
    draft_fused=_PLAIN_FUSED,
    renames=_FLAT,
    maps_lists=Affected.parse("vllm>=0.28"),
    quantized_head=Affected.parse("vllm>=0.23"),
    kept_in_nvfp4=_PLAIN_FC,
)
_QWEN3_MOE = ClassBuild(
    Affected.parse("vllm"),
    fused=FUSED_ATTENTION,
    maps_lists=Affected.parse("vllm>=0.25"),
    quantized_router=True,
    # Some releases then expand `gate_up_proj` too, depending on when the class is built.
    unmodelled_keys=("mlp_only_layers",),
)
# Its checkpoints hold both delta-net projections fused already. The mapper, since 0.29, renames
# nothing either: it drops the head's weights, and that entry is taken out before lists are mapped.
# https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/qwen3_next.py
_QWEN3_NEXT = ClassBuild(
    Affected.parse("vllm"),
    fused={
        **_PLAIN_FUSED,
        "in_proj_qkvz": ("in_proj_qkvz",),
        "in_proj_ba": ("in_proj_ba",),
    },
    draft_fused=_PLAIN_FUSED,
    # A slip: a list with both parts of the shared expert's gate_up_proj, but not its down_proj, was
    # refused. https://github.com/vllm-project/vllm/pull/46316 mended it, and kept the projection.
    other_draft_fused=(
        Affected.parse("vllm<0.25"),
        {**FUSED_ATTENTION, "gate_up_proj": ("up_proj", "down_proj")},
    ),
    maps_lists=Affected.parse("vllm>=0.29"),
    # No release: the class hands its head no quantization.
    quantized_head=Affected.parse("vllm<0"),
    kept_in_nvfp4=_kept_projections("vllm>=0.25"),
)

BUILDS = {
    **by_class(QWEN3_5, _QWEN3_5, _QWEN3_5_TEXT),
    **by_class(QWEN3_5_MOE, _QWEN3_5, _QWEN3_5_TEXT),
    **by_class(QWEN3_NEXT, _QWEN3_NEXT),
    **by_class(QWEN3_MOE, _QWEN3_MOE),
}
