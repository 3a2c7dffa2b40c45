"""Pack one generated matrix again and again, one way; a line of JSON: HOW ROWS COLUMNS CALLS.

The first call is told apart: what has to be compiled is compiled in it.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import resident_mb

Packer = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
_ROWS = 64


def packer(way: str) -> Packer:
    """A function of weight and global scale that gives codes and block scales."""
    if way == "scion":
        from scion.formats.packing import pack

        return pack
    return {
        "modelopt": _by_modelopt,
        "modelopt-by-rows": _by_modelopt_in_parts,
        "modelopt-compiled": torch.compile(_by_modelopt, dynamic=False),
    }[way]


def _by_modelopt(
    weight: torch.Tensor, global_scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    quantized: Any = NVFP4QTensor.quantize(weight, 16, None, global_scale)
    return quantized[0]._quantized_data, quantized[1]


def _by_modelopt_in_parts(
    weight: torch.Tensor, global_scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = weight.shape
    codes = torch.empty(rows, columns // 2, dtype=torch.uint8)
    scales = torch.empty(rows, columns // 16, dtype=torch.float8_e4m3fn)
    for first in range(0, rows, _ROWS):
        part = slice(first, first + _ROWS)
        codes[part], scales[part] = _by_modelopt(weight[part], global_scale)
    return codes, scales


def matrix(rows: int, columns: int) -> torch.Tensor:
    """bfloat16, normal, rows of different size, as in a trained model; always the same."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.empty(rows, columns, dtype=torch.bfloat16)
    # In parts: what is taken here beside the matrix would hide what packing takes.
    for part in weight.split(_ROWS):
        sizes = torch.rand(len(part), 1, generator=generator) * 0.03 + 0.01
        part.copy_(torch.randn(part.shape, generator=generator) * sizes)
    return weight


def timed(pack: Packer, weight: torch.Tensor, global_scale: torch.Tensor) -> tuple[float, str]:
    """Seconds of one call, and the digest of all its bytes."""
    start = time.perf_counter()
    codes, scales = pack(weight, global_scale)
    seconds = time.perf_counter() - start
    digest = hashlib.sha256(codes.numpy().data)
    digest.update(scales.view(torch.uint8).numpy().data)
    return seconds, digest.hexdigest()


def main() -> int:
    """Measure."""
    way, (rows, columns, calls) = sys.argv[1], map(int, sys.argv[2:])
    pack = packer(way)
    weight = matrix(rows, columns)
    low, high = torch.aminmax(weight)
    global_scale = torch.maximum(-low, high).float() / (6 * 448)
    if way != "scion":
        # Imports ModelOpt, so that the first call does not.
        _by_modelopt(weight[:1], global_scale)
    first, digest = timed(pack, weight, global_scale)
    peak, before = resident_mb("VmHWM"), resident_mb("VmRSS")
    # Resets VmHWM, so that a compiler's memory does not count as packing's.
    Path("/proc/self/clear_refs").write_text("5")
    runs = [timed(pack, weight, global_scale) for _ in range(calls)]
    result = {
        "first": first,
        "seconds": [seconds for seconds, _ in runs],
        "sha256": sorted({digest, *(digest for _, digest in runs)}),
        "peak_rss_mb": max(peak, resident_mb("VmHWM")),
        "extra_mb": resident_mb("VmHWM") - before,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
