"""What an engine makes of a checkpoint's quantization declaration, module by module.

The models restate, in Scion's own terms, what each release does when it loads a checkpoint;
`test_vllm_models.py` and `test_sglang_models.py` in `tests/e2e` compare them with the engines'
own classes.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from scion.engines.loading.families import family_of
from scion.engines.loading.planning import Decision, Planner
from scion.engines.loading.scheme import NotModelled, Refused, Scheme, SchemeProblem
from scion.engines.releases import SGLANG, VLLM, Engine
from scion.engines.sglang import scheme as scheme_sglang
from scion.engines.tensorrt_llm import scheme as scheme_tensorrt
from scion.engines.vllm import scheme as scheme_vllm

__all__ = ["Decision", "SchemeProblem", "decisions", "is_modelled", "scheme_problems"]

_SOURCES = {
    VLLM: "https://github.com/vllm-project/vllm/tree/v{version}",
    SGLANG: "https://github.com/sgl-project/sglang/tree/v{version}",
}


def decisions(
    engine: Engine,
    config: Mapping[str, Any],
    hf_quant_config: Mapping[str, Any] | None,
    modules: Iterable[str],
) -> dict[str, Decision]:
    """How an engine builds each module of a checkpoint.

    Args:
        engine: The release that would load it.
        config: Parsed config.json.
        hf_quant_config: Parsed hf_quant_config.json, if there is one.
        modules: Names as the checkpoint's tensors have them, less `.weight`.

    Returns:
        A decision for each module. Empty where the engine refuses the declaration as a whole, as
        `scheme_problems` then says, or where the architecture or the method is not modelled.
    """
    family = family_of(engine, config)
    scheme, _ = _read(engine, config, hf_quant_config)
    if family is None or scheme is None:
        return {}
    planner = Planner(engine, family, scheme)
    return {module: planner.decide(family.layer(module)) for module in modules}


def is_modelled(engine: Engine, config: Mapping[str, Any]) -> bool:
    """Whether it is known how an engine builds the architecture that config.json names."""
    return family_of(engine, config) is not None


def scheme_problems(
    engine: Engine, config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> list[SchemeProblem]:
    """What an engine refuses or reads otherwise than it is written; empty where nothing is."""
    return _read(engine, config, hf_quant_config)[1]


def _read(
    engine: Engine, config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[Scheme | None, list[SchemeProblem]]:
    """The scheme, None where it is refused or not modelled, and what there is to say about it."""
    try:
        if engine.name == VLLM:
            return scheme_vllm.read(engine, config, hf_quant_config)
        if engine.name == SGLANG:
            return scheme_sglang.read(engine, config, hf_quant_config)
        return scheme_tensorrt.read(engine, config, hf_quant_config), []
    except NotModelled:
        return None, []
    except Refused as refused:
        return None, [_refusal(engine, refused.where, refused.text)]


def _refusal(engine: Engine, where: str, text: str) -> SchemeProblem:
    source = _SOURCES.get(engine.name, "https://github.com/NVIDIA/TensorRT-LLM")
    source = source.format(version=engine.version)
    return SchemeProblem(refused=True, where=where, text=text, source=source)
