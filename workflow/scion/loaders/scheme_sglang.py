"""How SGLang 0.5.23 reads a quantization declaration.

https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/configs/model_config.py
https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/layers/quantization/modelopt_quant.py
"""

from collections.abc import Iterator, Mapping
from typing import Any

from scion.loaders.releases import Engine
from scion.loaders.scheme import (
    CONFIG,
    HF_QUANT_CONFIG,
    Refused,
    Scheme,
    SchemeProblem,
    groups,
    mapping,
    names,
    recipes,
)

MODELOPT = (
    "https://github.com/sgl-project/sglang/blob/v0.5.23"
    "/python/sglang/srt/layers/quantization/modelopt_quant.py"
)
_FP4_ALGORITHMS = ("NVFP4", "NVFP4_AWQ", "W4A16_NVFP4")


def read(
    engine: Engine, config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[Scheme, list[SchemeProblem]]:
    """The scheme, and what SGLang reads otherwise than it is written.

    Raises:
        Refused: SGLang refuses the declaration.
    """
    where = f"{CONFIG}: quantization_config"
    declared = config.get("quantization_config")
    if declared is None:
        where, declared = f"{CONFIG}: compression_config", config.get("compression_config")
    if declared is None:
        where, declared = HF_QUANT_CONFIG, hf_quant_config
    if declared is None:
        return Scheme("none"), []
    found = mapping(declared, where=where, engine=engine)
    method = found.get("quant_method")
    if where == HF_QUANT_CONFIG or method in (None, "modelopt"):
        return _modelopt(engine, found, where, hf_quant_config)
    if not isinstance(method, str):
        raise Refused(
            f"{where}.quant_method", f"{engine} fails on a quant_method that is no string"
        )
    method = method.lower().replace("_", "-")
    if method in ("modelopt-fp4", "modelopt-fp8", "modelopt-mixed"):
        return _modelopt(engine, found, where, hf_quant_config)
    if method == "compressed-tensors":
        ignore = names(found.get("ignore", []), where=f"{where}.ignore", engine=engine)
        return Scheme(
            method,
            exclude=ignore,
            groups=groups(found, where=f"{where}.config_groups", engine=engine),
        ), []
    if method == "fp8":
        return _fp8(engine, found, where), []
    raise Refused(f"{where}.quant_method", f"the method {method!r} of {engine} is not modelled")


def _modelopt(
    engine: Engine,
    declared: Mapping[str, Any],
    where: str,
    hf_quant_config: Mapping[str, Any] | None,
) -> tuple[Scheme, list[SchemeProblem]]:
    """A ModelOpt declaration; in config.json only the algorithm may be nested."""
    inner = declared.get("quantization")
    inside = inner if isinstance(inner, dict) else declared
    algorithm = inside.get("quant_algo")
    if not isinstance(algorithm, str):
        raise Refused(f"{where}.quant_algo", f"{engine} finds no quant_algo")
    nested = where == HF_QUANT_CONFIG and declared.get("quant_algo") is None
    keys = inside if nested else declared
    if algorithm == "MIXED_PRECISION":
        _check_any_nvfp4(engine, inside, where)
        if where != HF_QUANT_CONFIG and not _complete(declared):
            return _modelopt(
                engine,
                mapping(hf_quant_config, where=HF_QUANT_CONFIG, engine=engine),
                HF_QUANT_CONFIG,
                None,
            )
        return _mixed(engine, keys, where, nested=nested), []
    if algorithm not in ("FP8", *_FP4_ALGORITHMS):
        raise Refused(f"{where}.quant_algo", f"{engine} refuses the quant_algo {algorithm!r}")
    if nested and algorithm != "FP8":
        _check_group_sizes(engine, declared, where)
    if not nested and algorithm != "FP8" and declared.get("group_size") is None:
        _check_first_group(engine, declared, where)
    exclude = _exclusions(engine, keys, where, nested=nested, fp8=algorithm == "FP8")
    scheme = Scheme("modelopt", algorithm, exclude)
    if keys is inside or not inside.get("exclude_modules"):
        return scheme, []
    place = f"{where}.quantization.exclude_modules"
    text = f"{engine} ignores {place} and quantizes what it names"
    return scheme, [SchemeProblem(refused=False, where=place, text=text, source=MODELOPT)]


def _complete(declared: Mapping[str, Any]) -> bool:
    """Whether config.json says all of a mixed declaration; else the other file is read instead."""
    kv_cache = "kv_cache_quant_algo" in declared or "kv_cache_scheme" in declared
    return "quantized_layers" in declared and kv_cache


def _exclusions(
    engine: Engine, inner: Mapping[str, Any], where: str, *, nested: bool, fp8: bool
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
    return names(value, where=f"{where}.{key}", engine=engine)


def _check_any_nvfp4(engine: Engine, inner: Mapping[str, Any], where: str) -> None:
    """SGLang takes a mixed declaration for W4A8 where no layer is NVFP4."""
    layers = inner.get("quantized_layers")
    recipes_ = layers.values() if isinstance(layers, dict) else ()
    named = [str(one.get("quant_algo", "")).upper() for one in recipes_ if isinstance(one, dict)]
    if not any(algorithm in ("NVFP4", "W4A16_NVFP4") for algorithm in named):
        text = f"{engine} reads mixed precision without an NVFP4 layer as W4A8 (w4afp8)"
        raise Refused(f"{where}.quantized_layers", text)


def _mixed(engine: Engine, inner: Mapping[str, Any], where: str, *, nested: bool) -> Scheme:
    """A mixed-precision declaration."""
    layers = recipes(
        inner.get("quantized_layers"), where=f"{where}.quantized_layers", engine=engine
    )
    keys = ("exclude_modules",) if nested else ("ignore", "exclude_modules")
    key = next((key for key in keys if key in inner), keys[-1])
    exclude = names(inner.get(key) or [], where=f"{where}.{key}", engine=engine)
    return Scheme("modelopt_mixed", exclude=exclude, layers=layers)


def _fp8(engine: Engine, declared: Mapping[str, Any], where: str) -> Scheme:
    """An FP8 declaration; each name counts with and without `model.` in front."""
    if "activation_scheme" not in declared:
        raise Refused(
            f"{where}.activation_scheme", f"{engine} refuses FP8 without activation_scheme"
        )
    key = "ignored_layers" if "ignored_layers" in declared else "modules_to_not_convert"
    listed = names(declared.get(key) or [], where=f"{where}.{key}", engine=engine)
    bare = (name.removeprefix("model.") for name in listed)
    return Scheme("fp8", "FP8", [form for name in bare for form in (name, f"model.{name}")])


def _check_first_group(engine: Engine, declared: Mapping[str, Any], where: str) -> None:
    """Where there is no group_size, SGLang looks for it in the first group's weights."""
    place = f"{where}.config_groups"
    if declared.get("config_groups"):
        found = mapping(declared["config_groups"], where=place, engine=engine)
        first = mapping(next(iter(found.values())), where=place, engine=engine)
        mapping(first.get("weights", {}), where=f"{place}.weights", engine=engine)


def _check_group_sizes(engine: Engine, declared: Mapping[str, Any], where: str) -> None:
    """SGLang wants one group size, the same wherever a nested declaration names it."""
    sizes = {size for size in _group_sizes(declared) if isinstance(size, int)}
    if len(sizes) != 1:
        text = f"{engine} needs one group_size; {where} has {sorted(sizes) or 'none'}"
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
