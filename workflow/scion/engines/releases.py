"""The engine releases that Scion models, and statements that hold for a range of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from scion.common.errors import ScionError

VLLM = "vllm"
SGLANG = "sglang"
TENSORRT_LLM = "tensorrt-llm"

# The releases whose sources the models were read off and compared with; other releases are not
# guessed at. Oldest first.
KNOWN_RELEASES: dict[str, tuple[str, ...]] = {
    VLLM: (
        *("0.19.1", "0.20.0", "0.21.0", "0.22.1", "0.23.0", "0.24.0", "0.25.1", "0.26.0"),
        *("0.27.0", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0"),
    ),
    SGLANG: ("0.5.23",),
    TENSORRT_LLM: ("1.0.0",),
}


@dataclass(frozen=True, order=True)
class Engine:
    """One release of an inference engine.

    Attributes:
        name: `vllm`, `sglang` or `tensorrt-llm`.
        version: Its release.
    """

    name: str
    version: Version

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Affected:
    """The releases of one engine that a statement holds for, such as `vllm<0.24`.

    Attributes:
        name: The engine.
        versions: Its versions; empty for all of them.
    """

    name: str
    versions: SpecifierSet

    @classmethod
    def parse(cls, statement: str) -> "Affected":
        """Read `vllm<0.24`, `vllm>=0.20,<0.29` or `sglang`; the statements are Scion's own data."""
        name, versions = _split(statement)
        return cls(name, SpecifierSet(versions))

    def holds_for(self, engine: Engine) -> bool:
        """Whether the statement is about this release."""
        return engine.name == self.name and self.versions.contains(engine.version)

    def __str__(self) -> str:
        return f"{self.name} {self.versions}".strip()


def newest(name: str) -> Engine:
    """The newest release of an engine that Scion knows."""
    return Engine(name, Version(KNOWN_RELEASES[name][-1]))


DEFAULT_ENGINES = (newest(VLLM), newest(SGLANG))


def affects(statement: str, engine: Engine) -> bool:
    """Whether a statement such as `vllm<0.24` holds for a release."""
    return Affected.parse(statement).holds_for(engine)


def parse_engine(text: str) -> list[Engine]:
    """The known releases that a user names.

    Args:
        text: `vllm==0.19.1`, `vllm>=0.19,<0.30` (all known releases in it, oldest first) or
            `vllm` (the newest known release).

    Raises:
        ScionError: Unknown engine, not a version range, or one that holds no known release.
    """
    name, versions = _split(text)
    if name not in KNOWN_RELEASES:
        raise _refused("this engine is not known", text, KNOWN_RELEASES)
    if not versions:
        return [newest(name)]
    try:
        specifier = SpecifierSet(versions)
    except InvalidSpecifier as error:
        raise _refused("this is not a range of versions", text, KNOWN_RELEASES[name]) from error
    found = [Version(one) for one in KNOWN_RELEASES[name] if specifier.contains(one)]
    if not found:
        raise _refused("no known release lies in this range", text, KNOWN_RELEASES[name])
    return [Engine(name, version) for version in found]


def parse_engines(texts: Iterable[str]) -> tuple[Engine, ...]:
    """The releases that several such texts name, each once, in their order; see `parse_engine`."""
    return tuple(dict.fromkeys(engine for text in texts for engine in parse_engine(text)))


def _split(text: str) -> tuple[str, str]:
    """Engine name and version range; the name ends where the first operator starts."""
    stripped = text.strip()
    end = next((place for place, one in enumerate(stripped) if one in "=<>!~ "), len(stripped))
    return canonicalize_name(stripped[:end]), stripped[end:].strip()


def _refused(
    problem: str, text: str, known: Sequence[str] | dict[str, tuple[str, ...]]
) -> ScionError:
    return ScionError(
        problem,
        where="--engine",
        expected=f"one of {', '.join(known)}",
        found=repr(text),
        hint="name it as vllm, vllm==0.33.0 or 'vllm>=0.20,<0.30'",
    )
