"""How TensorRT-LLM reads a ModelOpt declaration: hf_quant_config.json first, then config.json.

Read off its sources, never compared with a running one.
https://github.com/NVIDIA/TensorRT-LLM/blob/main/tensorrt_llm/_torch/model_config.py
"""

from collections.abc import Mapping
from typing import Any

from scion.checkpoint.shards import CONFIG
from scion.engines.loading.scheme import NotModelled, Scheme, SchemeProblem, mapping, names
from scion.engines.releases import EngineRelease
from scion.formats.modelopt import HF_QUANT_CONFIG


def read(
    release: EngineRelease, config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[Scheme, list[SchemeProblem]]:
    """The scheme; nothing is read otherwise than it is written.

    Raises:
        Refused: TensorRT-LLM refuses the declaration.
        NotModelled: Its reading is not modelled.
    """
    where, declared = HF_QUANT_CONFIG, hf_quant_config
    if declared is None:
        where, declared = f"{CONFIG}: quantization_config", config.get("quantization_config")
    if declared is None:
        return Scheme("none"), []
    inner = mapping(declared, where=where, release=release)
    key = "ignore"
    if "quantization" in inner:
        inner = mapping(inner["quantization"], where=f"{where}.quantization", release=release)
        key = "exclude_modules"
    elif not str(inner.get("quant_method", "")).startswith("modelopt"):
        raise NotModelled(str(inner.get("quant_method")))
    algorithm = inner.get("quant_algo")
    if not isinstance(algorithm, str) or algorithm == "MIXED_PRECISION":
        raise NotModelled(str(algorithm))
    exclude = names(inner.get(key) or [], where=f"{where}.{key}", release=release)
    return Scheme("modelopt", algorithm, exclude), []
