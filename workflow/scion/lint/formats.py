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
