"""The table of the engines that Scion models, and the releases that a user names of them."""

from collections.abc import Iterable

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from scion.common.errors import ScionError
from scion.engines.loading.engine import Engine
from scion.engines.releases import EngineRelease, split_range
from scion.engines.sglang.engine import SGLANG
from scion.engines.tensorrt_llm.engine import TENSORRT_LLM
from scion.engines.vllm.engine import VLLM

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (VLLM, SGLANG, TENSORRT_LLM)}
"""By the name that `--engine` takes; a new engine is a folder, and a member here."""


def engine_of(release: EngineRelease) -> Engine:
    """The engine that a release is one of."""
    return ENGINES[release.name]


def newest(name: str) -> EngineRelease:
    """The newest release of an engine that Scion knows."""
    return EngineRelease(name, Version(ENGINES[name].releases[-1]))


DEFAULT_ENGINES = (newest(VLLM.name), newest(SGLANG.name))


def parse_engine(text: str) -> list[EngineRelease]:
    """The known releases that a user names.

    Args:
        text: `vllm==0.19.1`, `vllm>=0.19,<0.30` (all known releases in it, oldest first) or
            `vllm` (the newest known release).

    Raises:
        ScionError: Unknown engine, not a version range, or one that holds no known release.
    """
    name, versions = split_range(text)
    if name not in ENGINES:
        raise _refused("this engine is not known", text, ENGINES)
    known = ENGINES[name].releases
    if not versions:
        return [newest(name)]
    try:
        specifier = SpecifierSet(versions)
    except InvalidSpecifier as error:
        raise _refused("this is not a range of versions", text, known) from error
    chosen = [Version(version) for version in known if specifier.contains(version)]
    if not chosen:
        raise _refused("no known release lies in this range", text, known)
    return [EngineRelease(name, version) for version in chosen]


def parse_engines(texts: Iterable[str]) -> tuple[EngineRelease, ...]:
    """The releases that several such texts name, each once, in their order; see `parse_engine`."""
    return tuple(dict.fromkeys(engine for text in texts for engine in parse_engine(text)))


def _refused(problem: str, text: str, known: Iterable[str]) -> ScionError:
    return ScionError(
        problem,
        where="--engine",
        expected=f"one of {', '.join(known)}",
        found=repr(text),
        hint="name it as vllm, vllm==0.33.0 or 'vllm>=0.20,<0.30'",
    )
