"""The tensors of a checkpoint gathered by module, and the number format that they spell."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scion.checkpoint.safetensors_file import Tensor

# https://github.com/NVIDIA/Model-Optimizer and https://github.com/vllm-project/compressed-tensors
# name these; `weight_scale_inv` is the block scale of DeepSeek's and Qwen's FP8 checkpoints.
WEIGHTS = ("weight", "weight_packed")
GLOBAL_SCALES = ("weight_scale_2", "input_scale", "weight_global_scale", "input_global_scale")
SCALES = ("weight_scale", "weight_scale_inv", *GLOBAL_SCALES)
KV_SCALES = ("k_scale", "v_scale")
_SUFFIXES = frozenset((*WEIGHTS, *SCALES, *KV_SCALES, "bias"))

HEAD = "lm_head"
FLOATS = frozenset(("BF16", "F16", "F32", "F64"))
PLAIN = "plain"
"""Stored as floating-point numbers, without scales."""
NVFP4 = "NVFP4"
FP8 = "FP8"


@dataclass(frozen=True)
class Module:
    """One module's tensors.

    Attributes:
        name: As the checkpoint has it, without the tensor's suffix.
        tensors: By suffix, such as `weight` and `weight_scale`.
    """

    name: str
    tensors: Mapping[str, Tensor]

    @property
    def weight(self) -> Tensor | None:
        """The tensor that holds the numbers, packed or not."""
        return next((self.tensors[name] for name in WEIGHTS if name in self.tensors), None)

    @property
    def scales(self) -> list[str]:
        """The suffixes of the scales that are there."""
        return [suffix for suffix in SCALES if suffix in self.tensors]

    @property
    def stored(self) -> str | None:
        """`NVFP4`, `FP8`, `plain`, another dtype's name, or None where there is no weight."""
        return stored_as(self.weight.dtype) if self.weight is not None else None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of the weight in numbers: two NVFP4 codes lie in one byte."""
        if self.weight is None:
            return None
        shape = self.weight.shape
        return (*shape[:-1], shape[-1] * 2) if self.stored == NVFP4 and shape else shape


def stored_as(dtype: str) -> str:
    """The number format of a weight by its dtype; the dtype's own name for any other."""
    if dtype == "U8":
        return NVFP4
    if dtype == "F8_E4M3":
        return FP8
    return PLAIN if dtype in FLOATS else dtype


def format_of(algorithm: str | None) -> str:
    """The number format that an engine's algorithm reads: `W4A16_NVFP4` reads NVFP4, None plain."""
    if algorithm is None:
        return PLAIN
    name = algorithm.upper()
    return NVFP4 if "NVFP4" in name else FP8 if name.startswith("FP8") else name


def modules_of(tensors: Iterable[Tensor]) -> dict[str, Module]:
    """The modules by name; tensors that belong to none (`A_log`, stacked experts) are left out."""
    gathered: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        name, _, suffix = tensor.name.rpartition(".")
        if suffix in _SUFFIXES:
            gathered.setdefault(name, {})[suffix] = tensor
    return {name: Module(name, parts) for name, parts in gathered.items()}
