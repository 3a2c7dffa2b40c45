"""How a release declares NVFP4, alone or beside FP8, so that every engine reads the same.

Engines read the scheme from `quantization_config` in config.json, and from hf_quant_config.json
only where that is absent; both are written here from one list, so they can't drift apart. Needs no
torch: the numbers themselves are `scion.formats.nvfp4`'s.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from scion.architectures.families import in_head
from scion.architectures.family import Family
from scion.common.errors import ScionError

BLOCK = 16
NVFP4, FP8 = "NVFP4", "FP8"
W4A16 = "W4A16_NVFP4"
"""NVFP4 of weights alone: the same weights, and activations that stay as they are."""
MIXED = "MIXED_PRECISION"
SUFFIXES = ("weight", "weight_scale", "weight_scale_2", "input_scale")
HF_QUANT_CONFIG = "hf_quant_config.json"


@dataclass(frozen=True)
class Declared:
    """What a declaration says beside the algorithms of modules.

    Attributes:
        exclude: The modules that stay as they are, as `declared_exclusions` names them.
        producer: `name` and `version` of the quantizer.
    """

    exclude: list[str]
    producer: Mapping[str, str]


def declared_exclusions(family: Family, kept: Iterable[str]) -> list[str]:
    """The exclusion list of a quantized language model, in a form that vLLM and SGLang match alike.

    vLLM tries an exact name with its fused layers expanded, then a substring, then `fnmatch`, so
    each module is named in full: `*in_proj_a*` beside `*in_proj_b*` would miss the fused
    `in_proj_ba`, and `layers.1` would also take layers 10 to 19. `mtp*` covers `mtp.fc`, which
    `mtp.layers.0*` misses (https://github.com/vllm-project/vllm/issues/38650); it is listed whether
    there is a head yet or not. So is `lm_head`: where it is the embeddings and has no tensor of its
    own, vLLM builds one all the same, quantized unless it is named here, and stops.

    Args:
        family: The row of the checkpoint's architecture.
        kept: Full names of the decoder layers' modules that stay unquantized.
    """
    return ["lm_head", family.embedding, *kept, *([family.head.pattern] if family.head else [])]


def quantization_config(
    exclude: list[str],
    *,
    producer: Mapping[str, str],
    algorithms: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The `quantization_config` of config.json.

    Where all modules have one algorithm it is named once. Mixed precision names every module:
    vLLM and SGLang build what `quantized_layers` does not name unquantized, whatever is excluded.
    A release whose MTP head is quantized declares it even if all are NVFP4: SGLang builds a head in
    bf16 unless it is named there.

    Args:
        exclude: The list that `declared_exclusions` gives.
        producer: `name` and `version` of the quantizer.
        algorithms: That of each quantized module; may be left out where all are NVFP4.
    """
    mixed = FP8 in algorithms.values() or any(map(in_head, algorithms))
    alone = next(iter(algorithms.values()), NVFP4)
    groups = {
        f"group_{number}": {
            **({} if algorithm == W4A16 else {"input_activations": _numbers(algorithm)}),
            "weights": _numbers(algorithm),
            "targets": [module for module, stored in algorithms.items() if stored == algorithm]
            if mixed
            else ["Linear"],
        }
        for number, algorithm in enumerate(dict.fromkeys(algorithms.values()) or (NVFP4,))
    }
    declared: dict[str, Any] = {
        "quant_method": "modelopt",
        "quant_algo": MIXED if mixed else alone,
        "group_size": BLOCK,
        "config_groups": groups,
        "ignore": exclude,
        "producer": dict(producer),
    }
    if mixed:
        declared["quantized_layers"] = {
            module: _LAYER[algorithm] for module, algorithm in algorithms.items()
        }
        # SGLang takes a mixed declaration for a whole one only if it speaks of the cache, too.
        declared["kv_cache_scheme"] = None
    return declared


def read_declaration(
    declared: Mapping[str, Any], plain: Collection[str], *, where: object
) -> Declared:
    """What a `quantization_config` says beside the algorithms, which the tensors tell as well.

    A name that is only a part of others, such as a layer's, excludes these in vLLM: they are named.

    Args:
        declared: It.
        plain: The modules that are stored as they are.
        where: The file to name in errors.

    Raises:
        ScionError: It is of an algorithm that `quantization_config` does not write.
    """
    layers = declared.get("quantized_layers") or {}
    entries = (declared, *layers.values())
    named = {str(entry.get("quant_algo")) for entry in entries}
    unknown = sorted(named - {NVFP4, W4A16, FP8, MIXED})
    if unknown or named == {FP8} or declared.get("kv_cache_scheme"):
        raise ScionError(
            "the release is not of a format that has another spelling",
            where=f"{where}: quantization_config",
            expected=f"quant_algo {NVFP4}, {W4A16} or {MIXED} of these and {FP8}, and no "
            "kv_cache_scheme",
            found=", ".join(unknown) or (FP8 if named == {FP8} else "a kv_cache_scheme"),
            hint="scales of a cache, and other formats, are spelled by their own quantizers alone",
        )
    excluded = [name for entry in declared.get("ignore") or [] for name in _excluded(entry, plain)]
    return Declared(list(dict.fromkeys(excluded)), declared.get("producer") or _UNKNOWN)


def _excluded(entry: str, plain: Collection[str]) -> list[str]:
    """What an entry covers: itself, or where it is no module, those that it is a part of."""
    below = [] if "*" in entry or entry in plain else [name for name in plain if entry in name]
    return below or [entry]


# Readers of hf_quant_config.json want its name.
_UNKNOWN = {"name": "modelopt", "version": "unknown"}
_LAYER: dict[str, dict[str, Any]] = {
    NVFP4: {"quant_algo": NVFP4, "group_size": BLOCK},
    W4A16: {"quant_algo": W4A16, "group_size": BLOCK},
    FP8: {"quant_algo": FP8},
}


def _numbers(algorithm: str) -> dict[str, Any]:
    """How compressed-tensors, whose words ModelOpt uses here, describes numbers."""
    if algorithm == FP8:
        return {"dynamic": False, "num_bits": 8, "type": "float"}
    return {"dynamic": False, "num_bits": 4, "type": "float", "group_size": BLOCK}


def hf_quant_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of hf_quant_config.json that says the same as a `quantization_config`."""
    layers = {key: config[key] for key in ("quantized_layers",) if key in config}
    return {
        "producer": config["producer"],
        "quantization": {
            "quant_algo": config["quant_algo"],
            "kv_cache_quant_algo": None,
            "group_size": config["group_size"],
            "exclude_modules": config["ignore"],
            **layers,
        },
    }
