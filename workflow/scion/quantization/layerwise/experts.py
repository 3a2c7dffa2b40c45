"""The experts of a layer, as transformers stacks them and ModelOpt quantizes them.

transformers holds all experts of a layer in two tensors, whatever a checkpoint does: `gate_up_proj`
[experts, 2 * inner, hidden] and `down_proj` [experts, hidden, inner]. ModelOpt 0.47 wraps that
module (`_QuantFusedExperts` in `modelopt/torch/quantization/plugins/huggingface.py`): each expert
has its own weight quantizer in each of the two; input quantizers are one for all experts. So

- gate and up of an expert share a global scale, which engines that fuse them ask for;
- an expert that no sample reached has weight scales by its own weights, as all have, and the
  activation scales of its layer. Where scales are chosen by samples, its are chosen by least
  squares, since there is no Hessian.

ModelOpt's wrapper sees products of matrices through `torch.nn.functional.linear`, which
transformers calls in its "eager" implementation of experts alone. With its default, one grouped
product of all experts, calibration would see no input, and say nothing
(https://github.com/NVIDIA/Model-Optimizer/issues/2011). `scion.quantization.layerwise.skeleton`
builds layers with the former.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from torch import Tensor, nn
from torch.nn import functional

from scion.formats.modelopt import BLOCK
from scion.formats.packing import pack
from scion.quantization.layerwise.placing import EXPERTS_AT_ONCE
from scion.quantization.layerwise.refusals import no_scale

GATE_UP, DOWN = "gate_up_proj", "down_proj"


def stacked_experts(layer: nn.Module) -> dict[str, Any]:
    """The modules of a layer that hold stacks of experts, by name inside it."""
    return {
        name: module
        for name, module in layer.named_modules()
        if all(getattr(getattr(module, part, None), "ndim", 0) == 3 for part in (GATE_UP, DOWN))
    }


@contextmanager
def watch_inputs(experts: Any, see: Callable[[str, Tensor], None]) -> Generator[None]:
    """Be told what experts multiply with their stacks, while the context lasts.

    Args:
        experts: Stacked, not wrapped by ModelOpt.
        see: Called with `gate_up_proj` or `down_proj` and each input, [tokens of an expert, K].
    """
    whole, linear = experts.forward, functional.linear
    part_of = {
        getattr(experts, part).untyped_storage().data_ptr(): part for part in (GATE_UP, DOWN)
    }

    def watched(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        see(part_of[weight.untyped_storage().data_ptr()], inputs)
        return linear(inputs, weight, bias)

    def forward(*arguments: Any) -> Tensor:
        # transformers looks it up here for each product; a hook can't be put between.
        functional.linear = watched
        try:
            return whole(*arguments)
        finally:
            functional.linear = linear

    experts.forward = forward
    try:
        yield
    finally:
        del experts.forward


@contextmanager
def count_tokens(layer: nn.Module) -> Generator[dict[str, Tensor]]:
    """Count the tokens that each expert of a layer gets while the context lasts.

    Yields:
        int64 [experts] by the name of each module of `stacked_experts`.
    """
    counts: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def count(module: Any, inputs: tuple[Tensor, ...]) -> None:
            found = torch.bincount(inputs[1].flatten(), minlength=module.num_experts)
            counts[name] = found + counts.get(name, 0)

        return count

    experts = stacked_experts(layer).items()
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in experts]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def searched_maxima(experts: Any) -> Iterator[tuple[str, Tensor]]:
    """What a search took for the largest weight of each block.

    Yields:
        Name of each expert's projection inside `experts`, such as `7.up_proj`; float32 [N, K/16].
    """
    for part in (GATE_UP, DOWN):
        rows = getattr(experts, part).shape[1]
        for expert, quantizer in enumerate(_weight_quantizers(experts, part)):
            amax = quantizer.amax.float().view(rows, -1)
            for projection, window in _windows(part, rows).items():
                yield f"{expert}.{projection}", amax[window]


def export_experts(experts: Any, *, name: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tensors of all experts, as ModelOpt's `_export_fused_experts` makes them.

    Args:
        experts: Calibrated.
        name: Their stored name.

    Yields:
        Stored name of each expert's projection, and CPU tensors by suffix, which may be parts of
        larger ones.

    Raises:
        ScionError: All weights of an expert, or all inputs of a layer's, are zero.
    """
    for part in (GATE_UP, DOWN):
        weights: Tensor = getattr(experts, part).detach()
        quantizers, input_quantizer = _weight_quantizers(experts, part), _input(experts, part)
        _require_scales(quantizers, input_quantizer, where=f"{name}.{part}")
        activations: dict[str, Tensor] = {}
        # It is off where weights alone are quantized.
        if input_quantizer.is_enabled:
            scale: Any = NVFP4QTensor.get_activation_scaling_factor(input_quantizer)
            activations = {"input_scale": scale.squeeze().cpu()}
        step = EXPERTS_AT_ONCE if weights.is_cuda else 1
        for first in range(0, len(weights), step):
            group = slice(first, first + step)
            for expert, (packed, blocks, scale_2) in enumerate(
                zip(*_pack(weights[group], quantizers[group]), strict=True), start=first
            ):
                for projection, window in _windows(part, weights.shape[1]).items():
                    yield (
                        f"{name}.{expert}.{projection}",
                        {
                            "weight": packed[window],
                            "weight_scale": blocks[window],
                            "weight_scale_2": scale_2,
                            **activations,
                        },
                    )


