"""Quantized weights derived again from the source, a window of rows at a time, bit for bit.

NVFP4 has three parts to derive. The scale over a module is that of the largest weight, of it or of
the modules that engines load with it as one. Block scales are those of the largest weight of each
block, unless a recipe has chosen others. Codes follow from weight and scales, unless a recipe has
moved weights (GPTQ). So what was chosen can be told from what was computed: a block whose scale is
another than its maximum's, a code that is another than the nearest.

Only what was chosen needs bounds: squared errors of blocks beside those that maximum scales leave.

Releases of other tools may have llm-compressor's maxima instead: the reciprocal of the scale over a
module is rounded to bf16, as the weights are, and so is the largest weight of a block over 6
(https://github.com/vllm-project/compressed-tensors/blob/main/src/compressed_tensors/quantization/utils/helpers.py).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from scion.audit.stored import StoredModule
from scion.audit.weights import Extent
from scion.common.digest import in_parallel
from scion.common.errors import ScionError
from scion.common.progress import Progress, progress
from scion.formats import fp8
from scion.formats.modelopt import BLOCK, FP8
from scion.formats.nvfp4 import (
    E2M1_VALUES,
    code_errors,
    dequantize,
    maximum_scales,
    rounding_errors,
    square_sums,
)
from scion.formats.packing import amax, pack
from scion.formats.reciprocals import reciprocal_of
from scion.quantization.packed_group import shared_scale
from scion.quantization.verify_nvfp4 import Rows

# Of a window, in bf16.
_WINDOW_BYTES = 12 << 20
# The largest E2M1 number times the largest of E4M3.
_RANGE = E2M1_VALUES[-1] * fp8.E4M3_LARGEST
# Of float32, beside 1.
_LAST_BIT = 2.0**-23
# Float32 arithmetic on either side of a tie.
_TOLERANCE = 1 + 1e-3


@dataclass(frozen=True)
class Derived:
    """What deriving a module has found.

    Attributes:
        module: Its name.
        algorithm: NVFP4, W4A16 or FP8.
        numbers: Of its weight.
        other_scales: Blocks whose scale is another than their maximum's.
        other_codes: Numbers whose code is another than the one that weight and stored scales give.
        far_codes: Of these the ones that are not even a nearest code, to a float32 rounding.
        largest: The largest magnitude of its weight, float32 [].
        scale: Its scale over the whole matrix, float32 [].
        error: Squared error of the blocks that are other than maxima give.
        least: That of the same blocks with maximum scales and nearest codes.
    """

    module: str
    algorithm: str
    numbers: int
    largest: torch.Tensor
    scale: torch.Tensor
    other_scales: int = 0
    other_codes: int = 0
    far_codes: int = 0
    error: float = 0.0
    least: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether all codes and block scales are those of maxima, bit for bit."""
        return not (self.other_scales or self.other_codes)

    @property
    def error_ratio(self) -> float:
        """Squared error of what was chosen, as a multiple of what maxima would leave."""
        return self.error / self.least if self.least else float(self.error > 0)


def derive(
    modules: Mapping[str, StoredModule], source: Mapping[str, Extent], *, foreign: bool = False
) -> dict[str, Derived | ScionError]:
    """Derive every module.

    Args:
        modules: The quantized modules, whose weights have the forms that the source implies.
        source: The source's tensors by sound names, experts one by one.
        foreign: Whether another tool than ModelOpt may have made the release: its maxima count.

    Returns:
        By module what was found; an error where the source's weight can't be packed at all.
    """
    names = sorted(modules, key=lambda name: -source[f"{name}.weight"].tensor.size)
    total = sum(source[f"{name}.weight"].tensor.size for name in names)
    # One thread a module: torch's own gain little on windows of rows.
    torch.set_num_threads(1)
    with progress("derived weights", total, unit="B") as told:

        def work(name: str) -> Derived | ScionError:
            weight = source[f"{name}.weight"]
            try:
                if modules[name].algorithm == FP8:
                    return _derive_fp8(modules[name], weight, told)
                return _derive_nvfp4(modules[name], weight, told, foreign=foreign)
            except ScionError as error:
                return error

        found = in_parallel(work, names)
    by_name = dict(zip(names, found, strict=True))
    return {name: by_name[name] for name in modules}


def is_largest(found: Derived, group: Sequence[Derived], *, foreign: bool = False) -> bool:
    """Whether the scale over a module is that of its largest weight, or of its group's.

    Args:
        found: The module.
        group: All that engines load with it as one, itself among them.
        foreign: Whether another tool than ModelOpt may have made the release.
    """
    together = torch.stack([member.largest for member in group]).amax()
    either = found.largest, together
    if any(bool(found.scale == s) for each in either for s in _scales(each, found.algorithm)):
        return True
    # PyTorch takes the reciprocal first, and rounds that, too.
    reciprocals = [float(_RANGE / largest.to(torch.bfloat16)) for largest in either]
    return foreign and found.algorithm != FP8 and _reciprocal(found.scale) in reciprocals


