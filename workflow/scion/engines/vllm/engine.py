"""vLLM as Scion models it, and the releases that it knows."""

from scion.engines.loading.class_build import ClassBuild, Layer
from scion.engines.loading.engine import Engine, Launcher
from scion.engines.loading.layer_schemes import GroupOptions, MixedOptions
from scion.engines.loading.scheme import Scheme
from scion.engines.releases import EngineRelease, affects
from scion.engines.vllm.class_builds import BUILDS, PLAIN
from scion.engines.vllm.exclusion import matchers, renamed
from scion.engines.vllm.flags import START, flags
from scion.engines.vllm.scheme import read

# A release that behaves like the one before it is one more word here.
RELEASES = (
    *("0.19.1", "0.20.0", "0.21.0", "0.22.1", "0.23.0", "0.24.0", "0.25.1", "0.26.0"),
    *("0.27.0", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0"),
)

# What a mixed-precision declaration may give a layer, and from which release on.
_MIXED_LINEAR = {
    "FP8": "vllm",
    "NVFP4": "vllm",
    "W4A16_NVFP4": "vllm>=0.22.1",
    "MXFP8": "vllm>=0.25",
    "FP8_PB_WO": "vllm>=0.29",
    "FP8_PER_CHANNEL_PER_TOKEN": "vllm>=0.30",
}
_MIXED_EXPERTS = {
    "FP8": "vllm",
    "NVFP4": "vllm",
    "W4A16_NVFP4": "vllm>=0.22.1",
    "MXFP8": "vllm>=0.25",
    "FP8_PB_WO": "vllm>=0.30",
    "FP8_BLOCK_SCALES": "vllm>=0.30",
}


def _never_quantized(
    release: EngineRelease, build: ClassBuild, scheme: Scheme, layer: Layer
) -> str | None:
    """Heads, in the releases and classes that hand them no quantization."""
    if layer.kind != "head":
        return None
    since = "vllm>=0.20" if scheme.method == "compressed-tensors" else "vllm>=0.23"
    asks = build.quantized_head
    asked = asks is None or asks.holds_for(release)
    return None if asked and affects(since, release) else f"{release} never quantizes this head"


def _mixed(release: EngineRelease) -> MixedOptions:
    def buildable(since: dict[str, str]) -> set[str]:
        return {algorithm for algorithm, from_ in since.items() if affects(from_, release)}

    return MixedOptions(
        linear=buildable(_MIXED_LINEAR),
        experts=buildable(_MIXED_EXPERTS),
        spellings=affects("vllm>=0.22.1", release),
        expert_parents=affects("vllm>=0.23", release),
        always_fused=affects("vllm>=0.25", release),
    )


def _groups(release: EngineRelease) -> GroupOptions:
    return GroupOptions(
        parts_before_class=affects("vllm>=0.27", release),
        must_match=affects("vllm<0.21", release),
    )


VLLM = Engine(
    name="vllm",
    title="vLLM",
    releases=RELEASES,
    source="https://github.com/vllm-project/vllm/tree/v{version}",
    read=read,
    matchers=matchers,
    builds=BUILDS,
    plain=PLAIN,
    never_quantized=_never_quantized,
    rename_scheme=renamed,
    mixed=_mixed,
    groups=_groups,
    launcher=Launcher(START, flags),
)
