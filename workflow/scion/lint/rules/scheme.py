"""Rules over scheme and tensors: whether each engine builds what is stored.

`scion.lint.rules.declarations` has those over the declarations alone.
"""

from collections.abc import Iterable

from scion.architectures.families import in_head
from scion.checkpoint.shards import CONFIG
from scion.engines import facts
from scion.lint.formats import method_of
from scion.lint.mismatches import mismatches
from scion.lint.modules import HEAD, NVFP4
from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.subject import Subject

_QUANTIZE = workflow_until("quantize_nvfp4")
_DELTA_NET_INPUTS = (".linear_attn.in_proj_qkv", ".linear_attn.in_proj_z")


@rule(
    "Q401",
    "uninitialised-fused-scale",
    Severity.ERROR,
    "the quantized delta-net input projection reads a scale that is never loaded",
    repair="serve with a later vLLM, or keep in_proj_qkv and in_proj_z in bf16",
    holds_for=str(facts.UNINITIALISED_QKVZ_SCALE),
    seen=(
        "https://github.com/vllm-project/vllm/issues/38197",
        "https://github.com/vllm-project/vllm/issues/35693",
    ),
)
def uninitialised_fused_scale(subject: Subject) -> Iterable[Finding]:
    """In vLLM `in_proj_qkv` and `in_proj_z` are one layer, and one slot of its scale is filled.

    The fused layer has a slot of `weight_scale_2` for each of its parts, q, k, v and z; older
    releases put the scale of `in_proj_qkv` into the first alone and take the maximum over all. The
    others are uninitialised memory: sometimes zero, and then nothing is wrong, sometimes anything,
    and then the output is garbage, differently at each start.
    """
    engines = facts.UNINITIALISED_QKVZ_SCALE.among(subject.engines)
    if engines:
        yield from (
            Finding(subject.names_file, name, "bf16, or a later vLLM", NVFP4, engines)
            for name, module in subject.modules.items()
            if name.endswith(_DELTA_NET_INPUTS[0]) and module.stored == NVFP4
        )


@rule(
    "Q402",
    "partly-quantized-group",
    Severity.ERROR,
    "modules that engines load as one are not of one format",
    repair="quantize the whole group or none of it, and list all of its members or none",
    command=_QUANTIZE,
    seen=("https://github.com/vllm-project/vllm/issues/47241",),
)
def partly_quantized_group(subject: Subject) -> Iterable[Finding]:
    """q, k and v, gate and up, the delta net's qkv and z, its b and a: each group is one layer.

    A fused layer has one format. Where the exclusion list names only some members, vLLM stops with
    "Detected some but not all shards …"; where the list is right for one member and the tensors
    differ, the bytes of one format are read as those of the other.
    """
    groups = subject.inventory.groups if subject.inventory else ()
    for group in groups:
        formats = {name: stored for name in group if (stored := subject.stored(name))}
        if len(set(formats.values())) > 1:
            found = ", ".join(f"{name.rpartition('.')[2]} {is_}" for name, is_ in formats.items())
            yield Finding(subject.names_file, group[0], "one format for the group", found)
    for engine, decisions in subject.decisions.items():
        refused = {
            decision.layer: decision.problem for decision in decisions.values() if decision.problem
        }
        yield from (
            Finding(CONFIG, layer, "all of its members excluded, or none", problem, (str(engine),))
            for layer, problem in refused.items()
        )


@rule(
    "Q403",
    "exclusions-mismatch",
    Severity.ERROR,
    "an engine builds a module in another format than its tensors have",
    repair="name each unquantized module of a fused group in full, and no quantized one; quantize "
    "stacked experts one by one, or exclude them: `*.mlp.experts*`",
    command=_QUANTIZE,
    seen=(
        "https://github.com/vllm-project/vllm/issues/40252",
        "https://github.com/sgl-project/sglang/issues/22287",
        "https://github.com/sgl-project/sglang/issues/20973",
    ),
)
def exclusions_mismatch(subject: Subject) -> Iterable[Finding]:
    """The exclusion list means something else to an engine than to its author.

    vLLM tries an exact name, with fused layers expanded, then a plain substring, then a glob. So
    `*in_proj_a*` beside `*in_proj_b*` misses the fused `in_proj_ba`, `layers.1` takes layers 10 to
    19 too, and `mlp.gate` takes `mlp.gate_up_proj`. What comes of it is a missing parameter at best
    and garbage at worst.
    """
    return mismatches(subject, lambda name: name != HEAD and not in_head(name))


@rule(
    "Q404",
    "head-mismatch",
    Severity.ERROR,
    "lm_head is quantized and excluded, or neither",
    repair="store lm_head as the scheme says: scales if, and only if, it is not excluded",
    command=_QUANTIZE,
    seen=(
        "https://github.com/vllm-project/vllm/issues/44081",
        "https://github.com/vllm-project/vllm/issues/45102",
    ),
)
def head_mismatch(subject: Subject) -> Iterable[Finding]:
    """The head has scale tensors though the list excludes it, or none though it does not.

    Engines that find scales of a layer that they build unquantized stop with "There is no module or
    parameter named 'lm_head.input_scale'"; the other way round they wait for scales that never
    come.
    """
    return mismatches(subject, lambda name: name == HEAD)


@rule(
    "Q408",
    "undeclared-format",
    Severity.ERROR,
    "a tensor is stored in a format that the scheme does not declare",
    repair="declare the scheme that made the tensors, or store them in the declared one",
    command=_QUANTIZE,
)
def undeclared_format(subject: Subject) -> Iterable[Finding]:
    """Weights whose dtype no part of `quantization_config` accounts for.

    Quantized tensors without any `quantization_config` are read as if they were bf16 numbers and
    fail on their shape; `weight_packed` is compressed-tensors' spelling, and ModelOpt's loader does
    not know it, nor the other way round.
    """
    allowed = subject.formats
    if allowed is None:
        return
    compressed = method_of(subject.scheme) == "compressed-tensors"
    for name, module in subject.modules.items():
        stored = module.stored
        if stored is not None and stored not in allowed:
            expected = f"one of {', '.join(sorted(allowed))}"
            yield Finding(subject.names_file, name, expected, f"stored as {stored}")
        elif stored == NVFP4 and compressed != ("weight_packed" in module.tensors):
            expected = "weight_packed" if compressed else "weight"
            yield Finding(subject.names_file, name, expected, ", ".join(module.tensors))


RULES = (
    uninitialised_fused_scale,
    partly_quantized_group,
    exclusions_mismatch,
    head_mismatch,
    undeclared_format,
)
