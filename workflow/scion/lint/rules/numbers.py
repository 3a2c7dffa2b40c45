"""Rules over scales and sizes: whether the numbers of a scheme can be right, and can be served."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from scion.engines import facts
from scion.formats.modelopt import BLOCK
from scion.lint.formats import upper
from scion.lint.modules import FP8, GLOBAL_SCALES, NVFP4, PLAIN, Module
from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.subject import Subject

_QUANTIZE = workflow_until("quantize_nvfp4")
# Layers whose input is split over the GPUs of a tensor-parallel server; all others split their
# output. https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/qwen3_next.py
_SPLIT_INPUT = (".o_proj", ".out_proj", ".down_proj")
# Layers that every GPU holds whole.
_WHOLE = (".gate", ".shared_expert_gate", ".fc", "lm_head")
_SM120_ALIGNMENT = 32
_SCALARS = frozenset((*GLOBAL_SCALES, "weight_scale"))


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
    "a global scale is NaN, infinite, zero or negative",
    repair="calibrate again with more or other samples; a zero means that the module saw no signal",
    command=_QUANTIZE,
)
def bad_scale(subject: Subject) -> Iterable[Finding]:
    """Every number of the layer is multiplied or divided by this one.

    Zero comes from calibration without samples, or of an expert that no sample reached; NaN and
    infinity from an overflow in calibration, or from 1/0 when scales are respelt.
    """
    for name, value in subject.scalars.items():
        if name.rpartition(".")[2] in _SCALARS and not (math.isfinite(value) and value > 0):
            yield Finding(subject.shard_of(name), name, "finite and above zero", f"{value:g}")


@rule(
    "S503",
    "block-misfit",
    Severity.ERROR,
    "an NVFP4 weight's input is no multiple of 16",
    repair="keep the module in bf16, and exclude it",
    command=_QUANTIZE,
)
def block_misfit(subject: Subject) -> Iterable[Finding]:
    """NVFP4 scales 16 inputs at a time; on each GPU there must be a whole number of such blocks.

    Layers whose input is split over GPUs (`o_proj`, `out_proj`, `down_proj`) are judged under each
    tensor-parallel size that is asked for.
    """
    for size in subject.tensor_parallel:
        for name, columns in _inputs(subject, size):
            if columns % BLOCK:
                expected = f"a multiple of {BLOCK}{_over(size)}"
                yield Finding(subject.names_file, name, expected, f"{columns:g} inputs")


@rule(
    "S504",
    "sm120-misfit",
    Severity.WARNING,
    "an NVFP4 weight's input is no multiple of 32 on a GPU",
    repair="serve with fewer GPUs, or keep the module in bf16; other GPUs than SM120 are fine",
    holds_for="vllm on SM120 (RTX 50, RTX PRO 6000)",
    seen=("https://github.com/vllm-project/vllm/issues/48898",),
)
def sm120_misfit(subject: Subject) -> Iterable[Finding]:
    """The FP4 kernels of SM120 read 32 inputs at a time, and garbage past the end.

    A split over GPUs can leave 16 more than a multiple of 32 on each. Nothing is raised; the layer
    returns noise.
    """
    for size in subject.tensor_parallel:
        for name, columns in _inputs(subject, size):
            if columns % BLOCK == 0 and columns % _SM120_ALIGNMENT:
                expected = f"a multiple of {_SM120_ALIGNMENT}{_over(size)}"
                yield Finding(subject.names_file, name, expected, f"{columns:g} inputs")


def _inputs(subject: Subject, size: int) -> Iterable[tuple[str, float]]:
    """Name and inputs a GPU of each NVFP4 module when split over `size` GPUs."""
    for name, module in _judged(subject).items():
        if module.stored == NVFP4 and module.shape:
            split = size if name.endswith(_SPLIT_INPUT) else 1
            yield name, module.shape[-1] / split


def _over(size: int) -> str:
    return f" on each of {size} GPUs" if size > 1 else ""


@rule(
    "S505",
    "indivisible",
    Severity.ERROR,
    "a layer can't be split over the GPUs that were asked for",
    repair="serve with a number of GPUs that divides heads and widths",
)
def indivisible(subject: Subject) -> Iterable[Finding]:
    """Tensor parallelism gives each GPU an equal share of a layer's outputs, or of its inputs.

    Engines stop where the share is not whole. Key and value heads are the exception: where there
    are fewer than GPUs, each is held by several.
    """
    linear = subject.inventory.linear if subject.inventory else {}
    for size in subject.tensor_parallel:
        for name, (rows, columns) in linear.items():
            parts = columns if name.endswith(_SPLIT_INPUT) else rows
            replicated = name.endswith((".k_proj", ".v_proj", *_WHOLE)) or ".visual." in name
            if parts % size and not replicated and name in subject.modules:
                yield Finding(subject.names_file, name, f"a multiple of {size}", f"{parts}")


@rule(
    "S506",
    "scale-layout",
    Severity.ERROR,
    "a scale has another shape or dtype than the format asks for",
    repair="quantize again: NVFP4 takes F8_E4M3 [N, K/16] block scales and F32 global scales",
    command=_QUANTIZE,
)
def scale_layout(subject: Subject) -> Iterable[Finding]:
    """Kernels take the layout for granted.

    `weight_scale` of NVFP4 is F8_E4M3 of [N, K/16] in plain row order; `weight_scale_2` and
    `input_scale` are single float32 numbers. Scales that were swizzled, padded or written for
    blocks of 32 (MXFP4) load where only the byte count is checked, and scale the wrong blocks.
    """
    for name, module in _judged(subject).items():
        if module.stored == NVFP4:
            yield from _layout(subject, name, module)


def _judged(subject: Subject) -> Mapping[str, Module]:
    """The modules; none under a scheme that lint does not know, whose bytes mean something else."""
    return {} if subject.formats is None else subject.modules


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
    for name, module in _judged(subject).items():
        scales = set(module.scales)
        needed = _needed(module, weight_only=_weight_only(subject.declared, name))
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


def _weight_only(scheme: Mapping[str, Any], module: str) -> bool:
    """Whether the scheme leaves a module's inputs alone, so that there is no scale of them."""
    algorithm = upper(_layer_algorithm(scheme, module) or scheme.get("quant_algo"))
    if algorithm is not None and algorithm.startswith("W4A16"):
        return True
    groups = scheme.get("config_groups")
    declared = groups.values() if isinstance(groups, dict) else ()
    four_bits = [group for group in declared if isinstance(group, dict) and _bits(group) != 8]
    return bool(four_bits) and all(group.get("input_activations") is None for group in four_bits)


