"""Rules over scales that an engine misses, leaves aside or can't read."""

from collections.abc import Iterable

from scion.engines import facts
from scion.lint.formats import is_weight_only
from scion.lint.modules import NVFP4
from scion.lint.rule import Finding, Severity, rule
from scion.lint.subject import Subject

_INPUT_SCALES = ("input_scale", "input_global_scale")


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


@rule(
    "S511",
    "input-scale-unset",
    Severity.ERROR,
    "an engine quantizes inputs by a scale that is not there",
    repair="declare W4A16_NVFP4, which vLLM knows from 0.21 on, serve with vLLM 0.29 or later, or "
    "calibrate the inputs",
    holds_for=f"{facts.INPUT_SCALE_UNSET}, where it builds the module as W4A4",
    seen=(
        "https://github.com/vllm-project/vllm/issues/54189",
        "https://github.com/vllm-project/vllm/pull/54427",
        "https://github.com/vllm-project/vllm/issues/45212",
    ),
)
def input_scale_unset(subject: Subject) -> Iterable[Finding]:
    """The checkpoint holds NVFP4 of weights alone, and the engine builds W4A4.

    `quant_algo: NVFP4` is W4A4 to vLLM before 0.29, even where every group's `input_activations` is
    null. The parameter for `input_scale` is memory as it was allocated until a tensor fills it, and
    nothing looks whether one did. A mixture of experts multiplies its weights' scales by it: where
    the memory holds zeros, every expert is silent, and the model repeats one token. From 0.29 on
    such a declaration is served as W4A16, which reads no scale of inputs.
    """
    for engine, decisions in subject.decisions.items():
        named = facts.INPUT_SCALE_UNSET.among((engine,))
        for name, decision in decisions.items() if named else ():
            module = subject.judged_modules.get(name)
            if (
                module is not None
                and module.stored == NVFP4
                and decision.algorithm == NVFP4
                and is_weight_only(subject.declared, name)
                and not any(suffix in module.tensors for suffix in _INPUT_SCALES)
            ):
                yield Finding(subject.names_file, name, "a scale of its inputs", "none", named)


@rule(
    "S512",
    "unapplied-pre-scale",
    Severity.ERROR,
    "a scale of AWQ that no engine applies under the declared scheme",
    repair="quantize again without AWQ; where every NVFP4 module has the scale, declare NVFP4_AWQ "
    "and serve with SGLang",
    seen=(
        "https://github.com/NVIDIA/Model-Optimizer/issues/1354",
        "https://github.com/sgl-project/sglang/pull/31825",
    ),
)
def unapplied_pre_scale(subject: Subject) -> Iterable[Finding]:
    """`pre_quant_scale` multiplies a module's inputs, and its weights were divided by it to match.

    AWQ moves range from inputs to weights that way. Under `NVFP4` or `FP8` engines have no such
    parameter: SGLang registers one for `NVFP4_AWQ` alone, vLLM never. They stop at the unknown
    tensor or skip it, and then inputs and weights no longer belong together.
    """
    if subject.formats is not None:
        yield from (
            Finding(
                subject.names_file, name, f"{_scheme(subject)} without one", "a scale of inputs"
            )
            for name in subject.tensors
            if name.endswith(".pre_quant_scale")
        )


def _scheme(subject: Subject) -> str:
    named = (subject.declared.get(key) for key in ("quant_algo", "format", "quant_method"))
    return next((name for name in named if isinstance(name, str)), "no scheme")


RULES = (scalar_scales_in_tensorrt, input_scale_unset, unapplied_pre_scale)
