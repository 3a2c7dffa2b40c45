"""What a recipe calculates: passes of the samples through a layer, and what it does beside them.

The counts are those of `scion.quantization.layerwise.stream` and of ModelOpt 0.47's
`model_calib.py`, with a multiplication and the addition after it as two operations. Left out is
what no multiplication of matrices takes: norms, activations, the simulated quantization of inputs,
packing. So times that follow from them are floors.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from scion.formats.modelopt import BLOCK
from scion.quantization.estimate.layer_shapes import LayerShapes, ModelShapes
from scion.quantization.recipe_table import RecipeWork

Kind = Literal["bf16", "float32", "candidates"]


@dataclass(frozen=True)
class Operations:
    """Something to calculate.

    Attributes:
        name: What.
        kind: `bf16` or `float32` operations of products of matrices, or `candidates`: scales tried,
            times the weights that each is tried on.
        count: How many.
    """

    name: str
    kind: Kind
    count: int


def operations(
    model: ModelShapes, work: RecipeWork, lengths: Iterable[int]
) -> tuple[Operations, ...]:
    """All that is calculated for a release; what a recipe leaves out is left out.

    Args:
        model: The layers.
        work: What the recipe does.
        lengths: Tokens of each sample: none sees another, also where they share a pass.
    """
    sizes = list(lengths)
    tokens, squares = sum(sizes), sum(size * size for size in sizes)
    # Where weights move, what the next layer sees needs a pass that the last layer is spared.
    last = work.passes - work.compensated
    passes = [work.passes] * (len(model.layers) - 1) + [last]
    by_layer = list(zip(model.layers, passes, strict=True))
    matrices = [shape for layer in model.layers for shape in layer.quantized.values()]
    # ModelOpt sums up local Hessians for modules in FP8 as well, though it needs none there.
    hessians = [
        share * columns for layer in model.layers for share, columns in layer.hessian_inputs
    ]
    weights = sum(rows * columns for rows, columns in matrices)
    products = sum(count * 2 * layer.matrix_parameters * tokens for layer, count in by_layer)
    mixing = sum(count * _mixing(model, layer, tokens, squares) for layer, count in by_layer)
    operations = (
        Operations("passes through the layers", "bf16", products),
        Operations("attention and delta nets", "bf16", mixing),
        Operations(
            "local Hessians",
            "float32",
            work.local_hessians * round(sum(2 * BLOCK * columns * tokens for columns in hessians)),
        ),
        Operations("scales tried", "candidates", work.candidates * weights),
        Operations(
            "GPTQ",
            "float32",
            work.compensated * sum(_gptq(rows, columns, tokens) for rows, columns in matrices),
        ),
    )
    return tuple(operation for operation in operations if operation.count)


def _mixing(model: ModelShapes, layer: LayerShapes, tokens: int, squares: int) -> int:
    """Operations of one pass between tokens: causal attention, or the delta net's states.

    Attention multiplies each query with the keys before it and the weights with the values: two
    products of tokens² × width, of which causality halves each. The delta net reads a state of
    [key head, value head] by key, adds to it, and reads it by query: 2 operations a number each.
    """
    return 2 * squares * layer.attention_width + 6 * tokens * model.key_head * layer.value_width


def _gptq(rows: int, columns: int, tokens: int) -> int:
    """Hessian of all inputs, three factorizations of it, and the errors that move on.

    Two of Cholesky's factorizations take a third of K³ each and the inverse two thirds; each column
    moves its error to all columns after it, on average half of them.
    """
    return 2 * tokens * columns**2 + 4 * columns**3 // 3 + rows * columns**2
