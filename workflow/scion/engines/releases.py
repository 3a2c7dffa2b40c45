"""Releases of engines, and statements that hold for a range of them.

`scion.engines.registry` knows which releases there are.
"""

from dataclasses import dataclass
from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version


@dataclass(frozen=True, order=True)
class EngineRelease:
    """One release of an inference engine.

    Attributes:
        name: The engine, as `scion lint --engine` names it.
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
        name, versions = split_range(statement)
        return cls(name, SpecifierSet(versions))

    def holds_for(self, release: EngineRelease) -> bool:
        """Whether the statement is about this release."""
        return release.name == self.name and self.versions.contains(release.version)

    def __str__(self) -> str:
        return f"{self.name} {self.versions}".strip()


@cache
def affects(statement: str, release: EngineRelease) -> bool:
    """Whether a statement such as `vllm<0.24` holds for a release."""
    return Affected.parse(statement).holds_for(release)


def split_range(text: str) -> tuple[str, str]:
    """Engine name and version range; the name ends where the first operator starts."""
    stripped = text.strip()
    end = next(
        (place for place, letter in enumerate(stripped) if letter in "=<>!~ "), len(stripped)
    )
    return canonicalize_name(stripped[:end]), stripped[end:].strip()
