"""Rules over scales and sizes: whether the numbers of a scheme can be right, and can be served."""

import math
import statistics
from collections.abc import Iterable, Mapping

from scion.formats.modelopt import BLOCK
from scion.lint.formats import is_weight_only
from scion.lint.modules import FP8, GLOBAL_SCALES, KV_SCALES, NVFP4, PLAIN, Module
from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.subject import Subject

_QUANTIZE = workflow_until("quantize_nvfp4")
_SCALARS = frozenset((*GLOBAL_SCALES, "weight_scale", *KV_SCALES))
# The formats in which a scale is the largest number over the largest code.
_WEIGHT_SCALES = {
    "weight_scale_2": (NVFP4,),
    "weight_global_scale": (NVFP4,),
    "weight_scale": (FP8,),
}
_INPUT_SCALES = {"input_scale": (NVFP4,), "input_global_scale": (NVFP4,)}
# What a scale of 1 allows for: the largest code of NVFP4 and of its block scales; that of FP8.
_LARGEST_NVFP4, _LARGEST_FP8 = 6 * 448, 448


@rule(
    "S501",
    "fused-scales-differ",
    Severity.ERROR,
    "modules that engines load as one have different global scales",
    repair="calibrate the group as one: one weight_scale_2 and one input_scale for all members",
    command=_QUANTIZE,
    seen=("https://github.com/vllm-project/vllm/issues/47241",),
)
def fused_scales_differ(subject: Subject) -> Iterable[Finding]:
    """A fused layer has one global scale, and its members were quantized with several.

    vLLM takes the maximum of `weight_scale_2` over the group and does not quantize anew: the
    members with a smaller scale come out too large by the ratio. The same holds for `input_scale`.
    Nothing is logged; the model is merely worse.
    """
    groups = subject.inventory.groups if subject.inventory else ()
    for group in groups:
        for suffix in GLOBAL_SCALES:
            scales = [subject.scalars.get(f"{module}.{suffix}") for module in group]
            values = {value for value in scales if value is not None and math.isfinite(value)}
            if len(values) > 1:
                found = ", ".join(f"{value:g}" for value in sorted(values))
                yield Finding(
                    subject.names_file, f"{group[0]}.{suffix}", "one value for the group", found
                )


@rule(
    "S502",
    "bad-scale",
    Severity.ERROR,
    "a global scale, or one of the KV cache, is NaN, infinite, zero or negative",
    repair="calibrate again with more or other samples; a zero means that the module saw no "
    "signal. The cache can do without its scales: engines then take 1",
    command=_QUANTIZE,
    seen=("https://github.com/sgl-project/sglang/pull/40243",),
)
def bad_scale(subject: Subject) -> Iterable[Finding]:
    """Every number of the layer is multiplied or divided by this one.

    Zero comes from calibration without samples, or of an expert that no sample reached; NaN and
    infinity from an overflow in calibration, or from 1/0 when scales are respelt. An infinite
    `k_scale` passes the engines' own check for a positive number and reaches the attention; of a
    negative one vLLM and SGLang take the other of the two, or 1.
    """
    for name, value in subject.scalars.items():
        if name.rpartition(".")[2] in _SCALARS and not (math.isfinite(value) and value > 0):
            yield Finding(subject.shard_of(name), name, "finite and above zero", f"{value:g}")


@rule(
    "S509",
    "implausible-scale",
    Severity.ERROR,
    "a global scale stands for numbers that no model has",
    repair="write its reciprocal where it was carried over from the other spelling: "
    "weight_global_scale = 1 / weight_scale_2, input_global_scale = 1 / input_scale",
    seen=("https://github.com/modular/modular/issues/6600",),
)
def implausible_scale(subject: Subject) -> Iterable[Finding]:
    """A scale is the largest number over the largest code, and weights are far below 1.

    NVFP4's largest code times its largest block scale is 2688, so `weight_scale_2` above 1 says
    that some weight exceeds 2688; FP8's `weight_scale` above 1, that one exceeds 448. They are near
    0.0001 in fact. compressed-tensors stores the reciprocal, `weight_global_scale`, which is
    thousands; tensors that were renamed from one spelling to the other and not inverted load
    without a word, and the model speaks noise. Inputs do reach such sizes in single layers, so
    theirs are judged together: half of a checkpoint's layers never see inputs beyond 2688.
    """
    sizes: dict[str, dict[str, float]] = {}
    for name, value in subject.scalars.items():
        module, _, suffix = name.rpartition(".")
        stored = subject.stored(module) if subject.formats is not None else None
        known = (*_WEIGHT_SCALES.get(suffix, ()), *_INPUT_SCALES.get(suffix, ()))
        if stored in known and math.isfinite(value) and value > 0:
            size = 1 / value if suffix.endswith("_global_scale") else value
            sizes.setdefault(suffix, {})[name] = size
    for suffix, scales in sizes.items():
        if suffix in _WEIGHT_SCALES or statistics.median(scales.values()) > 1:
            yield from _implausible(subject, {n: s for n, s in scales.items() if s > 1})


