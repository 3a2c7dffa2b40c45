"""How vLLM reads a quantization declaration.

config.json's `quantization_config` wins, hf_quant_config.json is read where that is absent, and
what neither names, vLLM takes for an unquantized checkpoint.
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/transformers_utils/model_arch_config_convertor.py
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/modelopt.py
"""

from collections.abc import Mapping
from typing import Any

from scion.checkpoint.shards import CONFIG
from scion.engines.loading.scheme import (
    NotModelled,
    Refused,
    Scheme,
    SchemeProblem,
    groups,
    mapping,
    names,
    recipes,
    weights_only,
)
from scion.engines.releases import EngineRelease, affects
from scion.formats.modelopt import HF_QUANT_CONFIG

MODELOPT = (
    "https://github.com/vllm-project/vllm/blob/v{version}"
    "/vllm/model_executor/layers/quantization/modelopt.py"
)
_FP8_ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")
_REQUIRED = ("group_size", "kv_cache_quant_algo", "exclude_modules")
_MIXED = "modelopt_mixed"


def read(
    release: EngineRelease, config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[Scheme, list[SchemeProblem]]:
    """The scheme, and what vLLM reads otherwise than it is written.

    Raises:
        Refused: vLLM refuses the declaration.
        NotModelled: It is of a method that is not modelled.
    """
    declaration = _declaration(release, config, hf_quant_config)
    if declaration is None:
        return Scheme("none"), []
    where, declared = declaration
    method = _method(release, declared, where)
    if method == "":
        text = f"{release} takes the checkpoint for an unquantized one: {where} has no quant_method"
        return Scheme("none"), [_reinterpreted(release, where, text)]
    if method in ("compressed-tensors", "fp8"):
        return _by_names(release, declared, where, method), []
    if not method.startswith("modelopt"):
        raise NotModelled(method)
    if method == _MIXED and "quantized_layers" not in declared and "quantization" not in declared:
        where, declared = _mixed_file(release, hf_quant_config)
    return _modelopt(release, declared, where, method)


def _declaration(
    release: EngineRelease, config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any]] | None:
    """Where the declaration stands and what it is; None where there is none."""
    text = config.get("text_config")
    text = text if isinstance(text, dict) else {}
    key = "quantization_config"
    places = (
        (f"{CONFIG}: {key}", config.get(key)),
        (HF_QUANT_CONFIG, hf_quant_config),
        (f"{CONFIG}: compression_config", config.get("compression_config")),
        (f"{CONFIG}: text_config.{key}", text.get(key)),
    )
    for where, value in places:
        if value is not None:
            return where, mapping(value, where=where, release=release)
    return None


def _method(release: EngineRelease, declared: Mapping[str, Any], where: str) -> str:
    """The method that vLLM settles on; empty where it finds none."""
    method = declared.get("quant_method", "")
    producer = mapping(declared.get("producer", {}), where=f"{where}.producer", release=release)
    nested = declared.get("quantization", {})
    if producer.get("name") == "modelopt" and declared.get("quantization") is not None:
        nested = mapping(nested, where=f"{where}.quantization", release=release)
        if nested.get("quant_algo") is not None:
            method = _producer_method(release, str(nested["quant_algo"]).upper(), where)
    if not isinstance(method, str):
        raise Refused(
            f"{where}.quant_method", f"{release} fails on a quant_method that is no string"
        )
    method = method.lower().replace("compressed_tensors", "compressed-tensors")
    # Before 0.22.1 only the bare word made vLLM look at the algorithm.
    if method == "modelopt" or (method.startswith("modelopt") and affects("vllm>=0.22.1", release)):
        return _override(nested if nested else declared) or method
    return method


def _producer_method(release: EngineRelease, algorithm: str, where: str) -> str:
    """The method that hf_quant_config.json's nested algorithm stands for."""
    if algorithm in _FP8_ALGORITHMS:
        return "modelopt"
    if algorithm == "NVFP4":
        return "modelopt_fp4"
    if algorithm == "MIXED_PRECISION" and affects("vllm>=0.33", release):
        return _MIXED
    text = f"{release} refuses the nested quant_algo {algorithm}: Unknown ModelOpt quant algo"
    raise Refused(f"{where}.quantization.quant_algo", text)


def _override(declared: object) -> str | None:
    """The ModelOpt reader that an algorithm selects."""
    algorithm = declared.get("quant_algo", "") if isinstance(declared, dict) else ""
    algorithm = str(algorithm).upper()
    if algorithm == "FP8":
        return "modelopt"
    if "FP4" in algorithm:
        return "modelopt_fp4"
    if "MXFP8" in algorithm:
        return "modelopt_mxfp8"
    return _MIXED if algorithm == "MIXED_PRECISION" else None


