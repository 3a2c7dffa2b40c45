"""Rules over scales that an engine misses, leaves aside or can't read."""

from collections.abc import Iterable

from scion.architectures.stacks import EXPERTS
from scion.engines import facts
from scion.engines.releases import EngineRelease
from scion.lint.formats import is_static_fp8, is_weight_only
from scion.lint.modules import NVFP4, Module
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
    repair="calibrate the inputs; or, of NVFP4, declare W4A16_NVFP4, which vLLM knows from 0.21 "
    "on, or serve with vLLM 0.29 or later",
    holds_for=f"NVFP4: {facts.NVFP4_INPUT_SCALE_UNSET}, where it builds W4A4; "
    f"FP8: {', '.join(map(str, facts.FP8_INPUT_SCALE_UNSET))}",
    seen=(
        "https://github.com/vllm-project/vllm/issues/54189",
        "https://github.com/vllm-project/vllm/pull/54427",
        "https://github.com/vllm-project/vllm/issues/45212",
    ),
)
def input_scale_unset(subject: Subject) -> Iterable[Finding]:
    """An engine registers a parameter for the scale, and no tensor fills it.

    `quant_algo: NVFP4` is W4A4 to vLLM before 0.29, even where every group's `input_activations` is
    null. The parameter is then memory as it was allocated, and nothing looks whether it was filled.
    A mixture of experts multiplies its weights' scales by it: where the memory holds zeros, every
    expert is silent, and the model repeats one token. From 0.29 on such a declaration is served as
    W4A16, which reads no scale of inputs. In static FP8 both engines mark an unset scale by the
    smallest float32 number, and linear layers divide by that.
    """
    for engine, decisions in subject.decisions.items():
        for name, decision in decisions.items():
            module = subject.judged_modules.get(name)
            if module is None or any(suffix in module.tensors for suffix in _INPUT_SCALES):
                continue
            if decision.algorithm == module.stored and _reads_inputs(subject, engine, module):
                engines = (str(engine),)
                yield Finding(subject.names_file, name, "a scale of its inputs", "none", engines)


def _reads_inputs(subject: Subject, engine: EngineRelease, module: Module) -> bool:
    """Whether an engine that builds a module as it is stored takes an unset scale of its inputs.

    A missing scale of NVFP4 whose inputs are declared is another rule's, whatever the engine.
    """
    if module.stored == NVFP4:
        unset = facts.NVFP4_INPUT_SCALE_UNSET.holds_for(engine)
        return unset and is_weight_only(subject.declared, module.name)
    unset = any(fact.holds_for(engine) for fact in facts.FP8_INPUT_SCALE_UNSET)
    return unset and EXPERTS not in module.name and is_static_fp8(subject.declared, module.name)


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
