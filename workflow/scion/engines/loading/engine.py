"""What the generic code asks of an engine: one object that each engine's folder makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from scion.architectures.families import family_of_class
from scion.architectures.family import Fused
from scion.engines.flag import Flag
from scion.engines.loading.class_build import ClassBuild, Layer
from scion.engines.loading.exclusion import Matcher
from scion.engines.loading.layer_schemes import GroupOptions, MixedOptions
from scion.engines.loading.scheme import Scheme, SchemeProblem
from scion.engines.releases import Affected, EngineRelease
from scion.engines.served_model import ServedModel

if TYPE_CHECKING:
    # lint asks engines, and is to start without pydantic.
    from scion.engines.config import Launch


class Matchers(NamedTuple):
    """An engine's readings of one exclusion list.

    Attributes:
        layers: For linear layers and heads.
        experts: For a layer of experts; None where it is looked up as a linear layer is.
    """

    layers: Matcher
    experts: Matcher | None = None


ReadScheme = Callable[
    [EngineRelease, Mapping[str, Any], Mapping[str, Any] | None],
    tuple[Scheme, list[SchemeProblem]],
]
"""Reads config.json and hf_quant_config.json, if there is one; raises Refused or NotModelled."""


def _quantizes_all(
    release: EngineRelease, build: ClassBuild, scheme: Scheme, layer: Layer
) -> str | None:
    return None


def _unchanged(scheme: Scheme, renames: Mapping[str, str]) -> Scheme:
    return scheme


class WriteFlags(Protocol):
    """The options of an engine's server for a launch, in the order in which they are shown."""

    def __call__(self, launch: "Launch", model: ServedModel) -> list[Flag]:
        """Those of one launch of a checkpoint."""
        ...


@dataclass(frozen=True)
class Launcher:
    """How a launch becomes a command of an engine's server.

    Attributes:
        start: The words of the command before the checkpoint's folder.
        flags: The options after it.
        untried: What a reader must know of the command; empty where it is served with.
    """

    start: str
    flags: WriteFlags
    untried: str = ""


@dataclass(frozen=True)
class Engine:
    """An inference engine as Scion models it: every release, and all that depends on the engine.

    What differs between releases the functions look up themselves, in statements such as
    `vllm<0.24`: so a release that behaves like the one before it is one more word of `releases`.

    Attributes:
        name: As `scion lint --engine` takes it.
        title: As people write it.
        releases: Those whose sources the model was read off and compared with, oldest first; other
            releases are not guessed at.
        source: Where a release's sources are, with `{version}` for its number.
        read: How a release reads a checkpoint's declaration.
        matchers: How a release reads the exclusion list of a scheme, beside the fused layers of
            the target or of the draft model.
        builds: How it builds the model classes that it knows, by class name.
        plain: How it builds a plain decoder: any class whose row of `scion.architectures.families`
            says so, and that `builds` does not name. None where none is built by default.
        never_quantized: Why a release does not ask the declaration about a layer; None where it
            asks. What all engines leave alone is not asked for.
        rename_scheme: A scheme in the engine's names, for classes that rename lists.
        mixed: How a release looks up the layers of a mixed-precision declaration.
        groups: How a release looks up the layers of compressed-tensors' groups.
        launcher: How its server is started; None where launches are not written for it.
    """

    name: str
    title: str
    releases: tuple[str, ...]
    source: str
    read: ReadScheme
    matchers: Callable[[EngineRelease, Scheme, Fused], Matchers]
    builds: Mapping[str, ClassBuild]
    plain: ClassBuild | None = None
    never_quantized: Callable[[EngineRelease, ClassBuild, Scheme, Layer], str | None] = (
        _quantizes_all
    )
    rename_scheme: Callable[[Scheme, Mapping[str, str]], Scheme] = _unchanged
    mixed: Callable[[EngineRelease], MixedOptions] = field(default=lambda _: MixedOptions())
    groups: Callable[[EngineRelease], GroupOptions] = field(default=lambda _: GroupOptions())
    launcher: Launcher | None = None

    def build(self, release: EngineRelease, config: Mapping[str, Any]) -> ClassBuild | None:
        """How a release builds what config.json names; None if it does not know it, or we don't."""
        names = config.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
        build = (self.builds.get(name) or self._plain(name)) if isinstance(name, str) else None
        if build is None or not build.known.holds_for(release):
            return None
        return None if any(config.get(key) for key in build.unmodelled_keys) else build

    def _plain(self, name: str) -> ClassBuild | None:
        """How the engine builds a class as any plain decoder; None if its row doesn't say so."""
        row = family_of_class(name)
        if row is None or self.plain is None:
            return None
        known = (Affected.parse(releases) for releases in row.plain_engines)
        ours = next((releases for releases in known if releases.name == self.name), None)
        if ours is None:
            return None
        # Engines whose matchers expand no fused layer of a plain class expand none of this one.
        fused = row.fused if self.plain.fused else {}
        return replace(self.plain, known=ours, fused=fused, draft_fused=fused if row.head else {})
