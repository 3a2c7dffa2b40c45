"""The model classes that SGLang builds otherwise than a plain decoder."""

from scion.architectures.families import QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT, head_prefixes
from scion.architectures.family import FUSED_ATTENTION, FUSED_DELTA_NET, FUSED_MLP, Fused
from scion.engines.loading.class_build import ClassBuild, by_class
from scion.engines.releases import Affected

_ALL = Affected.parse("sglang")
_PLAIN_FUSED: Fused = {**FUSED_ATTENTION, **FUSED_MLP}
_FUSED: Fused = {**_PLAIN_FUSED, **FUSED_DELTA_NET}

# These classes declare no fused layers; the matchers of paths know attention's and the MLP's.
PLAIN = ClassBuild(_ALL, fused={}, kept_draft=True)
# https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/models/qwen3_5.py
_QWEN3_5 = ClassBuild(_ALL, fused=_FUSED, draft_fused=_FUSED, kept_draft=True)
_QWEN3_5_TEXT = ClassBuild(
    _ALL,
    fused=_FUSED,
    draft_fused=_FUSED,
    renames={"model.language_model.": "model."},
    kept_draft=True,
)
# The draft model's layers have the names of a target's, so that no entry for the head covers them.
# https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/models/qwen3_next.py
# https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/models/qwen3_next_mtp.py
_QWEN3_NEXT = ClassBuild(
    _ALL,
    fused=_PLAIN_FUSED,
    draft_fused=_PLAIN_FUSED,
    renames={f"{prefix}layers.": "model.layers." for prefix in head_prefixes()},
    kept_in_nvfp4={"qkv_proj": _ALL},
)

BUILDS = {
    **by_class(QWEN3_5, _QWEN3_5, _QWEN3_5_TEXT),
    **by_class(QWEN3_5_MOE, _QWEN3_5, _QWEN3_5_TEXT),
    **by_class(QWEN3_NEXT, _QWEN3_NEXT),
}
