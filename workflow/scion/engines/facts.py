"""What engines do to a checkpoint that its files alone don't tell, and in which releases.

Each was read off the sources of the releases on both sides of its bound, or is the claim of the
issue that it links.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from scion.engines.releases import Affected, EngineRelease

_VLLM = "https://github.com/vllm-project/vllm"
_FILES = f"{_VLLM}/blob/v{{}}/vllm/model_executor"
_SGLANG = "https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt"


@dataclass(frozen=True)
class Fact:
    """Something that some releases of an engine do.

    Attributes:
        affected: The releases.
        source: Where it can be read.
    """

    affected: Affected
    source: str

    def holds_for(self, release: EngineRelease) -> bool:
        """Whether a release does it."""
        return self.affected.holds_for(release)

    def among(self, engines: Iterable[EngineRelease]) -> tuple[str, ...]:
        """Those of `engines` that do it, as findings name them."""
        return tuple(str(release) for release in engines if self.holds_for(release))

    def __str__(self) -> str:
        return str(self.affected)


def _fact(affected: str, source: str) -> Fact:
    return Fact(Affected.parse(affected), source)


# 0.19.1 writes a scale that stands for three of a fused layer's four slots into the first alone.
UNINITIALISED_QKVZ_SCALE = _fact("vllm<0.20", f"{_FILES.format('0.20.0')}/layers/linear.py")
# From 0.20 on it is built unquantized in NVFP4 checkpoints, whatever the exclusion list says.
MTP_FC_QUANTIZED = _fact("vllm<0.20", f"{_VLLM}/pull/38650")
# Qwen3_5ForCausalLM and Qwen3_5MoeForCausalLM are not registered.
TEXT_CLASS_UNKNOWN = _fact("vllm<0.27", f"{_FILES.format('0.27.0')}/models/registry.py")
# The text-only classes take names without `language_model.` alone.
TEXT_CLASS_FLAT_ONLY = _fact("vllm<0.28", f"{_FILES.format('0.28.0')}/models/qwen3_5.py")
# The multimodal classes take names with `language_model.` alone.
NESTED_CLASS_NESTED_ONLY = _fact("vllm", f"{_FILES.format('0.33.0')}/models/qwen3_vl.py")
# `tie_weights` of quantized heads raises NotImplementedError.
TIED_HEAD_REFUSED = _fact("vllm>=0.24,<0.25", f"{_VLLM}/issues/45543")
# The loader skips `lm_head.*` where the head is tied, without comparing it.
TIED_HEAD_DROPPED = (
    _fact("vllm<0.29", f"{_VLLM}/pull/51665"),
    _fact("sglang", f"{_SGLANG}/models"),
)
# Up to 0.24 qwen3_5.py renames cache scales itself; reported for 0.27.1, and open.
CACHE_SCALES_LOST = _fact("vllm>=0.25", f"{_VLLM}/issues/54623")
# NVFP4 is served as W4A16 where every config group's input_activations is null.
SERVED_WEIGHT_ONLY = _fact(
    "vllm>=0.29", f"{_FILES.format('0.29.0')}/layers/quantization/modelopt.py"
)
# The loader reads the shards that are there, and only an unquantized model misses the others.
MISSING_SHARD_UNNOTICED = _fact("vllm<0.26", f"{_VLLM}/issues/34859")
# `consolidated*.safetensors` are looked for first, and read instead of all others.
CONSOLIDATED_FIRST = _fact("vllm", f"{_FILES.format('0.33.0')}/model_loader/default_loader.py")
# Both stop at a share of a block-quantized FP8 layer that is no whole number of blocks (read off
# vLLM 0.32 and SGLang 0.5.23; a padded layout was proposed for vLLM, and is open).
FP8_BLOCKS_SPLIT = (
    _fact("vllm", f"{_VLLM}/issues/52997"),
    _fact("sglang", "https://github.com/sgl-project/sglang/issues/26107"),
)
# vLLM 0.32 splits the scales of routed experts further (`refine_fp8_moe_block_shape`), 0.28 stops;
# in which release between them that came was not looked up.
FP8_EXPERT_BLOCKS_SPLIT = (
    _fact("vllm<0.29", f"{_VLLM}/issues/54178"),
    _fact("sglang", "https://github.com/sgl-project/sglang/issues/26107"),
)
# It builds by `modules_in_block_to_quantize`, by parts of names; SGLang 0.5.23 reads no such list.
GPTQ_LIST_READ = _fact("vllm", f"{_FILES.format('0.32.0')}/layers/quantization/utils/gptq_utils.py")
# The activation scale of a module that is built as W4A4 is `torch.empty` until it is loaded.
NVFP4_INPUT_SCALE_UNSET = _fact("vllm", f"{_VLLM}/issues/54189")
# That of a linear layer in static FP8 is the smallest float32 number (read off 0.32 and 0.5.23).
FP8_INPUT_SCALE_UNSET = (
    _fact("vllm", f"{_FILES.format('0.32.0')}/layers/quantization/modelopt.py"),
    _fact("sglang", f"{_SGLANG}/layers/quantization/modelopt_quant.py"),
)
# Reported: an NVFP4 draft model of compressed-tensors fails under CUDA graphs.
NVFP4_HEAD_UNDER_GRAPHS = _fact("vllm>=0.28,<0.29", f"{_VLLM}/issues/54997")
# Reported: five MTP tensors of compressed-tensors checkpoints are dropped.
SGLANG_MTP_DROPPED = _fact("sglang<=0.5.23", "https://github.com/sgl-project/sglang/issues/35797")
# Reported: 0-dimensional scales of quantized in_proj_qkv and in_proj_z crash the repacking.
TENSORRT_SCALAR_SCALES = _fact(
    "tensorrt-llm", "https://github.com/NVIDIA/Model-Optimizer/issues/1933"
)
# Its package can be installed with transformers 4; from 0.24 on it demands 5.5.3 at least.
TRANSFORMERS_4 = _fact("vllm<0.24", f"{_VLLM}/blob/v0.24.0/requirements/common.txt")
# The processor of a class with a tower is made at the start, unless told to serve text alone.
PROCESSOR_REQUIRED = _fact("sglang", "https://github.com/sgl-project/sglang/issues/22885")
