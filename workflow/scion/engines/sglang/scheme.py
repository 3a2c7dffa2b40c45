"""How SGLang 0.5.23 reads a quantization declaration.

https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/configs/model_config.py
https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/layers/quantization/modelopt_quant.py
"""

from collections.abc import Iterator, Mapping
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
from scion.engines.releases import EngineRelease
from scion.formats.modelopt import HF_QUANT_CONFIG

MODELOPT = (
    "https://github.com/sgl-project/sglang/blob/v0.5.23"
    "/python/sglang/srt/layers/quantization/modelopt_quant.py"
)
MODEL_CONFIG = (
    "https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/configs/model_config.py"
)
_FP4_ALGORITHMS = ("NVFP4", "NVFP4_AWQ", "W4A16_NVFP4")
# Methods that config.json may name in SGLang's own words, and the algorithms that they take.
_OWN_METHODS = {
    "modelopt_fp4": _FP4_ALGORITHMS,
    "modelopt_fp8": ("FP8",),
    "modelopt_mixed": ("MIXED_PRECISION",),
}


def read(
    release: EngineRelease, config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[Scheme, list[SchemeProblem]]:
    """The scheme, and what SGLang reads otherwise than it is written.

    Raises:
        Refused: SGLang refuses the declaration.
        NotModelled: It is of a method that is not modelled.
    """
    where = f"{CONFIG}: quantization_config"
    declared = config.get("quantization_config")
    if declared is None:
        where, declared = f"{CONFIG}: compression_config", config.get("compression_config")
    if declared is None:
        where, declared = HF_QUANT_CONFIG, hf_quant_config
    if declared is None:
        return Scheme("none"), []
    declaration = mapping(declared, where=where, release=release)
    method = declaration.get("quant_method")
    if where == HF_QUANT_CONFIG or method in (None, "modelopt"):
        return _modelopt(release, declaration, where, hf_quant_config)
    if not isinstance(method, str):
        raise Refused(
            f"{where}.quant_method", f"{release} fails on a quant_method that is no string"
        )
    if not isinstance(declaration.get("quant_algo", ""), str):
        raise Refused(f"{where}.quant_algo", f"{release} fails on a quant_algo that is no string")
    method = method.lower()
    if method == "modelopt_mixed" and not _complete(declaration):
        return _mixed_file(release, hf_quant_config)
    if method in _OWN_METHODS:
        return _modelopt(release, declaration, where, hf_quant_config, _OWN_METHODS[method])
    method = method.replace("_", "-")
    if method == "compressed-tensors":
        ignore = names(declaration.get("ignore", []), where=f"{where}.ignore", release=release)
        return Scheme(
            method,
            exclude=ignore,
            groups=groups(declaration, where=f"{where}.config_groups", release=release),
        ), []
    if method == "fp8":
        return _fp8(release, declaration, where), []
    raise NotModelled(method)


def _modelopt(
    release: EngineRelease,
    declared: Mapping[str, Any],
    where: str,
    hf_quant_config: Mapping[str, Any] | None,
    taken: tuple[str, ...] | None = None,
) -> tuple[Scheme, list[SchemeProblem]]:
    """A ModelOpt declaration.

    In config.json only the algorithm may be nested, unless the method is one of SGLang's own, which
    takes some algorithms only: it is then read as hf_quant_config.json is.
    """
    file = where == HF_QUANT_CONFIG
    inside = declared.get("quantization")
    if not isinstance(inside, dict):
        inside = {} if file and "quantization" in declared else declared
    algorithm = inside.get("quant_algo")
    if file and not _is_known(algorithm):
        text = f"{release} knows no quant_algo {algorithm!r} and builds the checkpoint unquantized"
        place = f"{where}.quant_algo"
        return Scheme("none"), [SchemeProblem(False, place, text, MODEL_CONFIG)]
    if not isinstance(algorithm, str):
        raise Refused(f"{where}.quant_algo", f"{release} finds no quant_algo")
    if taken is not None and algorithm not in taken:
        if algorithm == "FP8" and taken is _FP4_ALGORITHMS:
            raise NotModelled("FP8 to be quantized anew")
        raise Refused(f"{where}.quant_algo", f"{release} refuses the quant_algo {algorithm!r}")
    nested = (file or taken is not None) and declared.get("quant_algo") is None
    keys = inside if nested else declared
    if algorithm == "MXFP8":
        raise NotModelled(algorithm)
    if algorithm == "MIXED_PRECISION":
        if taken is None:
            _check_any_nvfp4(release, inside, where)
        if not file and not _complete(declared):
            return _mixed_file(release, hf_quant_config)
        return _mixed(release, keys, where, nested=nested), []
    if algorithm not in ("FP8", *_FP4_ALGORITHMS):
        raise Refused(f"{where}.quant_algo", f"{release} refuses the quant_algo {algorithm!r}")
    if file and algorithm != "FP8" and str(declared.get("quant_method", "")).lower() == "fp8":
        raise Refused(f"{where}.quant_method", f"{release} reads {where} as FP8 to quantize anew")
    if nested and algorithm != "FP8":
        _check_group_sizes(release, declared, where)
    if not nested and algorithm != "FP8" and declared.get("group_size") is None:
        _check_first_group(release, declared, where)
    exclude = _exclusions(release, keys, where, nested=nested, fp8=algorithm == "FP8")
    scheme = Scheme("modelopt", algorithm, exclude)
    problems: list[SchemeProblem] = []
    if algorithm == "NVFP4" and weights_only(declared):
        text = f"{release} serves it as W4A4, with 1 for each input scale that is not there"
        problems.append(SchemeProblem(False, f"{where}.config_groups", text, MODELOPT))
    if keys is not inside and inside.get("exclude_modules"):
        place = f"{where}.quantization.exclude_modules"
        text = f"{release} ignores {place} and quantizes what it names"
        problems.append(SchemeProblem(False, place, text, MODELOPT))
    return scheme, problems


def _is_known(algorithm: object) -> bool:
    """Whether SGLang takes hf_quant_config.json for a declaration; it fails on a number."""
    if isinstance(algorithm, str):
        return algorithm in ("FP8", "MXFP8", "MIXED_PRECISION") or "FP4" in algorithm
    return isinstance(algorithm, (int, float)) and bool(algorithm)


def _mixed_file(
    release: EngineRelease, hf_quant_config: Mapping[str, Any] | None
) -> tuple[Scheme, list[SchemeProblem]]:
    """hf_quant_config.json, which an incomplete mixed declaration falls back to."""
    where = HF_QUANT_CONFIG
    declaration = mapping(hf_quant_config, where=where, release=release)
    producer = mapping(declaration.get("producer", {}), where=f"{where}.producer", release=release)
    inner = declaration.get("quantization")
    inside = inner if isinstance(inner, dict) else declaration
    algorithm = inside.get("quant_algo")
    if not isinstance(algorithm, str):
        raise Refused(f"{where}.quant_algo", f"{release} finds no quant_algo")
    # Of ModelOpt's own file it takes any algorithm, of another one none but mixed precision.
    by_modelopt = str(producer.get("name", "")).startswith("modelopt")
    if by_modelopt and (algorithm == "FP8" or "FP4" in algorithm):
        return _modelopt(release, declaration, where, None)
    if algorithm != "MIXED_PRECISION":
        raise Refused(f"{where}.quant_algo", f"{release} refuses the quant_algo {algorithm!r}")
    nested = declaration.get("quant_algo") is None
    return _mixed(release, inside if nested else declaration, where, nested=nested), []


def _complete(declared: Mapping[str, Any]) -> bool:
    """Whether config.json says all of a mixed declaration; else the other file is read instead."""
    kv_cache = "kv_cache_quant_algo" in declared or "kv_cache_scheme" in declared
    return "quantized_layers" in declared and kv_cache


def _exclusions(
    release: EngineRelease, inner: Mapping[str, Any], where: str, *, nested: bool, fp8: bool
) -> list[str]:
    """The exclusion list; FP8 may go without, NVFP4 may not have null."""
    keys = ("exclude_modules",) if nested else ("ignore",)
    if not nested and not fp8:
        keys = ("ignore", "modules_to_not_convert", "exclude_modules")
    key = next((key for key in keys if key in inner), keys[-1])
    value = inner.get(key, [])
    # Anything that is empty is no list to SGLang, but NVFP4 may not have null.
    if not value and (fp8 or value is not None):
        return []
    return names(value, where=f"{where}.{key}", release=release)


def _check_any_nvfp4(release: EngineRelease, inner: Mapping[str, Any], where: str) -> None:
    """SGLang takes a mixed declaration for W4A8 where no layer is NVFP4."""
    layers = inner.get("quantized_layers")
    recipes_ = layers.values() if isinstance(layers, dict) else ()
    named = [
        str(recipe.get("quant_algo", "")).upper() for recipe in recipes_ if isinstance(recipe, dict)
    ]
    if not any(algorithm in ("NVFP4", "W4A16_NVFP4") for algorithm in named):
        text = f"{release} reads mixed precision without an NVFP4 layer as W4A8 (w4afp8)"
        raise Refused(f"{where}.quantized_layers", text)


def _mixed(release: EngineRelease, inner: Mapping[str, Any], where: str, *, nested: bool) -> Scheme:
    """A mixed-precision declaration."""
    layers = recipes(
        inner.get("quantized_layers"), where=f"{where}.quantized_layers", release=release
    )
    keys = ("exclude_modules",) if nested else ("ignore", "exclude_modules")
    key = next((key for key in keys if key in inner), keys[-1])
    exclude = names(inner.get(key) or [], where=f"{where}.{key}", release=release)
    return Scheme("modelopt_mixed", exclude=exclude, layers=layers)


def _fp8(release: EngineRelease, declared: Mapping[str, Any], where: str) -> Scheme:
    """An FP8 declaration; each name counts with and without `model.` in front."""
    if "activation_scheme" not in declared:
        raise Refused(
            f"{where}.activation_scheme", f"{release} refuses FP8 without activation_scheme"
        )
    key = "ignored_layers" if "ignored_layers" in declared else "modules_to_not_convert"
    listed = names(declared.get(key) or [], where=f"{where}.{key}", release=release)
    bare = (name.removeprefix("model.") for name in listed)
    return Scheme("fp8", "FP8", [form for name in bare for form in (name, f"model.{name}")])


def _check_first_group(release: EngineRelease, declared: Mapping[str, Any], where: str) -> None:
    """Where there is no group_size, SGLang looks for it in the first group's weights."""
    place = f"{where}.config_groups"
    if declared.get("config_groups"):
        config_groups = mapping(declared["config_groups"], where=place, release=release)
        first = mapping(next(iter(config_groups.values())), where=place, release=release)
        mapping(first.get("weights", {}), where=f"{place}.weights", release=release)


def _check_group_sizes(release: EngineRelease, declared: Mapping[str, Any], where: str) -> None:
    """SGLang wants one group size, the same wherever a nested declaration names it."""
    sizes = {size for size in _group_sizes(declared) if isinstance(size, int)}
    if len(sizes) != 1:
        text = f"{release} needs one group_size; {where} has {sorted(sizes) or 'none'}"
        raise Refused(f"{where}.group_size", text)


def _group_sizes(declared: Mapping[str, Any]) -> Iterator[object]:
    yield declared.get("group_size")
    inner = declared.get("quantization")
    if isinstance(inner, dict):
        yield inner.get("group_size")
    config_groups = declared.get("config_groups")
    for group in config_groups.values() if isinstance(config_groups, dict) else ():
        if isinstance(group, dict):
            yield group.get("group_size")
            yield from (part.get("group_size") for part in group.values() if isinstance(part, dict))
