"""One decoder layer: its weights loaded, calibrated by ModelOpt, packed.

ModelOpt's configurations choose modules by patterns over names, so a layer stands in empty modules
under the name that it has in the whole model; to ModelOpt that is a model of one layer. What
calibration and export do to it is what they do to the layer of a model that is loaded whole.
"""

import contextlib
import io
import math
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export.model_config import QUANTIZATION_FP8, QUANTIZATION_W4A16_NVFP4
from modelopt.torch.export.quant_utils import (
    get_activation_scaling_factor,
    get_quantization_format,
    get_weight_scaling_factor,
    get_weight_scaling_factor_2,
    preprocess_linear_fusion,
    to_quantized_weight,
)
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from safetensors import safe_open
from torch import Tensor, nn

from scion.architectures.stacks import Stack
from scion.checkpoint.safetensors_file import Tensor as StoredTensor
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.formats.modelopt import BLOCK
from scion.formats.nvfp4 import E2M1_VALUES
from scion.formats.packing import pack
from scion.quantization.checksum import WINDOW, checksum
from scion.quantization.layerwise.experts import (
    export_experts,
    searched_maxima,
    stacked_experts,
)
from scion.quantization.layerwise.gptq import gptq
from scion.quantization.layerwise.refusals import no_scale, not_finite
from scion.quantization.recipes import Recipe

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
Run = Callable[[nn.Module], None]


def load(
    empty: nn.Module,
    checkpoint: Checkpoint,
    name: str,
    *,
    device: torch.device,
    stacks: Mapping[str, Stack] = MappingProxyType({}),
) -> nn.Module:
    """Give a layer that was built on the meta device its weights, in bf16.

    Args:
        empty: The layer.
        checkpoint: Where its tensors are.
        name: Its name there, such as `model.language_model.layers.3`.
        device: Where the weights go.
        stacks: What the checkpoint may hold one by one and the layer wants stacked, by name.

    Raises:
        ScionError: A tensor is missing, has another shape, or is not finite.
    """

    def tensor(stored: str, shape: torch.Size) -> Tensor:
        if stored in stacks and stored not in checkpoint.shard_of:
            return _stack(checkpoint, stacks[stored], device)
        return _tensor(checkpoint, stored, shape, device)

    state = {key: tensor(f"{name}.{key}", it.shape) for key, it in empty.named_parameters()}
    empty.load_state_dict(state, assign=True)
    return empty.eval().requires_grad_(False)


def _tensor(checkpoint: Checkpoint, name: str, shape: torch.Size, device: torch.device) -> Tensor:
    shard = checkpoint.shard_of.get(name)
    stored_shape = None if shard is None else checkpoint.tensor(name).shape
    if shard is None or stored_shape != tuple(shape):
        raise ScionError(
            "a tensor of a decoder layer is not as config.json implies",
            where=f"{checkpoint.folder}: {name}",
            expected=f"shape {list(shape)}",
            found="no such tensor" if stored_shape is None else f"shape {list(stored_shape)}",
            hint="compare config.json with the shards; run the workflow from fetch_source",
        )
    with safe_open(checkpoint.folder / shard, "pt", device=str(device)) as file:
        tensor = file.get_tensor(name).to(torch.bfloat16)
    if not _finite(tensor):
        raise not_finite(f"{checkpoint.folder / shard}: {name}")
    return tensor


def _stack(checkpoint: Checkpoint, stack: Stack, device: torch.device) -> Tensor:
    """A stack of experts that the checkpoint holds one by one."""
    experts = torch.empty(stack.shape, dtype=torch.bfloat16, device=device)
    for member, target in zip(stack.members, experts.view(-1, *stack.member_shape), strict=True):
        target.copy_(_tensor(checkpoint, member, torch.Size(stack.member_shape), device))
    return experts


def _finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite. `torch.isfinite` takes two copies' memory; extremes none."""
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def refuse_not_finite(tensor: StoredTensor, raw: bytes, where: object) -> None:
    """Raise if the bytes of a stored tensor, or of a part of it, hold NaN or infinity."""
    dtype = FLOATS.get(tensor.dtype)
    if dtype is None:
        return
    if raw and not _finite(torch.frombuffer(bytearray(raw), dtype=dtype)):
        raise not_finite(f"{where}: {tensor.name}")


def named_alone(layer: nn.Module, name: str) -> nn.Module:
    """A module in which `layer` is the only content and has the name `name`."""
    root = nn.Module()
    *parents, last = name.split(".")
    parent = root
    for part in parents:
        parent.add_module(part, child := nn.Module())
        parent = child
    parent.add_module(last, layer)
    return root


