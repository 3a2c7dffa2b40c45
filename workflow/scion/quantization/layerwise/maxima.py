"""The largest input of each linear module: what the first pass of every recipe's calibration finds.

Nothing is quantized in that pass, so one pass over the samples serves several recipes: ModelOpt's
quantizers are shown the maxima in place of the samples, and find the same.
"""

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scion.formats.modelopt import BLOCK
from scion.quantization.layerwise.experts import stacked_experts, watch_inputs


@contextmanager
def record_maxima(layer: nn.Module) -> Generator[dict[str, Tensor]]:
    """Take the maxima of all that passes through a layer while the context lasts.

    Yields:
        max|input| by the name of each linear module that saw anything, and of each stack of experts
        for all of them together: [], of the input's dtype.
    """
    maxima: dict[str, Tensor] = {}

    def take(name: str, inputs: Tensor) -> None:
        largest = inputs.abs().amax()
        maxima[name] = torch.maximum(maxima.get(name, largest), largest)

    def hook(name: str) -> Any:
        return lambda _module, inputs: take(name, inputs[0])

    linear = [(n, m) for n, m in layer.named_modules() if isinstance(m, nn.Linear)]
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in linear]
    try:
        with ExitStack() as watching:
            for name, experts in stacked_experts(layer).items():
                watching.enter_context(
                    watch_inputs(experts, lambda part, x, name=name: take(f"{name}.{part}", x))
                )
            yield maxima
    finally:
        for handle in handles:
            handle.remove()


def show_maxima(layer: nn.Module, maxima: Mapping[str, Tensor]) -> None:
    """Let the input quantizers of a layer see these maxima, as if the samples passed through it."""
    for name, largest in maxima.items():
        quantizer = _input_quantizer(layer, name)
        if quantizer is not None and quantizer.is_enabled:
            quantizer(largest.expand(1, BLOCK))


def _input_quantizer(layer: nn.Module, name: str) -> Any:
    """That of a linear module, or of a stack: a parameter of the module that holds it."""
    owner, _, last = name.rpartition(".")
    if hasattr(layer.get_submodule(owner), f"{last}_input_quantizer"):
        return getattr(layer.get_submodule(owner), f"{last}_input_quantizer")
    return getattr(layer.get_submodule(name), "input_quantizer", None)