def _layer_algorithm(scheme: Mapping[str, Any], module: str) -> object:
    """What mixed precision declares for a module, or for the experts that it is one of."""
    layers = scheme.get("quantized_layers")
    while isinstance(layers, dict) and module:
        if isinstance(entry := layers.get(module), dict):
            return entry.get("quant_algo")
        module = module.rpartition(".")[0]
    return None


def _bits(group: Mapping[str, Any]) -> object:
    weights = group.get("weights")
    return weights.get("num_bits") if isinstance(weights, dict) else None


@rule(
    "S508",
    "scalar-scales-in-tensorrt",
    Severity.ERROR,
    "TensorRT-LLM can't repack the delta net's 0-dimensional scales",
    repair="keep in_proj_qkv and in_proj_z in bf16 for TensorRT-LLM, or serve with vLLM or SGLang",
    holds_for=str(facts.TENSORRT_SCALAR_SCALES),
    seen=("https://github.com/NVIDIA/Model-Optimizer/issues/1933",),
)
def scalar_scales_in_tensorrt(subject: Subject) -> Iterable[Finding]:
    """TensorRT-LLM repacks quantized `in_proj_qkv` and `in_proj_z`, and crashes on their scales.

    It splits the scales along their first dimension; `weight_scale_2` and `input_scale` of ModelOpt
    have none. As reported; not tried here.
    """
    engines = facts.TENSORRT_SCALAR_SCALES.among(subject.engines)
    if engines:
        yield from (
            Finding(subject.names_file, name, "bf16", NVFP4, engines)
            for name, module in subject.modules.items()
            if name.endswith((".in_proj_qkv", ".in_proj_z")) and module.stored == NVFP4
        )


RULES = (
    fused_scales_differ,
    bad_scale,
    block_misfit,
    sm120_misfit,
    indivisible,
    scale_layout,
    scales_incomplete,
    scalar_scales_in_tensorrt,
)