def _scales(largest: torch.Tensor, algorithm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale of a largest magnitude as a CPU divides, and as a GPU does.

    PyTorch on CUDA divides by a number in multiplying with its reciprocal, which is one last bit
    beside for some.
    """
    unit = shared_scale(torch.tensor(1.0), algorithm)
    return shared_scale(largest, algorithm), largest * unit


def nvfp4_rows(module: StoredModule, weight: Extent) -> Iterator[Rows]:
    """The weight of a module in the source, and what is stored of it, window by window.

    The next window is read while one is used.
    """
    scale = torch.tensor(module.number("weight_scale_2"))

    def read(window: range) -> Rows:
        packed, scales = (module.parts[part].rows(window) for part in ("weight", "weight_scale"))
        return weight.rows(window), packed, scales, scale

    following: Future[Rows] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        for window in windows(weight):
            reading = pool.submit(read, window)
            if following is not None:
                yield following.result()
            following = reading
        if following is not None:
            yield following.result()


def windows(tensor: Extent) -> Iterator[range]:
    """The rows of a tensor, some megabytes at a time."""
    count, *inner = tensor.tensor.shape
    step = max(1, _WINDOW_BYTES // (2 * math.prod(inner)))
    for first in range(0, count, step):
        yield range(first, min(first + step, count))


def _derive_nvfp4(
    module: StoredModule, weight: Extent, told: Progress, *, foreign: bool
) -> Derived:
    scale = torch.tensor(module.number("weight_scale_2"))
    numbers = weight.tensor.shape[0] * weight.tensor.shape[1]
    found = Derived(module.name, module.algorithm, numbers, torch.tensor(0.0), scale)
    for rows, packed, scales, _ in nvfp4_rows(module, weight):
        largest = torch.maximum(found.largest, amax(rows))
        found = replace(_compared(found, rows, packed, scales, foreign=foreign), largest=largest)
        told.advance(amount=rows.numel() * rows.element_size())
    return found


def _compared(
    found: Derived,
    rows: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    *,
    foreign: bool,
) -> Derived:
    """What a window adds."""
    scale = found.scale
    codes, maxima = pack(rows, scale)
    # Eight bytes at a time: torch compares one number after the other.
    if torch.equal(_bytes(maxima), _bytes(scales)) and torch.equal(_eights(codes), _eights(packed)):
        return found
    chosen = _bytes(maxima) != _bytes(scales)
    if foreign:
        chosen &= _bytes(_rounded_maxima(rows, scale)) != _bytes(scales)
    codes, _ = pack(rows, scale, scales)
    different = codes ^ packed
    other = int((different & 0xF != 0).sum() + (different >> 4 != 0).sum())
    far = int((code_errors(rows, packed, scales, scale) > _TOLERANCE).sum()) if other else 0
    blocks = chosen | (different != 0).unflatten(-1, (-1, 8)).any(-1)
    errors = square_sums(dequantize(packed, scales, scale) - rows.float())
    wanted = maximum_scales(rows, scale)
    least = rounding_errors(rows, wanted, scale)
    return replace(
        found,
        other_scales=found.other_scales + int(chosen.sum()),
        other_codes=found.other_codes + other,
        far_codes=found.far_codes + far,
        error=found.error + errors[blocks].double().sum().item(),
        least=found.least + least[blocks].double().sum().item(),
    )


def _reciprocal(scale: torch.Tensor) -> float:
    """The reciprocal that a scale was read from: a bf16 number, where one is beside it."""
    exact = reciprocal_of(scale.item())
    rounded = float(torch.tensor(exact).to(torch.bfloat16))
    # A float32 scale gives its reciprocal back to the last bit or two.
    return rounded if abs(rounded - exact) <= 2 * _LAST_BIT * exact else exact


def _rounded_maxima(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Block scales as llm-compressor computes them, float8_e4m3fn [n, K/16]."""
    largest = rows.unflatten(-1, (-1, BLOCK)).abs().amax(-1)
    # Over 6 in the weight's own dtype.
    scales = (largest / E2M1_VALUES[-1]).float() * _reciprocal(scale)
    return scales.clamp(max=fp8.E4M3_LARGEST).to(torch.float8_e4m3fn)


def _derive_fp8(module: StoredModule, weight: Extent, told: Progress) -> Derived:
    scale = torch.tensor(module.number("weight_scale"))
    numbers = weight.tensor.shape[0] * weight.tensor.shape[1]
    found = Derived(module.name, FP8, numbers, torch.tensor(0.0), scale)
    for window in windows(weight):
        rows, stored = weight.rows(window), module.parts["weight"].rows(window)
        different = _bytes(fp8.quantize(rows, scale)) != _bytes(stored)
        far = different.any() and fp8.worst_rounding(rows, stored, scale) > _TOLERANCE
        found = replace(
            found,
            largest=torch.maximum(found.largest, amax(rows)),
            other_codes=found.other_codes + int(different.sum()),
            far_codes=found.far_codes + int(far),
        )
        told.advance(amount=rows.numel() * rows.element_size())
    return found


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8)


def _eights(codes: torch.Tensor) -> torch.Tensor:
    """Codes, 16 to a number: each row has a whole number of blocks."""
    return codes.view(torch.int64)