def _mixed_file(
    release: EngineRelease, hf_quant_config: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any]]:
    """hf_quant_config.json, which mixed precision falls back to."""
    declaration = mapping(hf_quant_config, where=HF_QUANT_CONFIG, release=release)
    producer = declaration.get("producer")
    if not isinstance(producer, dict) or producer.get("name") != "modelopt":
        text = f"{release} needs quantized_layers, and {HF_QUANT_CONFIG} is not by modelopt"
        raise Refused(f"{HF_QUANT_CONFIG}.producer", text)
    return HF_QUANT_CONFIG, declaration


def _by_names(
    release: EngineRelease, declared: Mapping[str, Any], where: str, method: str
) -> Scheme:
    """A compressed-tensors or FP8 declaration."""
    if method == "compressed-tensors":
        ignore = names(declared.get("ignore", []), where=f"{where}.ignore", release=release)
        config_groups = groups(declared, where=f"{where}.config_groups", release=release)
        return Scheme(method, exclude=ignore, groups=config_groups)
    if "activation_scheme" not in declared:
        raise Refused(
            f"{where}.activation_scheme", f"{release} refuses FP8 without activation_scheme"
        )
    key = "ignored_layers" if declared.get("ignored_layers") else "modules_to_not_convert"
    ignore = names(declared.get(key) or [], where=f"{where}.{key}", release=release)
    return Scheme(method, "FP8", ignore)


def _modelopt(
    release: EngineRelease, declared: Mapping[str, Any], where: str, method: str
) -> tuple[Scheme, list[SchemeProblem]]:
    """A ModelOpt declaration, flat as in config.json or nested as in hf_quant_config.json."""
    nested = "quantization" in declared
    inner = declared
    if nested:
        inner = mapping(declared["quantization"], where=f"{where}.quantization", release=release)
    algorithm = _algorithm(release, inner, where, method)
    kv_cache = inner.get("kv_cache_quant_algo") if nested else None
    if kv_cache is not None and not isinstance(kv_cache, str):
        raise Refused(f"{where}.kv_cache_quant_algo", f"{release} wants a string, or null, there")
    _check_group_size(release, inner.get("group_size"), where)
    exclude, problems = _exclusions(release, inner, where, nested=nested)
    missing = [key for key in _REQUIRED if key not in inner]
    if nested and "NVFP4" in algorithm and missing:
        text = f"{release} refuses NVFP4 in {where} without {', '.join(missing)}"
        raise Refused(f"{where}.quantization", text)
    if method == _MIXED:
        layers = recipes(
            inner.get("quantized_layers"), where=f"{where}.quantized_layers", release=release
        )
        return Scheme(_MIXED, exclude=exclude, layers=layers), problems
    if algorithm == "NVFP4" and weights_only(declared) and affects("vllm>=0.29", release):
        text = f"{release} serves it as W4A16: each group's input_activations is null"
        problems.append(_reinterpreted(release, f"{where}.config_groups", text))
        algorithm = "W4A16_NVFP4"
    return Scheme("modelopt", algorithm, exclude), problems


def _algorithm(release: EngineRelease, inner: Mapping[str, Any], where: str, method: str) -> str:
    """The upper-case algorithm, if the reader of that method takes it."""
    algorithm = inner.get("quant_algo")
    if not algorithm:
        raise Refused(f"{where}.quant_algo", f"{release} refuses a declaration without quant_algo")
    algorithm = str(algorithm).upper()
    # W4A16_NVFP4 is known from 0.21.
    fp4 = ("NVFP4", "W4A16_NVFP4") if affects("vllm>=0.21", release) else ("NVFP4",)
    every = (*_FP8_ALGORITHMS, *fp4, "MXFP8", "MIXED_PRECISION")
    taken = {
        "modelopt": _FP8_ALGORITHMS,
        "modelopt_fp4": fp4,
        "modelopt_mxfp8": ("MXFP8",),
        _MIXED: every,
    }.get(method, ())
    if algorithm not in taken:
        raise Refused(f"{where}.quant_algo", f"{release} refuses the quant_algo {algorithm}")
    return algorithm


def _check_group_size(release: EngineRelease, size: object, where: str) -> None:
    try:
        int(size if isinstance(size, (int, float, str)) else "")
    except (ValueError, OverflowError):
        if size is not None:
            raise Refused(
                f"{where}.group_size", f"{release} refuses a group_size that is no number"
            ) from None


def _exclusions(
    release: EngineRelease, inner: Mapping[str, Any], where: str, *, nested: bool
) -> tuple[list[str], list[SchemeProblem]]:
    """The exclusion list, from the key that this spelling and release read it from."""
    key = "exclude_modules" if nested else "ignore"
    if not nested and "ignore" not in inner and "exclude_modules" in inner:
        if affects("vllm<0.33", release):
            place = f"{where}.exclude_modules"
            text = f"{release} reads only `ignore` here and quantizes what exclude_modules names"
            return [], [_reinterpreted(release, place, text)]
        key = "exclude_modules"
    return names(inner.get(key, []), where=f"{where}.{key}", release=release), []


def _reinterpreted(release: EngineRelease, where: str, text: str) -> SchemeProblem:
    source = MODELOPT.format(version=release.version)
    return SchemeProblem(refused=False, where=where, text=text, source=source)