def _pack(weights: Tensor, quantizers: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [E, N, K/2], block scales [E, N, K/16] and global scales [E] of some experts."""
    factors = [NVFP4QTensor.get_weights_scaling_factor_2_from_quantizer(q) for q in quantizers]
    global_scales = torch.stack([factor.squeeze() for factor in factors])
    searched = getattr(quantizers[0], "global_amax", None) is not None
    scales = (
        torch.stack(
            [
                NVFP4QTensor.get_weights_scaling_factor_from_quantizer(quantizer, weight, factor)[0]
                for quantizer, weight, factor in zip(quantizers, weights, factors, strict=True)
            ]
        )
        if searched
        else None
    )
    if not weights.is_cuda:
        packed, scale = pack(weights[0], global_scales[0], None if scales is None else scales[0])
        return packed[None], scale[None], global_scales
    packed, blocks = pack_together(weights, global_scales, scales)
    return packed.cpu(), blocks.cpu(), global_scales.cpu()


def pack_together(
    weights: Tensor, global_scales: Tensor, scales: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Codes and block scales of several experts at once: the bytes that each has by itself.

    Args:
        weights: [E, N, K].
        global_scales: float32 [E].
        scales: float8_e4m3fn [E, N, K/16] that were searched; by maxima if there are none.
    """
    each = global_scales[:, None, None]
    if scales is None:
        scales, _ = NVFP4QTensor.get_weights_scaling_factor(weights, BLOCK, each)
    quantized: Any = NVFP4QTensor.quantize(weights, BLOCK, scales, each)
    return quantized[0]._quantized_data, scales


def _weight_quantizers(experts: Any, part: str) -> Sequence[Any]:
    return list(getattr(experts, f"{part}_weight_quantizers"))


def _input(experts: Any, part: str) -> Any:
    return getattr(experts, f"{part}_input_quantizer")


def _windows(part: str, rows: int) -> dict[str, slice]:
    """Rows of a stack by the projection that they are."""
    if part == DOWN:
        return {DOWN: slice(rows)}
    return {"gate_proj": slice(rows // 2), "up_proj": slice(rows // 2, rows)}


def _require_scales(quantizers: Sequence[Any], input_quantizer: Any, *, where: str) -> None:
    largest = torch.stack([quantizer.amax.max().float() for quantizer in quantizers]).cpu()
    dead = (~(largest > 0)).nonzero().flatten().tolist()
    inputs = input_quantizer.amax
    if dead:
        raise no_scale(f"{where}, expert {dead[0]}", largest[dead[0]], inputs)
    if input_quantizer.is_enabled and (inputs is None or not inputs.max() > 0):
        raise no_scale(where, largest.max(), inputs)