def _implausible(subject: Subject, sizes: Mapping[str, float]) -> Iterable[Finding]:
    """One finding for all, which names the worst; each size is what a scale stands for."""
    if not sizes:
        return
    name = max(sizes, key=lambda name: sizes[name])
    module, _, suffix = name.rpartition(".")
    largest = sizes[name] * (_LARGEST_FP8 if subject.stored(module) == FP8 else _LARGEST_NVFP4)
    kind = "weights" if suffix in _WEIGHT_SCALES else "inputs"
    expected = "above 1" if suffix.endswith("_global_scale") else "below 1"
    found = f"{subject.scalars[name]:g}, as if {kind} reached {largest:g}"
    yield Finding(subject.shard_of(name), name, expected, found, (), len(sizes))


@rule(
    "S506",
    "scale-layout",
    Severity.ERROR,
    "a scale has another shape or dtype than the format asks for",
    repair="quantize again: NVFP4 takes F8_E4M3 [N, K/16] block scales and F32 global scales, the "
    "KV cache one number a layer",
    command=_QUANTIZE,
    seen=("https://github.com/sgl-project/sglang/pull/40243",),
)
def scale_layout(subject: Subject) -> Iterable[Finding]:
    """Kernels take the layout for granted.

    `weight_scale` of NVFP4 is F8_E4M3 of [N, K/16] in plain row order; `weight_scale_2` and
    `input_scale` are single float32 numbers. Scales that were swizzled, padded or written for
    blocks of 32 (MXFP4) load where only the byte count is checked, and scale the wrong blocks.
    `k_scale` and `v_scale` of the KV cache are single numbers too, or one for each key-value head
    where compressed-tensors declares the strategy `attn_head`; engines stop at any other.
    """
    for name, module in subject.judged_modules.items():
        if module.stored == NVFP4:
            yield from _layout(subject, name, module)
    cache = subject.declared.get("kv_cache_scheme")
    by_head = isinstance(cache, dict) and cache.get("strategy") == "attn_head"
    for name, tensor in subject.tensors.items() if subject.formats is not None else ():
        count = math.prod(tensor.shape)
        heads = subject.text_config.get("num_key_value_heads")
        if name.rpartition(".")[2] in KV_SCALES and count != 1 and not (by_head and count == heads):
            found = f"{tensor.dtype} {list(tensor.shape)}"
            yield Finding(subject.shard_of(name), name, "one number", found)


def _layout(subject: Subject, name: str, module: Module) -> Iterable[Finding]:
    *rows, columns = module.shape or (0,)
    layouts = {"weight_scale": ("F8_E4M3", (*rows, columns // BLOCK))}
    for suffix in module.scales:
        tensor = module.tensors[suffix]
        dtype, shape = layouts.get(suffix, ("F32", tensor.shape))
        single = suffix in layouts or math.prod(tensor.shape) == 1
        if (tensor.dtype, tensor.shape) != (dtype, shape) or not single:
            expected = f"{dtype} {list(shape) if suffix in layouts else 'of one number'}"
            found = f"{tensor.dtype} {list(tensor.shape)}"
            yield Finding(subject.shard_of(tensor.name), tensor.name, expected, found)


@rule(
    "S507",
    "scales-incomplete",
    Severity.ERROR,
    "a quantized weight lacks a scale, or a plain one has one",
    repair="quantize again; never copy a weight without its scales",
    command=_QUANTIZE,
)
def scales_incomplete(subject: Subject) -> Iterable[Finding]:
    """A weight and its scales belong together.

    A missing scale stays uninitialised memory in engines that don't check quantized models for
    completeness; a scale beside a plain weight stops the loader with an unknown parameter. Copying
    single tensors between checkpoints makes such halves.
    """
    for name, module in subject.judged_modules.items():
        scales = set(module.scales)
        needed = _needed(module, weight_only=is_weight_only(subject.declared, name))
        if module.stored in (None, PLAIN):
            problem = bool(scales)
        else:
            problem = bool(needed) and not any(option <= scales for option in needed)
        if problem:
            expected = " or ".join(", ".join(sorted(option)) for option in needed) or "no scale"
            found = ", ".join(sorted(scales)) or "no scale"
            yield Finding(subject.names_file, name, expected, found)


def _needed(module: Module, *, weight_only: bool) -> list[set[str]]:
    """The sets of scales of which a module needs one whole."""
    if module.stored == FP8:
        return [{"weight_scale"}, {"weight_scale_inv"}]
    if module.stored != NVFP4:
        return []
    compressed = "weight_packed" in module.tensors
    scales = {"weight_scale", "weight_global_scale" if compressed else "weight_scale_2"}
    activations = {"input_global_scale" if compressed else "input_scale"}
    return [scales if weight_only else scales | activations]


RULES = (
    fused_scales_differ,
    bad_scale,
    implausible_scale,
    scale_layout,
    scales_incomplete,
)
