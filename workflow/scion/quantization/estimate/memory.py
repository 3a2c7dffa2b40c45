"""What a run over layers holds in memory at its peak, part by part, from shapes alone.

Weights and hidden states are exact. What one batch holds inside a layer is counted by hand from
transformers' `modeling_qwen3_5.py`, what a search or a pack holds from ModelOpt 0.47's code; both
are upper estimates, since allocators and kernels differ. Bytes throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scion.formats.modelopt import BLOCK
from scion.quantization.estimate.layer_shapes import LayerShapes, ModelShapes
from scion.quantization.layerwise.placing import BF16_BYTES, Place
from scion.quantization.recipe_table import RecipeWork

_FLOAT_BYTES = 4
# Python, torch, transformers and ModelOpt, as a stage has imported them; with a GPU, what CUDA and
# compiled kernels take as well.
LIBRARIES, CUDA_LIBRARIES = 1_200_000_000, 2_500_000_000
# Four writers copy windows of 16 MiB: read, as a buffer that torch takes, and checked for NaN.
COPYING = 4 * 4 * (16 << 20)
# Bytes beside a weight of 2 bytes while ModelOpt's NVFP4QTensor.quantize packs it on a GPU: float32
# scaled, its sign, positions in int32, codes, and comparisons with three bounds.
_PACKING = 11
# While scales are tried one after another in torch: weight, candidate and error in float32, and
# what rounding to E2M1 makes, int64 positions among it. ModelOpt's kernels for CUDA hold none of
# it, but they exist for the sweep over FP8 scales only.
_TRYING, _TRYING_ON_GPU = 36, 20
# What quantizers hold of a weight's blocks in float32 where scales do not follow from the weight:
# the maxima that were collected, those that a search begins with, and the result.
_SCALES = 3 * _FLOAT_BYTES / BLOCK
# A float32 loss of each candidate and block, and once more when the best is looked for.
_LOSSES = 2 * _FLOAT_BYTES / BLOCK
_CHUNK = 64


@dataclass(frozen=True)
class Part:
    """A part of a sum.

    Attributes:
        name: What it is.
        size: Bytes.
        why: What it follows from.
    """

    name: str
    size: int
    why: str


def total(parts: Sequence[Part]) -> int:
    """Bytes of all parts together."""
    return sum(part.size for part in parts)


def layer_bytes(layer: LayerShapes) -> int:
    """The weights of a layer as it is loaded."""
    return layer.parameters * BF16_BYTES


def hidden_bytes(model: ModelShapes, tokens: int) -> int:
    """One set of hidden states of all samples."""
    return tokens * model.hidden * BF16_BYTES


def beside_layers(
    model: ModelShapes, work: RecipeWork, batches: Sequence[Sequence[int]], *, on_gpu: bool
) -> list[Part]:
    """What is held where layers run, beside hidden states.

    Args:
        model: The layers.
        work: What the recipe does to them.
        batches: Tokens of the samples of each forward pass.
        on_gpu: Whether layers run on a GPU.
    """
    tokens = sum(sum(batch) for batch in batches)
    longest = max((sum(batch) for batch in batches), default=0)
    pairs = zip(model.layers, model.layers[1:] or model.layers, strict=False)
    loaded = max(
        layer_bytes(first) + (layer_bytes(second) if second is not first else 0)
        for first, second in pairs
    )
    inside, what = max(
        (_activations(model, layer, work, longest), "one pass of the longest batch")
        if step == "pass"
        else (_on_matrix(layer, work, on_gpu=on_gpu), "on its largest matrix")
        for layer in model.layers
        for step in ("pass", "matrix")
    )
    hessians = max(_hessians(layer, work) for layer in model.layers)
    scales = max(_scales(layer, work) for layer in model.layers)
    rotary = tokens * (2 * model.rotary * BF16_BYTES + 8)
    parts = [
        Part("two layers", loaded, "all parameters in bf16: one at work, the next being read"),
        Part("positions", rotary, "rotary embeddings of each token, which all layers share"),
        Part("Hessians", hessians, "float32, of all modules of a layer at once"),
        Part("scales", scales, "of each block, in float32, while they are searched"),
        Part("inside a layer", inside, f"upper estimate; largest: {what}"),
    ]
    return [part for part in parts if part.size]


def least(model: ModelShapes, work: RecipeWork) -> int:
    """What no run can do without where layers run: one layer, and its Hessians."""
    return max(layer_bytes(layer) + _hessians(layer, work) for layer in model.layers)


def in_host(
    model: ModelShapes, tokens: int, place: Place, *, rows: int, on_gpu: bool
) -> list[Part]:
    """What is held in host memory beside what `beside_layers` counts.

    Args:
        model: The layers.
        tokens: Of all samples.
        place: Where hidden states are kept.
        rows: Rows of the table of embeddings.
        on_gpu: Whether layers run on a GPU.
    """
    libraries = CUDA_LIBRARIES if on_gpu else LIBRARIES
    packed = max(
        sum(rows * columns * 9 // 16 for rows, columns in layer.quantized.values())
        + sum(rows * columns for rows, columns in layer.eight_bits.values())
        for layer in model.layers
    )
    touched = min(rows, tokens) * model.hidden * BF16_BYTES
    parts = [
        Part("libraries", libraries, "torch, ModelOpt; roughly" if on_gpu else "torch, ModelOpt"),
        Part("being written", 3 * packed, "three layers' packed weights and scales"),
        Part("being copied", COPYING, "windows of the tensors that stay as they are"),
        Part("embeddings", touched, "rows that samples look up, at most one a token"),
    ]
    if place == "host":
        parts.append(hidden_part(model, tokens))
    return [part for part in parts if part.size]


def hidden_part(model: ModelShapes, tokens: int) -> Part:
    """The hidden states of all samples, before a layer and behind it."""
    size = 2 * hidden_bytes(model, tokens)
    return Part("hidden states", size, "bf16, before a layer and behind it")


def _activations(model: ModelShapes, layer: LayerShapes, work: RecipeWork, tokens: int) -> int:
    """One batch inside a layer: the mixer or the MLP, whichever holds more."""
    # The input and its norm, and the norm in float32, twice.
    around = (2 * BF16_BYTES + 2 * _FLOAT_BYTES) * model.hidden
    # Gate, up and their product, and the product's absolute value for its maximum.
    mlp = 4 * BF16_BYTES * layer.inner_width
    if layer.experts:
        # Which expert a token goes to, one-hot in int64; its input again, what one expert and what
        # all so far make of it, and the shared expert's.
        mlp += 8 * layer.experts * layer.experts_per_token + 4 * BF16_BYTES * model.hidden
    # Queries and their gates, queries and keys normalized and turned, keys and values repeated for
    # each query head, the output and the gated output; norms in float32.
    attention = (8 * BF16_BYTES + _FLOAT_BYTES) * layer.attention_width
    inside = max(mlp, attention, _delta_net(model, layer))
    collecting = 0
    if work.local_hessians or work.compensated:
        # A module's input in float32, and transposed.
        collecting = 2 * _FLOAT_BYTES * _widest(layer)
    return tokens * (around + inside + collecting)


def _delta_net(model: ModelShapes, layer: LayerShapes) -> int:
    """Bytes a token in transformers' delta net in torch; flash-linear-attention holds less.

    Before and behind the convolution in bf16, z and the output; then in float32 queries, keys,
    values, keys and values times beta, and four more of that width; three matrices of 64 × 64 for
    each chunk and head.
    """
    width = layer.value_width
    if not width:
        return 0
    chunks = 3 * _CHUNK * _FLOAT_BYTES * (width // model.value_head)
    return BF16_BYTES * (2 * layer.mixed_width + 2 * width) + 9 * _FLOAT_BYTES * width + chunks


def _on_matrix(layer: LayerShapes, work: RecipeWork, *, on_gpu: bool) -> int:
    """Temporaries of a search, of an update or of packing, for the largest matrix."""
    rows, columns = layer.largest
    weights, widest = rows * columns, _widest(layer)
    # `scion.formats.packing` holds a few rows.
    packing = _PACKING * layer.packed_at_once if on_gpu else weights
    sweep = work.candidates > 2
    if on_gpu:
        trying = 0 if sweep or not work.candidates else _TRYING_ON_GPU * weights
    else:
        trying = round((_TRYING + _LOSSES * work.candidates) * weights) if work.candidates else 0
    # GPTQ: the weight in float32 twice, the Hessian damped, its inverse, and two factors.
    gptq = work.compensated * _FLOAT_BYTES * (2 * weights + 4 * widest**2)
    return max(packing, trying, gptq)


def _widest(layer: LayerShapes) -> int:
    return max((columns for _, columns in layer.calibrated), default=0)


def _scales(layer: LayerShapes, work: RecipeWork) -> int:
    if not (work.candidates or work.compensated):
        return 0
    return round(_SCALES * sum(rows * columns for rows, columns in layer.quantized.values()))


def _hessians(layer: LayerShapes, work: RecipeWork) -> int:
    if work.compensated:
        return sum(_FLOAT_BYTES * columns**2 for _, columns in layer.quantized.values())
    if work.local_hessians:
        # [K/16, 16, 16].
        sizes = (_FLOAT_BYTES * BLOCK * columns for _, columns in layer.hessian_inputs)
        return sum(sizes)
    return 0
