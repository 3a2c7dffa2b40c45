"""SGLang as Scion models it, and the releases that it knows."""

from scion.engines.loading.class_build import ClassBuild, Layer, head_projections
from scion.engines.loading.engine import Engine, Launcher
from scion.engines.loading.layer_schemes import MixedOptions
from scion.engines.loading.scheme import Scheme
from scion.engines.releases import EngineRelease
from scion.engines.sglang.class_builds import BUILDS, PLAIN
from scion.engines.sglang.exclusion import matchers
from scion.engines.sglang.flags import START, UNTRIED, flags
from scion.engines.sglang.scheme import read

# A release that behaves like the one before it is one more word here.
RELEASES = ("0.5.23",)

_MIXED_ALGORITHMS = ("FP8", "FP8_PB_WO", "FP8_BLOCK_SCALES", "MXFP8", "NVFP4", "W4A16_NVFP4")


def _never_quantized(
    release: EngineRelease, build: ClassBuild, scheme: Scheme, layer: Layer
) -> str | None:
    """Vision towers, and the projection of an MTP head."""
    if layer.vision:
        return f"{release} never quantizes the vision tower"
    if layer.draft and layer.name in head_projections():
        return f"{release} never quantizes {layer.name}"
    return None


def _mixed(release: EngineRelease) -> MixedOptions:
    return MixedOptions(
        linear=_MIXED_ALGORITHMS, experts=_MIXED_ALGORITHMS, before_list=True, flat=True
    )


SGLANG = Engine(
    name="sglang",
    title="SGLang",
    releases=RELEASES,
    source="https://github.com/sgl-project/sglang/tree/v{version}",
    read=read,
    matchers=matchers,
    builds=BUILDS,
    plain=PLAIN,
    never_quantized=_never_quantized,
    mixed=_mixed,
    launcher=Launcher(START, flags, untried=UNTRIED),
)
