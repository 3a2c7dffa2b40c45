"""What a release of an engine makes of a checkpoint's quantization declaration, module by module.

The models restate, in Scion's own terms, what each release does when it loads a checkpoint;
`test_vllm_models.py` and `test_sglang_models.py` in `tests/e2e` compare them with the engines'
own classes.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from scion.engines.loading.class_build import ClassBuild
from scion.engines.loading.planning import Decision, Planner
from scion.engines.loading.scheme import NotModelled, Refused, Scheme, SchemeProblem
from scion.engines.registry.engines import engine_of
from scion.engines.releases import EngineRelease

__all__ = ["Decision", "SchemeProblem", "build_of", "decisions", "is_modelled", "scheme_problems"]


def decisions(
    release: EngineRelease,
    config: Mapping[str, Any],
    hf_quant_config: Mapping[str, Any] | None,
    modules: Iterable[str],
) -> dict[str, Decision]:
    """How an engine builds each module of a checkpoint.

    Args:
        release: The release that would load it.
        config: Parsed config.json.
        hf_quant_config: Parsed hf_quant_config.json, if there is one.
        modules: Names as the checkpoint's tensors have them, less `.weight`.

    Returns:
        A decision for each module. Empty where the engine refuses the declaration as a whole, as
        `scheme_problems` then says, or where the architecture or the method is not modelled.
    """
    build = build_of(release, config)
    scheme, _ = _read(release, config, hf_quant_config)
    if build is None or scheme is None:
        return {}
    planner = Planner(engine_of(release), release, build, scheme)
    return {module: planner.decide(build.layer(module)) for module in modules}


def build_of(release: EngineRelease, config: Mapping[str, Any]) -> ClassBuild | None:
    """How a release builds what config.json names; None if it does not know it, or we don't."""
    return engine_of(release).build(release, config)


def is_modelled(release: EngineRelease, config: Mapping[str, Any]) -> bool:
    """Whether it is known how a release builds the architecture that config.json names."""
    return build_of(release, config) is not None


def scheme_problems(
    release: EngineRelease, config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> list[SchemeProblem]:
    """What a release refuses or reads otherwise than it is written; empty where nothing is."""
    return _read(release, config, hf_quant_config)[1]


def _read(
    release: EngineRelease, config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[Scheme | None, list[SchemeProblem]]:
    """The scheme, None where it is refused or not modelled, and what there is to say about it."""
    engine = engine_of(release)
    try:
        return engine.read(release, config, hf_quant_config)
    except NotModelled:
        return None, []
    except Refused as refused:
        source = engine.source.format(version=release.version)
        return None, [SchemeProblem(True, refused.where, refused.text, source)]
