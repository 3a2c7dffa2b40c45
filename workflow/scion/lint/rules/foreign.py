"""Rules that hold for any method of quantization, those included that lint does not know."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from scion.checkpoint.shards import CONFIG
from scion.engines import facts
from scion.formats.modelopt import HF_QUANT_CONFIG
from scion.lint.formats import method_of
from scion.lint.modules import FLOATS, HEAD
from scion.lint.rule import Finding, Severity, rule
from scion.lint.subject import Subject

# What a model may hold beside its numbers: counters and masks.
_NO_CODES = FLOATS | {"I64", "BOOL"}
# What vLLM quantizes while it loads plain tensors.
# https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/__init__.py
_WHILE_LOADING = ("online", "experts-int8", "mxfp8", "fp8-per-", "int8-per-", "nvfp4-per-")
_PACKED = ".qweight"


@rule(
    "Q412",
    "declared-yet-plain",
    Severity.ERROR,
    "a quantization is declared, and every tensor is plain",
    repair="take the declaration out of config.json, and hf_quant_config.json away, if the plain "
    "weights are meant",
    seen=("https://github.com/unslothai/unsloth/issues/1601",),
)
def declared_yet_plain(subject: Subject) -> Iterable[Finding]:
    """The declaration outlived the codes that it was about.

    Merging an adapter into a quantized model, or saving the model in 16 bits, gives plain tensors;
    tools copy config.json from the quantized one. Whatever the method, engines build its layers and
    look for codes and scales: they stop at the first plain tensor, or read its bytes as codes.
    """
    dtypes = {tensor.dtype for tensor in subject.tensors.values()}
    if _declares_codes(subject.declared) and dtypes and dtypes <= _NO_CODES:
        method = method_of(subject.declared) or "the quantizer"
        place = (CONFIG, "quantization_config") if subject.scheme else (HF_QUANT_CONFIG, None)
        found = f"{len(subject.tensors)} tensors of {', '.join(sorted(dtypes))}"
        yield Finding(*place, f"codes and scales of {method}", found)


def _declares_codes(scheme: Mapping[str, Any]) -> bool:
    """Whether a declaration is about stored weights: not of the KV cache alone, nor for loading."""
    method = method_of(scheme)
    if method == "modelopt":
        return isinstance(scheme.get("quant_algo"), str)
    if method == "compressed-tensors":
        groups = scheme.get("config_groups")
        named = groups.values() if isinstance(groups, dict) else ()
        targets = [_names(group.get("targets")) for group in named if isinstance(group, dict)]
        # What names attention alone is about its cache.
        layers = [name for name in chain.from_iterable(targets) if not name.endswith("Attention")]
        return scheme.get("format") != "dense" and bool(layers)
    return method is not None and not method.startswith(_WHILE_LOADING)


@rule(
    "Q413",
    "listed-modules-differ",
    Severity.ERROR,
    "the modules that are stored quantized are not those that the declaration names",
    repair="name the modules that have a qweight in modules_in_block_to_quantize (GPTQ), all "
    "others in modules_to_not_convert (AWQ)",
    holds_for=f"GPTQ: {facts.GPTQ_LIST_READ}; AWQ: all",
    seen=("https://github.com/vllm-project/vllm/issues/25455",),
)
def listed_modules_differ(subject: Subject) -> Iterable[Finding]:
    """Engines build by the list, and meet the other kind of tensor when they load.

    vLLM builds what `modules_in_block_to_quantize` names (by any part of a module's name) as GPTQ
    and the rest plain, and stops at the `qweight` of a module that it built plain; SGLang reads no
    such list. `modules_to_not_convert` is AWQ's list of what stays plain, read by both. Judged are
    modules that have a `qweight`, and plain ones whose like in other layers has one.
    """
    read = _reading(subject)
    packed = {name.removesuffix(_PACKED) for name in subject.tensors if name.endswith(_PACKED)}
    if read is None or not packed:
        return
    is_named, engines = read
    kinds = {name.rpartition(".")[2] for name in packed}
    for name in sorted(packed - {HEAD}):
        if not is_named(name):
            yield _differs(subject, name, "plain", "stored quantized", engines)
    for name in subject.modules:
        if name not in packed and name.rpartition(".")[2] in kinds and is_named(name):
            yield _differs(subject, name, "quantized", "stored plain", engines)


def _differs(
    subject: Subject, name: str, listed: str, stored: str, engines: tuple[str, ...]
) -> Finding:
    return Finding(subject.names_file, name, f"{listed}, as the declaration says", stored, engines)


def _reading(subject: Subject) -> tuple[Callable[[str], bool], tuple[str, ...]] | None:
    """Whether the declaration's list makes a module quantized, and to which of the engines.

    None where no engine reads a list of this declaration.
    """
    scheme = subject.declared
    method = method_of(scheme)
    if method == "gptq":
        listed = _names(scheme.get("modules_in_block_to_quantize"))
        engines = facts.GPTQ_LIST_READ.among(subject.engines)
        if listed and engines and not scheme.get("dynamic"):
            return lambda name: any(part in name for part in listed), engines
    elif method == "awq":
        kept = _names(scheme.get("modules_to_not_convert"))
        if kept:
            return lambda name: not any(part in name for part in kept), ()
    return None


def _names(value: object) -> list[str]:
    """The strings in a list, or in the lists of a list."""
    items = value if isinstance(value, list) else []
    parts = chain.from_iterable(item if isinstance(item, list) else [item] for item in items)
    return [part for part in parts if isinstance(part, str)]


RULES = (declared_yet_plain, listed_modules_differ)
