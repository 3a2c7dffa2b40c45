"""The number formats that a quantization declaration accounts for, in either file's spelling."""

from collections.abc import Mapping
from typing import Any

from scion.lint.modules import FP8, NVFP4, PLAIN

_MODELOPT = {
    "NVFP4": NVFP4,
    "W4A16_NVFP4": NVFP4,
    "FP8": FP8,
    "FP8_PER_CHANNEL_PER_TOKEN": FP8,
    "FP8_PB_WO": FP8,
    "FP8_BLOCK_SCALES": FP8,
}
_COMPRESSED = {"nvfp4-pack-quantized": NVFP4, "float-quantized": FP8, "dense": PLAIN}
_MIXED = "MIXED_PRECISION"
_BLOCK_ALGORITHMS = frozenset(("FP8_PB_WO", "FP8_BLOCK_SCALES"))
_MODELOPT_BLOCK = (128, 128)
# What vLLM and SGLang make of the numbers in `kv_cache_scheme`.
# https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/layers/quantization/modelopt_quant.py
_CACHES = {"float8": "FP8", "float4": "NVFP4", "int8": "INT8"}


def upper(value: object) -> str | None:
    """An algorithm's name in upper case, as engines compare it; None for what is no name."""
    return value.upper() if isinstance(value, str) else None


def method_of(scheme: Mapping[str, Any]) -> str | None:
    """The family of quantizers that wrote a declaration; None where it does not tell."""
    method = scheme.get("quant_method")
    if method is None and "quant_algo" in scheme:
        return "modelopt"
    if not isinstance(method, str):
        return None
    method = method.lower().replace("_", "-")
    return "modelopt" if method.startswith("modelopt") else method


def declared_formats(scheme: Mapping[str, Any]) -> frozenset[str] | None:
    """The formats that tensors may have; None where the scheme is not one that lint knows.

    Args:
        scheme: `quantization_config`, or what hf_quant_config.json has below `quantization`.
    """
    if not scheme:
        return frozenset((PLAIN,))
    match method_of(scheme):
        case "modelopt":
            return _known(_algorithms(scheme), _MODELOPT)
        case "fp8":
            return frozenset((FP8, PLAIN))
        case "compressed-tensors":
            return _known(_named(scheme), _COMPRESSED)
        case _:
            return None


def _known(names: set[str], known: Mapping[str, str]) -> frozenset[str] | None:
    if not names or not names.issubset(known):
        return None
    return frozenset((PLAIN, *(known[name] for name in names)))


def _algorithms(scheme: Mapping[str, Any]) -> set[str]:
    """ModelOpt's algorithms; of mixed precision those of the layers, if they are listed here."""
    algorithm = upper(scheme.get("quant_algo"))
    if algorithm != _MIXED:
        return {algorithm} if algorithm else set()
    layers = scheme.get("quantized_layers")
    entries = layers.values() if isinstance(layers, dict) else ()
    algorithms = {upper(layer.get("quant_algo")) for layer in entries if isinstance(layer, dict)}
    return {name for name in algorithms if name} or {"NVFP4", "FP8"}


def _named(scheme: Mapping[str, Any]) -> set[str]:
    """The formats that compressed-tensors names, for all groups or for each."""
    groups = scheme.get("config_groups")
    formats = (
        [group.get("format") for group in groups.values() if isinstance(group, dict)]
        if isinstance(groups, dict)
        else []
    )
    names = {name for name in (scheme.get("format"), *formats) if isinstance(name, str)}
    return names - {"mixed-precision"}


def fp8_block(scheme: Mapping[str, Any]) -> tuple[int, int] | None:
    """Outputs and inputs that share a scale in block-quantized FP8; None where nothing says so."""
    groups = scheme.get("config_groups")
    declared = groups.values() if isinstance(groups, dict) else ()
    weights = [group.get("weights") for group in declared if isinstance(group, dict)]
    sizes = [part.get("block_structure") for part in weights if isinstance(part, dict)]
    for size in (scheme.get("weight_block_size"), *sizes):
        match size:
            case [int(rows), int(columns)] if rows > 0 and columns > 0:
                return rows, columns
            case _:
                continue
    return _MODELOPT_BLOCK if _algorithms(scheme) & _BLOCK_ALGORITHMS else None


def cache_algorithm(declared: object) -> str | None:
    """The algorithm of the KV cache as hf_quant_config.json names it; None for 16 bits.

    Args:
        declared: `kv_cache_scheme`, which is numbers as compressed-tensors describes them or a
            name, or `kv_cache_quant_algo`, a name.
    """
    if not isinstance(declared, dict):
        return upper(declared)
    kind, bits = declared.get("type"), declared.get("num_bits")
    return _CACHES.get(f"{kind}{bits}", f"{kind} of {bits} bits")


def declared_cache(scheme: Mapping[str, Any]) -> str | None:
    """The algorithm of the KV cache that a declaration asks for, in either file's spelling."""
    keys = ("kv_cache_scheme", "kv_cache_quant_algo")
    return next((named for key in keys if (named := cache_algorithm(scheme.get(key)))), None)


def is_weight_only(scheme: Mapping[str, Any], module: str) -> bool:
    """Whether the scheme leaves a module's inputs alone, so that there is no scale of them."""
    algorithm = upper(_layer_algorithm(scheme, module) or scheme.get("quant_algo"))
    if algorithm is not None and algorithm.startswith("W4A16"):
        return True
    groups = scheme.get("config_groups")
    declared = groups.values() if isinstance(groups, dict) else ()
    four_bits = [group for group in declared if isinstance(group, dict) and _bits(group) != 8]
    return bool(four_bits) and all(group.get("input_activations") is None for group in four_bits)


def is_static_fp8(scheme: Mapping[str, Any], module: str) -> bool:
    """Whether the scheme scales a module's inputs by one number that the checkpoint holds."""
    if method_of(scheme) == "fp8":
        return scheme.get("activation_scheme") == "static"
    algorithm = upper(_layer_algorithm(scheme, module) or scheme.get("quant_algo"))
    return method_of(scheme) == "modelopt" and algorithm == "FP8"


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
