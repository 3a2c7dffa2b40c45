"""Whether a checkpoint is in MLX's layout, which only MLX's own loaders read."""

from collections.abc import Iterable

from scion.checkpoint.safetensors_file import Tensor

_EXPERTS = ".mlp.switch_mlp."
_CONVOLUTION = ".conv1d.weight"
_SCALES, _BIASES, _CODES = ".scales", ".biases", "U32"


def mlx_marks(tensors: Iterable[Tensor]) -> tuple[str, ...]:
    """What no other tool writes, in words; empty for a checkpoint of transformers' layout.

    https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/models/qwen3_5.py renames and turns
    tensors, https://github.com/ml-explore/mlx/blob/main/python/mlx/nn/layers/quantized.py packs
    them.
    """
    marks: dict[str, None] = {}
    codes: set[str] = set()
    scales: dict[str, set[str]] = {_SCALES: set(), _BIASES: set()}
    for tensor in tensors:
        name = tensor.name
        if _EXPERTS in name:
            marks["experts called switch_mlp"] = None
        if name.endswith(_CONVOLUTION) and _is_turned(tensor.shape):
            marks["convolutions of [channels, width, 1]"] = None
        for suffix, modules in scales.items():
            if name.endswith(suffix):
                modules.add(name.removesuffix(suffix))
        if tensor.dtype == _CODES and name.endswith(".weight"):
            codes.add(name.removesuffix(".weight"))
    if not codes.isdisjoint(scales[_SCALES] & scales[_BIASES]):
        marks["weights packed in U32 beside scales and biases"] = None
    return tuple(marks)


def _is_turned(shape: tuple[int, ...]) -> bool:
    """[channels, width, 1] where PyTorch has [channels, 1, width]."""
    return len(shape) == 3 and shape[1] > 1 and shape[2] == 1
