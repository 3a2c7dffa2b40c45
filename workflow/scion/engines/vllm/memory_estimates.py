"""What a server needs besides its cache: weights, activations, CUDA graphs.

Weights as stored are exact. The rest follows from shapes, times factors that are set so that two
recorded servers of a 27B model come out (tests/unit/test_memory.py has both): an estimate, good to
about a gigabyte there, and untested elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scion.architectures.families import head_prefixes, vision_prefixes
from scion.checkpoint.safetensors_file import Tensor
from scion.engines.config import Launch
from scion.engines.gpus import GIB
from scion.engines.vllm.cache_layout import ModelSizes

_BLOCK_SCALES = "NVFP4 block scales"
# The 18.32 GiB of a 27B release were loaded as 18.71 GiB: blocks of the allocator are not full.
_LOADING_FACTOR = 1.021
# The context of CUDA with its libraries, and what they allocate past PyTorch.
NON_TORCH_BYTES = round(0.6 * GIB)
# What NCCL allocates where several GPUs share the layers; a guess, held to no server.
NCCL_BYTES = round(0.5 * GIB)
# Workspaces of kernels and what else lives beside the widest layer's tensors.
_ACTIVATION_FACTOR = 1.82
# Attention's workspace is allocated after the measuring run (FlashInfer's: 394 MiB).
LATE_BYTES = 394 << 20
# Logs of 27B models on one to four GPUs: 0.13 GiB for 5 graphs, 0.17 for 7, 0.40 for 15, 1.62 for
# 86. https://github.com/vllm-project/vllm/pull/39559 and the logs of noonghunna/club-3090.
_GRAPHS_BYTES, _GRAPH_BYTES = round(0.1 * GIB), round(0.02 * GIB)
_MOST_GRAPH_TOKENS = 512


@dataclass(frozen=True)
class LoadedWeights:
    """The tensors of a checkpoint by what they are, in bytes.

    Attributes:
        parts: Bytes as stored of what the server loads, by part.
        padding: What an engine adds to block scales, whose rows and columns it rounds up.
        left_out: Bytes as stored of what it does not load.
        gpus: GPUs that share them. What each holds whole, such as norms, weighs little.
    """

    parts: dict[str, int]
    padding: int
    left_out: int
    gpus: int = 1

    @property
    def stored(self) -> int:
        """Bytes as stored of what is loaded."""
        return sum(self.parts.values())

    @property
    def loaded(self) -> int:
        """Bytes on each GPU; an estimate."""
        return round((self.stored + self.padding) / self.gpus * _LOADING_FACTOR)


def weights(
    tensors: Mapping[str, Tensor], *, drafts: bool, text_only: bool, gpus: int = 1
) -> LoadedWeights:
    """What of a checkpoint is loaded.

    Args:
        tensors: All tensors by name, from the shards' headers.
        drafts: Whether the launch speculates; without that no MTP head is loaded.
        text_only: Whether the vision tower stays out.
        gpus: GPUs that share the layers.
    """
    parts: dict[str, int] = {}
    padding = left_out = 0
    for name, tensor in tensors.items():
        if (name.startswith(head_prefixes()) and not drafts) or (
            name.startswith(vision_prefixes()) and text_only
        ):
            left_out += tensor.size
            continue
        part = _part(name, tensor.dtype)
        parts[part] = parts.get(part, 0) + tensor.size
        if part == _BLOCK_SCALES and len(tensor.shape) == 2:
            # Kernels for FP4 units read scales in tiles of 128 rows and 4 columns.
            rows, columns = tensor.shape
            padding += (-rows % 128 + rows) * (-columns % 4 + columns) - tensor.size
    return LoadedWeights(parts, padding, left_out, gpus)


def batch(launch: Launch, gpu_bytes: int) -> tuple[int, int]:
    """Requests and tokens of the largest step, as `vllm serve` chooses what a launch leaves open.

    Those are vLLM 0.32's defaults. An A100 has those of smaller GPUs.
    """
    if gpu_bytes >= 160 * GIB:
        requests, tokens = 1024, 16384
    elif gpu_bytes >= 70 * GIB:
        requests, tokens = 1024, 8192
    else:
        requests, tokens = 256, 2048
    requests = launch.max_num_seqs or requests
    return requests, min(tokens, requests * launch.max_model_len)


def activations(sizes: ModelSizes, *, requests: int, tokens: int) -> int:
    """Bytes at the peak of vLLM's measuring run, besides weights and `NON_TORCH_BYTES`.

    Args:
        sizes: The model.
        requests: Whose logits are computed at once, in bf16, in float32, and as probabilities.
        tokens: Of the largest step.
    """
    stream = 2 * sizes.hidden
    # Of experts, what each makes of a token is kept until all are added up.
    mlp = stream + 3 * sizes.intermediate + sizes.experts_per_token * sizes.hidden
    # Projections and convolution of queries, keys, values and gate; six intermediates of the
    # chunked delta rule as wide as its values; a state for each chunk of 64 tokens.
    delta = stream + 2 * sizes.conv_channels + 7 * sizes.value_width + sizes.state_elements // 64
    layer = 2 * tokens * max(mlp, delta)
    return round(_ACTIVATION_FACTOR * layer) + requests * sizes.vocabulary * (2 + 4 + 4)


def graph_sizes(launch: Launch, *, requests: int, tokens: int) -> tuple[list[int], list[int]]:
    """The batches, in tokens, that CUDA graphs are captured of.

    Returns:
        Those of graphs between attention layers, and those of whole decode steps.
    """
    step = 1 + launch.speculative_tokens
    most = min(2 * requests * step, _MOST_GRAPH_TOKENS, tokens)
    sizes = [1, 2, 4, *range(8, min(most + 1, 256), 8), *range(256, most + 1, 16)]
    pieces = [size for size in sizes if size <= most]
    whole = {-(-size // step) * step for size in pieces}
    return pieces, sorted(size for size in whole if size <= min(requests * step, most))


def graphs(launch: Launch, *, requests: int, tokens: int) -> int:
    """Bytes of all CUDA graphs; an estimate from their number."""
    pieces, whole = graph_sizes(launch, requests=requests, tokens=tokens)
    return _GRAPHS_BYTES + _GRAPH_BYTES * (len(pieces) + len(whole))


def _part(name: str, dtype: str) -> str:
    if name.startswith(head_prefixes()):
        return "MTP head"
    if name.startswith(vision_prefixes()):
        return "vision tower"
    if name.startswith("lm_head."):
        return "output head"
    if name.endswith("embed_tokens.weight"):
        return "embeddings"
    if dtype == "F8_E4M3" and name.endswith(".weight"):
        return "FP8 weights"
    return {"U8": "NVFP4 weights", "F8_E4M3": _BLOCK_SCALES}.get(dtype, "other tensors")