def calibrate(root: nn.Module, recipe: Recipe, run: Run) -> None:
    """Find the scales of a layer, and with GPTQ its new weights.

    Args:
        root: What `named_alone` gives.
        recipe: What to do.
        run: Passes all samples through the layer.

    Raises:
        ScionError: ModelOpt stopped. It would still export, with scales that mean nothing.
    """
    with _quiet() as output, torch.no_grad():
        try:
            mtq.quantize(root, recipe.config, run)
            if recipe.compensated:
                gptq(root, run)
        except (ScionError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ScionError(
                "ModelOpt could not calibrate a layer",
                where=_layer_name(root),
                expected=f"a calibration by the recipe {recipe.name}",
                found=f"{type(error).__name__}: {error}",
                hint="read the log above; quantization.recipe names other recipes",
            ) from error
        finally:
            _repeat_warnings(output.getvalue())


def _layer_name(root: nn.Module) -> str:
    quantizers = (name for name, _ in root.named_modules() if name.endswith("weight_quantizer"))
    return next(quantizers, "a decoder layer").rpartition(".layers.")[2]


@contextlib.contextmanager
def _quiet() -> Generator[io.StringIO]:
    """Keep what ModelOpt prints for every layer: counts of quantizers, bars of its own."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        yield output


def _repeat_warnings(output: str) -> None:
    lines = dict.fromkeys(line for line in output.splitlines() if line.startswith("Warning"))
    for line in lines:
        print(f"ModelOpt: {line}", file=sys.stderr)


def scale_checksums(layer: nn.Module, modules: Sequence[str], *, name: str) -> dict[str, float]:
    """Checksums of the block scales that a search has found, before anything is packed.

    Args:
        layer: The layer, calibrated.
        modules: Stored names of modules in NVFP4 whose scales are static.
        name: The layer's stored name.
    """
    of_experts = {
        f"{name}.{block}.{projection}": amax
        for block, experts in stacked_experts(layer).items()
        for projection, amax in (searched_maxima(experts) if modules else ())
    }
    found: dict[str, float] = {}
    for stored in modules:
        amax = of_experts.get(stored)
        if amax is None:
            module: Any = layer.get_submodule(stored.removeprefix(f"{name}."))
            amax = module.weight_quantizer.amax.float().view(module.weight.shape[0], -1)
        parts = [
            checksum(rows, module=stored, first=WINDOW * number)
            for number, rows in enumerate((amax / E2M1_VALUES[-1]).split(WINDOW))
        ]
        # Without the last digits: they depend on the number of threads.
        found[stored] = float(f"{math.fsum(parts):.9g}")
    return found


def export(
    layer: nn.Module, modules: Iterable[str], groups: Sequence[tuple[str, ...]], *, name: str
) -> dict[str, Tensor]:
    """The tensors of a calibrated layer's quantized modules, as ModelOpt exports them.

    ModelOpt tells by a module's quantizers whether it is in NVFP4 or FP8. How a release spells
    them is the shards' to say (`scion.formats.spellings`).

    Args:
        layer: The layer, calibrated.
        modules: Stored names of its quantized modules.
        groups: Those of them that engines load as one: they get one scale.
        name: The layer's stored name.

    Returns:
        CPU tensors by module and suffix: `weight`, `weight_scale` each, of NVFP4 `weight_scale_2`,
        and `input_scale` where inputs are quantized.

    Raises:
        ScionError: A module has no scale: its weights or all its inputs are zero.
    """

    def module(stored: str) -> Any:
        return layer.get_submodule(stored.removeprefix(f"{name}."))

    made = {
        stored: found
        for block, experts in stacked_experts(layer).items()
        for stored, found in export_experts(experts, name=f"{name}.{block}")
    }
    for group in groups:
        # Gate and up of an expert have one quantizer.
        if made.keys().isdisjoint(group):
            preprocess_linear_fusion([module(stored) for stored in group])
    tensors: dict[str, Tensor] = {}
    for stored in modules:
        for suffix, tensor in (made.get(stored) or _export_module(module(stored), stored)).items():
            tensors[f"{stored}.{suffix}"] = tensor.cpu()
    return tensors


def _export_module(module: Any, stored: str) -> dict[str, Tensor]:
    weight, quantizer = module.weight.detach(), module.weight_quantizer
    amax, input_amax = quantizer.amax, module.input_quantizer.amax
    form = get_quantization_format(module)
    inputs = form != QUANTIZATION_W4A16_NVFP4
    if not _positive(amax) or (inputs and not _positive(input_amax)):
        raise no_scale(stored, amax, input_amax)
    if not inputs:
        return _four_bits(module, weight)
    input_scale = get_activation_scaling_factor(module).squeeze()
    if form == QUANTIZATION_FP8:
        # A scalar, as in ModelOpt's export: the quotient then has the weight's dtype, not float32.
        scale = get_weight_scaling_factor(module).squeeze()
        packed = to_quantized_weight(weight, scale, QUANTIZATION_FP8)
        return {"weight": packed, "weight_scale": scale, "input_scale": input_scale}
    return {**_four_bits(module, weight), "input_scale": input_scale}


def _four_bits(module: Any, weight: Tensor) -> dict[str, Tensor]:
    scale_2 = get_weight_scaling_factor_2(module).squeeze()
    packed, scale = _pack(module, weight, scale_2)
    return {"weight": packed, "weight_scale": scale, "weight_scale_2": scale_2}


def _positive(amax: Tensor | None) -> bool:
    return amax is not None and bool(amax.max() > 0)


def _pack(module: Any, weight: Tensor, scale_2: Tensor) -> tuple[Tensor, Tensor]:
    if weight.is_cuda:
        scale = get_weight_scaling_factor(module)
        packed: Any = NVFP4QTensor.quantize(weight, BLOCK, scale, scale_2)
        return packed[0]._quantized_data, scale
    # Where scales were searched they stand in the quantizer; else `pack` takes the maxima.
    searched = getattr(module.weight_quantizer, "global_amax", None) is not None
    return pack(weight, scale_2, get_weight_scaling_factor(module) if searched else None)
