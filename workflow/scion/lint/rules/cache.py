"""Rules over the scales of the KV cache: whether engines have them, and take them."""

from collections.abc import Iterable

from scion.architectures.families import family_of, in_head, vision_prefixes
from scion.checkpoint.shards import CONFIG
from scion.engines import facts
from scion.lint.formats import declared_cache
from scion.lint.modules import KV_SCALES
from scion.lint.rule import Finding, Severity, rule
from scion.lint.subject import Subject

# Older checkpoints have one scale for both, Quark's the scales of what the projections give.
_ANY_SCALES = (*KV_SCALES, "kv_scale", "output_scale")


@rule(
    "Q405",
    "cache-scales-ignored",
    Severity.WARNING,
    "calibrated KV-cache scales that vLLM does not load for this family",
    repair="say so on the card, or leave the scales out: FP8 caches then run at scale 1.0 too",
    holds_for=str(facts.CACHE_SCALES_LOST),
    seen=(
        "https://github.com/vllm-project/vllm/issues/54623",
        "https://github.com/vllm-project/vllm/pull/34719",
    ),
)
def cache_scales_ignored(subject: Subject) -> Iterable[Finding]:
    """The checkpoint has `k_scale` and `v_scale`, and an FP8 cache runs at scale 1.0 all the same.

    Up to 0.24 vLLM's loader of this family renamed such tensors itself; since then a generic one
    should, and reports say that it does not (0.27.1 and later, open). The server's log tells:
    "Using KV cache scaling factor 1.0 for fp8_e4m3".
    """
    engines = facts.CACHE_SCALES_LOST.among(subject.engines)
    family = family_of(subject.config)
    if engines and family is not None and family.decoder.delta_net == "split":
        yield from (
            Finding(subject.names_file, name, "no cache scales", "a calibrated one", engines)
            for name in subject.tensors
            if name.rpartition(".")[2] in KV_SCALES
        )


@rule(
    "Q411",
    "cache-scales-absent",
    Severity.NOTE,
    "a quantized KV cache is declared, and layers have no scales of it",
    repair="nothing, if scale 1 is meant; else calibrate the cache, or serve with "
    "--kv-cache-dtype bfloat16",
    seen=(
        "https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/"
        "quantization/kv_cache.py",
        "https://github.com/sgl-project/sgl-cookbook/pull/237",
    ),
)
def cache_scales_absent(subject: Subject) -> Iterable[Finding]:
    """Engines store keys and values divided by 1 then, and say so in the log at most.

    No release needs the scales: vLLM and SGLang put 1 in their place, for FP8 and NVFP4 alike. Keys
    and values below 448 lose nothing by that, since FP8 is floating point; larger ones are cut off.
    Where some layers have scales and others lack them, the others were forgotten.
    """
    cache = declared_cache(subject.declared)
    if cache is None:
        return
    found = "none"
    scaled = {name for name in subject.tensors if name.rpartition(".")[2] in _ANY_SCALES}
    if not scaled:
        yield Finding(CONFIG, "kv_cache", f"k_scale and v_scale for the {cache} cache", found)
        return
    for name in subject.modules:
        attention, _, last = name.rpartition(".")
        decoder = not in_head(name) and not name.startswith(vision_prefixes())
        if last == "k_proj" and decoder and not any(s.startswith(f"{attention}.") for s in scaled):
            yield Finding(subject.names_file, attention, "scales of its keys and values", found)


RULES = (cache_scales_ignored, cache_scales_absent)
