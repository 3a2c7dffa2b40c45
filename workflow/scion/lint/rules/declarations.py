"""Rules over the quantization declarations: whether engines read them, and read the same."""

from collections.abc import Iterable, Mapping
from typing import Any

from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.subject import Subject
from scion.loaders import facts
from scion.loaders.loading import scheme_problems
from scion.nvfp4_config import HF_QUANT_CONFIG

_QUANTIZE = workflow_until("quantize_nvfp4")


@rule(
    "Q406",
    "declarations-differ",
    Severity.ERROR,
    "config.json and hf_quant_config.json declare different schemes",
    repair="write both from one list",
    command=_QUANTIZE,
    seen=(
        "https://github.com/sgl-project/sglang/issues/27906",
        "https://github.com/vllm-project/vllm/issues/25706",
    ),
)
def declarations_differ(subject: Subject) -> Iterable[Finding]:
    """One checkpoint, two schemes: which one holds depends on the engine.

    vLLM reads `quantization_config` of config.json, and hf_quant_config.json only where that is
    absent; SGLang prefers the first, TensorRT-LLM reads the second. Tools that edit one of the two
    let them drift apart, and the release then works in one engine alone.
    """
    other = subject.hf_quant_config
    quantization = other.get("quantization") if other else None
    if not isinstance(quantization, dict) or subject.scheme.get("quant_method") != "modelopt":
        return
    pairs = (
        (
            "quant_algo",
            upper(subject.scheme.get("quant_algo")),
            upper(quantization.get("quant_algo")),
        ),
        ("group_size", subject.scheme.get("group_size"), quantization.get("group_size")),
        ("kv_cache", _cache(subject.scheme), upper(quantization.get("kv_cache_quant_algo"))),
        ("ignore", _listed(subject.scheme, "ignore"), _listed(quantization, "exclude_modules")),
        (
            "quantized_layers",
            subject.scheme.get("quantized_layers"),
            quantization.get("quantized_layers"),
        ),
    )
    for key, first, second in pairs:
        if first != second:
            yield Finding(HF_QUANT_CONFIG, key, _shown(first, second), _shown(second, first))


def upper(value: object) -> str | None:
    """An algorithm's name in upper case, as engines compare it; None for what is no name."""
    return value.upper() if isinstance(value, str) else None


def _cache(scheme: Mapping[str, Any]) -> str | None:
    """The cache's algorithm as hf_quant_config.json would name it."""
    cache = scheme.get("kv_cache_scheme")
    eight_bits = isinstance(cache, dict) and (cache.get("type"), cache.get("num_bits"))
    return "FP8" if eight_bits == ("float", 8) else None


def _listed(scheme: Mapping[str, Any], key: str) -> set[str] | None:
    names = scheme.get(key, scheme.get("exclude_modules"))
    return {str(name) for name in names} if isinstance(names, list) else None


def _shown(value: object, beside: object) -> str:
    """A value for a reader: of sets and mappings only what the other does not have."""
    if isinstance(value, set | dict) and isinstance(beside, set | dict):
        extra = sorted(map(str, set(value) - set(beside)))
        return f"{len(value)} entries" + (f", alone: {', '.join(extra[:3])}" if extra else "")
    return repr(value)[:200]


@rule(
    "Q407",
    "declaration-refused",
    Severity.ERROR,
    "an engine refuses the quantization declaration",
    repair="write the keys that the engine asks for",
    command=_QUANTIZE,
)
def declaration_refused(subject: Subject) -> Iterable[Finding]:
    """The engine stops while it reads the scheme, before it has looked at a tensor.

    vLLM wants `quant_method` and `quant_algo` in config.json, and `group_size`,
    `kv_cache_quant_algo` and `exclude_modules` below `quantization` in hf_quant_config.json where
    that is all there is; SGLang stops at a group size that contradicts itself.
    """
    yield from _scheme_findings(subject, refused=True)


@rule(
    "Q409",
    "declaration-reinterpreted",
    Severity.WARNING,
    "an engine reads the declaration in another way than it is written",
    repair="declare what was meant: W4A16_NVFP4 for weights alone, or input_activations for W4A4",
    command=_QUANTIZE,
    holds_for=f"weights-only groups: {facts.SERVED_WEIGHT_ONLY}",
)
def declaration_reinterpreted(subject: Subject) -> Iterable[Finding]:
    """The engine starts, and serves something else.

    Newer vLLM serves NVFP4 as weight-only W4A16 where every `config_groups[*].input_activations` is
    null, without a word: numbers measured as W4A4 are then not those of the server.
    """
    yield from _scheme_findings(subject, refused=False)


def _scheme_findings(subject: Subject, *, refused: bool) -> Iterable[Finding]:
    for engine in subject.engines:
        for problem in scheme_problems(engine, subject.config, subject.hf_quant_config):
            if problem.refused is refused:
                file, _, key = problem.where.partition(": ")
                expected = "a declaration that is read as written"
                yield Finding(file, key or None, expected, problem.text, (str(engine),))


RULES = (declarations_differ, declaration_refused, declaration_reinterpreted)
