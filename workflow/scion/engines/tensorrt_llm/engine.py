"""TensorRT-LLM as Scion models it, and the releases that it knows."""

from scion.architectures.family import FUSED_ATTENTION, FUSED_MLP
from scion.engines.loading.class_build import ClassBuild
from scion.engines.loading.engine import Engine
from scion.engines.releases import Affected
from scion.engines.tensorrt_llm.exclusion import matchers
from scion.engines.tensorrt_llm.scheme import read

# A release that behaves like the one before it is one more word here.
RELEASES = ("1.0.0",)

# Plain decoders alone: not Qwen3.5, whose lists it rewrites in ways that depend on the GPU.
TENSORRT_LLM = Engine(
    name="tensorrt-llm",
    title="TensorRT-LLM",
    releases=RELEASES,
    source="https://github.com/NVIDIA/TensorRT-LLM",
    read=read,
    matchers=matchers,
    builds={},
    plain=ClassBuild(Affected.parse("tensorrt-llm"), fused={**FUSED_ATTENTION, **FUSED_MLP}),
)
