"""Rules over the quantization declarations: whether engines read them, and read the same."""

from collections.abc import Iterable, Mapping
from typing import Any

from scion.engines import facts
from scion.engines.registry.decisions import scheme_problems
from scion.formats.modelopt import HF_QUANT_CONFIG
from scion.lint.formats import declared_cache, method_of, upper
from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.subject import Subject

_QUANTIZE = workflow_until("quantize_nvfp4")
_ALIASES = {"FP8_BLOCK_SCALES": "FP8_PB_WO"}


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
    let them drift apart, and the release then works in one engine alone. What one file leaves out
    and the other states is no difference where engines fill the gap alike: ModelOpt writes the
    group size of config.json into its groups, and of an empty list null.
    """
    scheme, other = subject.scheme, _other(subject)
    if other is None:
        return
    pairs: list[tuple[str, object, object]] = [
        ("quant_algo", upper(scheme.get("quant_algo")), upper(other.get("quant_algo"))),
        ("ignore", _listed(scheme, "ignore"), _listed(other, "exclude_modules")),
    ]
    optional = (("group_size", _group_size), ("quantized_layers", _layers))
    for key, read in optional:
        if read(scheme) is not None and read(other) is not None:
            pairs.append((key, read(scheme), read(other)))
    yield from _differences(pairs)


def _other(subject: Subject) -> Mapping[str, Any] | None:
    """What hf_quant_config.json declares, where config.json has a declaration of ModelOpt's too."""
    declared = subject.hf_quant_config
    other = declared.get("quantization") if declared else None
    both = isinstance(other, dict) and method_of(subject.scheme) == "modelopt"
    return other if both else None


def _differences(pairs: Iterable[tuple[str, object, object]]) -> Iterable[Finding]:
    for key, first, second in pairs:
        if first != second:
            yield Finding(HF_QUANT_CONFIG, key, _shown(first, second), _shown(second, first))


@rule(
    "Q410",
    "cache-declarations-differ",
    Severity.WARNING,
    "config.json and hf_quant_config.json declare different KV caches",
    repair="write both from one list, or serve with --kv-cache-dtype, which overrules both",
    command=_QUANTIZE,
    seen=(
        "https://github.com/sgl-project/sglang/pull/27906",
        "https://github.com/noonghunna/club-3090/pull/607",
    ),
)
def cache_declarations_differ(subject: Subject) -> Iterable[Finding]:
    """One engine serves an FP8 cache, the next one of 16 bits, which holds half the tokens.

    Engines take the cache's type from the file that they take the scheme from: vLLM from
    config.json's `kv_cache_scheme`, TensorRT-LLM from hf_quant_config.json's
    `kv_cache_quant_algo`, SGLang from the second where the first is incomplete. ModelOpt spells an
    FP8 cache as numbers in the first file and every other one by its name; four bits of floating
    point are NVFP4 to both engines.
    """
    other = _other(subject)
    if other is not None:
        caches = declared_cache(subject.scheme), declared_cache(other)
        yield from _differences([("kv_cache", *caches)])


def _listed(scheme: Mapping[str, Any], key: str) -> set[str]:
    names = scheme.get(key, scheme.get("exclude_modules"))
    return {str(name) for name in names} if isinstance(names, list) else set()


def _group_size(scheme: Mapping[str, Any]) -> object:
    """The group size, or that of the first group; None where none is stated."""
    groups = scheme.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    stated = scheme.get("group_size")
    return (
        stated if stated is not None or not isinstance(weights, dict) else weights.get("group_size")
    )


def _layers(scheme: Mapping[str, Any]) -> dict[str, str | None] | None:
    """The algorithm by layer of a mixed declaration; the two files have two names for one."""
    layers = scheme.get("quantized_layers")
    if not isinstance(layers, dict):
        return None
    algorithms = {
        str(name): upper(entry.get("quant_algo")) if isinstance(entry, dict) else None
        for name, entry in layers.items()
    }
    return {
        name: _ALIASES.get(algorithm, algorithm) if algorithm else None
        for name, algorithm in algorithms.items()
    }


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
    repair="write the keys that the engine asks for; where it does not know the algorithm, serve "
    "with an engine that does, or quantize again",
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
    repair="declare what was meant, under the keys that this engine reads: W4A16_NVFP4 for weights "
    "alone, or input_activations for W4A4",
    command=_QUANTIZE,
    holds_for=f"weights-only groups: {facts.SERVED_WEIGHT_ONLY}, sglang",
)
def declaration_reinterpreted(subject: Subject) -> Iterable[Finding]:
    """The engine starts, and serves something else.

    Newer vLLM serves NVFP4 as weight-only W4A16 where every `config_groups[*].input_activations` is
    null, without a word: numbers measured as W4A4 are then not those of the server. SGLang serves
    the same declaration as W4A4, by a scale of 1 where the inputs have none.
    """
    yield from _scheme_findings(subject, refused=False)


def _scheme_findings(subject: Subject, *, refused: bool) -> Iterable[Finding]:
    for engine in subject.engines:
        for problem in scheme_problems(engine, subject.config, subject.hf_quant_config):
            if problem.refused is refused:
                file, key = _place(problem.where)
                expected = "a declaration that is read as written"
                found = problem.text.removeprefix(f"{engine} ")
                yield Finding(file, key or None, expected, found, (str(engine),))


def _place(where: str) -> tuple[str, str]:
    """File and key: `config.json: quantization_config`, `hf_quant_config.json.quantization`."""
    if where.startswith(HF_QUANT_CONFIG):
        return HF_QUANT_CONFIG, where.removeprefix(HF_QUANT_CONFIG).lstrip(".")
    file, _, key = where.partition(": ")
    return file, key


RULES = (
    declarations_differ,
    cache_declarations_differ,
    declaration_refused,
    declaration_reinterpreted,
)
