"""The largest input of each linear module: what the first pass of every recipe's calibration finds.

Nothing is quantized in that pass, so one pass over the samples serves several recipes: ModelOpt's
quantizers are shown the maxima in place of the samples, and find the same.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scion.formats.modelopt import BLOCK


@contextmanager
def record_maxima(layer: nn.Module) -> Generator[dict[str, Tensor]]:
    """Take the maxima of all that passes through a layer while the context lasts.

    Yields:
        max|input| by the name of each linear module that saw anything: [], of the input's dtype.
    """
    maxima: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def take(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest = inputs[0].abs().amax()
            maxima[name] = torch.maximum(maxima.get(name, largest), largest)

        return take

    linear = [(n, m) for n, m in layer.named_modules() if isinstance(m, nn.Linear)]
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in linear]
    try:
        yield maxima
    finally:
        for handle in handles:
            handle.remove()


def show_maxima(layer: nn.Module, maxima: Mapping[str, Tensor]) -> None:
    """Let the input quantizers of a layer see these maxima, as if the samples passed through it."""
    for name, module in layer.named_modules():
        quantizer: Any = getattr(module, "input_quantizer", None)
        if name in maxima and quantizer is not None and quantizer.is_enabled:
            quantizer(maxima[name].expand(1, BLOCK))
