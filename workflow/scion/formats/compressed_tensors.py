"""How compressed-tensors declares NVFP4 and FP8, read and written.

vLLM, SGLang and transformers read `quantization_config` in config.json; there is no second file.
What is written is what the library itself dumps (0.17, `QuantizationConfig`), beside the quantizer,
which readers ignore.

Its `ignore` has names, and regular expressions behind `re:`, where ModelOpt's list has names and
globs. A name becomes a name, which engines rename as they rename tensors. A glob becomes an
expression, which they don't: vLLM matches it against its own names, from the beginning, so that
what a checkpoint calls `model.visual.blocks.0` must be found as `visual.blocks.0` as well.
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/compressed_tensors/utils.py
"""

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from scion.common.errors import ScionError
from scion.formats.modelopt import BLOCK, FP8, NVFP4, W4A16, Declared

METHOD = "compressed-tensors"
_MIXED = "mixed-precision"
_PACKED, _EIGHT_BITS = "nvfp4-pack-quantized", "float-quantized"
_EXPRESSION = "re:"
# What is optional in an engine's name.
_ROOT, _OPTIONAL_ROOT = "model.", r"(model\.)?"
# A module and all below it: a path that may begin anywhere.
_TREE = re.compile(
    rf"\^?((?P<root>{re.escape(_OPTIONAL_ROOT)})|(?P<any>\.\*))?(?P<path>(\w|\\?[.-])+)\.\*\$?"
)


def declaration(
    exclude: Sequence[str],
    *,
    producer: Mapping[str, str],
    algorithms: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The `quantization_config` of config.json; arguments as `scion.formats.modelopt` has them.

    One algorithm is that of all linear modules which are not excluded. Of several, each names its
    modules: SGLang looks for the class of a fused layer before it looks for its parts.
    """
    kinds = list(dict.fromkeys(algorithms.values())) or [NVFP4]
    named = {kind: [m for m, found in algorithms.items() if found == kind] for kind in kinds}
    groups = {
        f"group_{number}": _group(kind, named[kind] if len(kinds) > 1 else ["Linear"])
        for number, kind in enumerate(kinds)
    }
    formats = dict.fromkeys(group["format"] for group in groups.values())
    return {
        "config_groups": groups,
        "quant_method": METHOD,
        "kv_cache_scheme": None,
        "format": next(iter(formats)) if len(formats) == 1 else _MIXED,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "ignore": [_ignored(entry) for entry in exclude],
        "producer": dict(producer),
    }


def read_declaration(
    declared: Mapping[str, Any], plain: Collection[str], *, where: object
) -> Declared:
    """What a `quantization_config` says beside the algorithms, which the tensors tell as well.

    An expression that means a module and all below it becomes a glob; of any other, the modules
    that it excludes are named.

    Args:
        declared: It.
        plain: The modules that are stored as they are.
        where: The file to name in errors.

    Raises:
        ScionError: It is of another format than those that `declaration` writes, or its list holds
            what is no expression.
    """
    groups = (declared.get("config_groups") or {}).values()
    # A group's own, or that of all.
    found = {str(group.get("format") or declared.get("format")) for group in groups}
    unknown = sorted(found - {_PACKED, _EIGHT_BITS})
    if not found or unknown or declared.get("kv_cache_scheme"):
        raise ScionError(
            "the release is not of a format that has another spelling",
            where=f"{where}: quantization_config",
            expected=f"config_groups of {_PACKED} or {_EIGHT_BITS}, and no kv_cache_scheme",
            found="a kv_cache_scheme" if found and not unknown else ", ".join(unknown) or "none",
            hint="scales of a cache, and other formats, are spelled by their own quantizers alone",
        )
    producer = declared.get("producer") or {"name": METHOD, "version": declared.get("version", "")}
    ignore = declared.get("ignore") or []
    try:
        excluded = [name for entry in ignore for name in _excluded(entry, plain)]
    except re.error as error:
        raise ScionError(
            "an entry of the list of excluded modules is no regular expression",
            where=f"{where}: quantization_config.ignore",
            expected=f"names, and expressions behind {_EXPRESSION}",
            found=f"{error.pattern!r}: {error}",
            hint="no engine could load the release either: correct the entry",
        ) from error
    return Declared(list(dict.fromkeys(excluded)), producer)


def _group(algorithm: str, targets: list[str]) -> dict[str, Any]:
    if algorithm == FP8:
        weights = inputs = _numbers(8, strategy="tensor", group_size=None, scale_dtype=None)
    else:
        scale_dtype = "torch.float8_e4m3fn"
        weights = inputs = _numbers(
            4, strategy="tensor_group", group_size=BLOCK, scale_dtype=scale_dtype
        )
    static = {"dynamic": "local" if algorithm == NVFP4 else False, "observer": "static_minmax"}
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": None if algorithm == W4A16 else {**inputs, **static},
        "output_activations": None,
        "format": _EIGHT_BITS if algorithm == FP8 else _PACKED,
    }


def _numbers(
    bits: int, *, strategy: str, group_size: int | None, scale_dtype: str | None
) -> dict[str, Any]:
    """The library's `QuantizationArgs`."""
    return {
        "num_bits": bits,
        "type": "float",
        "symmetric": True,
        "group_size": group_size,
        "strategy": strategy,
        "block_structure": None,
        "dynamic": False,
        "actorder": None,
        "scale_dtype": scale_dtype,
        "zp_dtype": None,
        "observer": "memoryless_minmax",
        "observer_kwargs": {},
    }


def _ignored(entry: str) -> str:
    """An entry of ModelOpt's list as compressed-tensors has it."""
    if "*" not in entry:
        return entry
    root = _OPTIONAL_ROOT if entry.startswith(_ROOT) else ""
    rest = re.escape(entry.removeprefix(_ROOT) if root else entry)
    return f"{_EXPRESSION}{root}{rest.replace(re.escape('*'), '.*')}$"


def _excluded(entry: str, plain: Collection[str]) -> list[str]:
    """The entries of ModelOpt's list that cover what this one covers."""
    if not entry.startswith(_EXPRESSION):
        return [entry]
    expression = re.compile(entry.removeprefix(_EXPRESSION))
    if tree := _TREE.fullmatch(expression.pattern):
        root = _ROOT if tree["root"] else "*" if tree["any"] else ""
        return [root + tree["path"].replace("\\", "") + "*"]
    # As engines match it, which drop the root from some names.
    return [
        name
        for name in plain
        if expression.match(name) or expression.match(name.removeprefix(_ROOT))
    ]
