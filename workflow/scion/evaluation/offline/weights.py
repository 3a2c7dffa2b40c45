"""Modules of transformers filled from a checkpoint, NVFP4 and FP8 matrices among them.

Tensors go to the device one by one, so beside the model there is never more than one of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from scion.architectures.families import family_of, offline_families
from scion.architectures.inventory import (
    Inventory,
    declared_mtp_layers,
    inventory,
    with_mtp_layers,
)
from scion.checkpoint.shards import CONFIG, Checkpoint, read_object
from scion.common.errors import ScionError
from scion.evaluation.offline.experts import NvFp4Experts
from scion.evaluation.offline.linear import Fp8Linear, NvFp4Linear
from scion.formats.fp8 import dequantize
from scion.formats.modelopt import FP8, HF_QUANT_CONFIG, MIXED, NVFP4, W4A16
from scion.formats.spellings import DEFAULT_SPELLING, SPELLINGS, Spelling, declared_spelling
from scion.quantization.respelling import stored_algorithms

Activations = Literal["nvfp4", "bf16"]
_BF16 = torch.bfloat16
_WEIGHTS = {row["weight"].name for each in SPELLINGS.values() for row in each.tensors.values()}


class Weights:
    """The tensors of a release, as vLLM would hold them.

    vLLM loads `q_proj`, `k_proj` and `v_proj` as one matrix, likewise the other groups of
    `Inventory.groups`, and gives each group the largest of its scales; so does this. FP8 weights it
    rounds anew to that scale.

    Attributes:
        checkpoint: Headers and config.json.
        inventory: The tensors that config.json implies, with one MTP layer.
        device: Where tensors go.
        activations: What NVFP4 layers do to their input; bf16 where nothing is in NVFP4.

    Args:
        checkpoint: The release.
        device: Where tensors go.
        activations: Whether NVFP4 layers round their input; those of weights alone never do.
        compiled: Whether NVFP4 layers have compiled kernels; see `NvFp4Linear`.

    Raises:
        ScionError: Another architecture than dense Qwen3.5/3.6, no MTP head or one of several
            layers, or another quantization than NVFP4, alone or beside FP8.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        activations: Activations,
        compiled: bool = False,
    ) -> None:
        self._compiled = compiled
        self.checkpoint, self.device = checkpoint, device
        self.inventory = _inventory(checkpoint)
        quantized = _quantized(checkpoint)
        rounding = quantized is not None and not quantized.weights_alone
        self.activations: Activations = activations if rounding else "bf16"
        self._fp8 = quantized.fp8 if quantized else frozenset[str]()
        self._spelling = quantized.spelling if quantized else DEFAULT_SPELLING
        self._group = {name: group for group in self.inventory.groups for name in group}

    def tensor(self, name: str, *, device: torch.device | None = None) -> Tensor:
        """One tensor as it is stored.

        Args:
            name: Its name.
            device: Where it goes; None: where tensors go.

        Raises:
            ScionError: It isn't there.
        """
        shard = self.checkpoint.shard_of.get(name)
        if shard is None:
            raise _missing(self.checkpoint, [name])
        where = str(device or self.device)
        with safe_open(self.checkpoint.folder / shard, "pt", device=where) as file:
            return file.get_tensor(name)

    def fill(self, module: nn.Module, prefix: str) -> None:
        """Give a module that was built on the meta device its tensors.

        Args:
            module: Its parameters' names, after `prefix`, are those of the checkpoint.
            prefix: Such as that of the language model, or of the MTP head.

        Raises:
            ScionError: A tensor is missing, or has another shape or dtype than the module wants.
        """
        for name, part in list(module.named_modules()):
            scaled = f"{prefix}{name}.weight_scale" in self.checkpoint.shard_of
            if scaled and isinstance(part, nn.Linear):
                build = self._eight_bits if prefix + name in self._fp8 else self._linear
                module.set_submodule(name, build(prefix + name, part))
            elif f"{prefix}{name}.0.down_proj.weight_scale" in self.checkpoint.shard_of:
                module.set_submodule(name, self._experts(prefix + name, part))
        for name, empty in list(module.named_parameters()):
            owner, _, last = name.rpartition(".")
            value = self._plain(prefix + name, tuple(empty.shape))
            # vLLM keeps the decay rates in float32, whatever they are stored in.
            value = value.to(torch.float32 if last == "A_log" else _BF16)
            setattr(module.get_submodule(owner), last, nn.Parameter(value, requires_grad=False))

    def _plain(self, name: str, shape: tuple[int, ...]) -> Tensor:
        stack = self.inventory.stacked.get(name)
        if stack is not None and name not in self.checkpoint.shard_of:
            parts = [self._plain(member, stack.member_shape) for member in stack.members]
            return torch.cat(parts).view(shape)
        value = self.tensor(name)
        if tuple(value.shape) != shape or value.dtype not in (_BF16, torch.float16, torch.float32):
            raise _wrong(self.checkpoint, name, f"bf16 {list(shape)}", value)
        return value

    def _experts(self, name: str, experts: Any) -> NvFp4Experts:
        rounded = self.activations == "nvfp4"

        def projections(part: str, rows: int, columns: int) -> list[NvFp4Linear]:
            modules = [f"{name}.{number}.{part}" for number in range(experts.num_experts)]
            shared = self._most(modules, NVFP4, "input_scale") if rounded else None
            return [self._nvfp4(module, rows, columns, input_scale=shared) for module in modules]

        _, hidden, inner = experts.down_proj.shape
        parts = (
            ("gate_proj", inner, hidden),
            ("up_proj", inner, hidden),
            ("down_proj", hidden, inner),
        )
        return NvFp4Experts(*(projections(*part) for part in parts))

    def _linear(self, name: str, linear: nn.Linear) -> NvFp4Linear:
        rounded = self.activations == "nvfp4"
        scale = self._largest(name, NVFP4, "input_scale") if rounded else None
        return self._nvfp4(name, linear.out_features, linear.in_features, input_scale=scale)

    def _nvfp4(
        self, name: str, rows: int, columns: int, *, input_scale: Tensor | None
    ) -> NvFp4Linear:
        stored = self._spelling.tensor(name, NVFP4, "weight").name
        packed, scale = self.tensor(stored), self.tensor(f"{name}.weight_scale")
        if packed.dtype != torch.uint8 or packed.shape != (rows, columns // 2):
            raise _wrong(self.checkpoint, stored, f"uint8 [{rows}, {columns // 2}]", packed)
        if scale.dtype != torch.float8_e4m3fn or scale.shape != (rows, columns // 16):
            wanted = f"float8_e4m3fn [{rows}, {columns // 16}]"
            raise _wrong(self.checkpoint, f"{name}.weight_scale", wanted, scale)
        return NvFp4Linear(
            packed,
            scale,
            self._largest(name, NVFP4, "weight_scale_2"),
            input_scale=input_scale,
            # A CPU would spend most of its time on decoding, and has memory.
            keep=self.device.type == "cpu",
            compiled=self._compiled,
        )

    def _eight_bits(self, name: str, linear: nn.Linear) -> Fp8Linear:
        weight, scale = self.tensor(f"{name}.weight"), self.tensor(f"{name}.weight_scale").float()
        shape = (linear.out_features, linear.in_features)
        if weight.dtype != torch.float8_e4m3fn or weight.shape != shape:
            wanted = f"float8_e4m3fn {list(shape)}"
            raise _wrong(self.checkpoint, f"{name}.weight", wanted, weight)
        shared = self._largest(name, FP8, "weight_scale")
        if scale.item() != shared.item():
            weight = (dequantize(weight, scale) / shared).to(torch.float8_e4m3fn)
        # GPUs without FP4 units have FP8 ones, so inputs are rounded whatever `activations` says.
        input_scale = self._largest(name, FP8, "input_scale")
        return Fp8Linear(weight, shared, input_scale, keep=self.device.type == "cpu")

    def _largest(self, name: str, algorithm: str, scale: str) -> Tensor:
        return self._most(self._group.get(name, (name,)), algorithm, scale)

    def _most(self, modules: Iterable[str], algorithm: str, scale: str) -> Tensor:
        spelled = [self._spelling.tensor(module, algorithm, scale) for module in modules]
        largest = max(each.meant(self.tensor(each.name).item()) for each in spelled)
        return torch.tensor(largest, device=self.device)


def _inventory(checkpoint: Checkpoint) -> Inventory:
    config, where = checkpoint.config, checkpoint.folder / CONFIG
    family = family_of(config)
    head = family.head if family is not None else None
    classes: Any = config.get("architectures") or [family.architecture if family else None]
    measurable = family is not None and family in offline_families()
    if family is None or head is None or not measurable or classes != [family.architecture]:
        raise ScionError(
            "the acceptance of this architecture can't be measured offline",
            where=where,
            expected=" or ".join(
                f"model_type {row.model_type}, architecture {row.architecture} ({row.title})"
                for row in offline_families()
            ),
            found=f"model_type {config.get('model_type')!r}, architectures {classes!r}",
            hint="measure it on a vLLM server, which counts drafts and accepted tokens itself",
        )
    expected = inventory(config, where=where)
    declared = declared_mtp_layers(config, where=where)
    if not expected.mtp:
        expected = inventory(with_mtp_layers(config, 1), where=where)
    elif declared != 1:
        raise ScionError(
            "an MTP head of several layers can't be measured offline",
            where=where,
            expected=f"{'text_config.' if family.nested else ''}{head.layers_key} 1",
            found=declared,
            hint="measure it on a vLLM server, which counts drafts and accepted tokens itself",
        )
    represented = expected.represented(map(_weight_of, checkpoint.shard_of))
    missing = [name for name in expected.mtp if name not in represented]
    if missing:
        raise _missing(checkpoint, missing)
    return expected


def _weight_of(name: str) -> str:
    """The name that a stored weight has where it is not packed, in any spelling."""
    module, _, last = name.rpartition(".")
    return f"{module}.weight" if last in _WEIGHTS else name


@dataclass(frozen=True)
class _Quantized:
    """What a release declares.

    Attributes:
        spelling: How it names tensors.
        fp8: The modules in FP8; all others that are quantized are in NVFP4.
        weights_alone: Whether their inputs stay as they are.
    """

    spelling: Spelling
    fp8: frozenset[str]
    weights_alone: bool


def _quantized(checkpoint: Checkpoint) -> _Quantized | None:
    """What is declared; None for a bf16 release."""
    declared: Any = checkpoint.config.get("quantization_config")
    file = checkpoint.folder / HF_QUANT_CONFIG
    if declared is None and file.exists():
        declared = {"quant_method": "modelopt", **read_object(file).get("quantization", {})}
    if declared is None:
        return None
    spelling = declared_spelling({"quantization_config": declared})
    if spelling not in (None, DEFAULT_SPELLING):
        spelling.reading(declared, (), where=checkpoint.folder / CONFIG)
        algorithms = stored_algorithms(checkpoint, spelling)
    else:
        algorithms = _modelopts(checkpoint, declared)
    return _Quantized(
        spelling or DEFAULT_SPELLING,
        frozenset(name for name, algorithm in algorithms.items() if algorithm == FP8),
        W4A16 in algorithms.values(),
    )


def _modelopts(checkpoint: Checkpoint, declared: Any) -> dict[str, str]:
    """What ModelOpt's scheme declares module by module; `*` stands for all."""
    method, algorithm = declared.get("quant_method"), declared.get("quant_algo")
    layers: Any = declared.get("quantized_layers") if algorithm == MIXED else {}
    algorithms = {
        name: str(entry.get("quant_algo")).upper() for name, entry in (layers or {}).items()
    }
    mixed = bool(algorithms) and {NVFP4, W4A16, FP8}.issuperset(algorithms.values())
    known = algorithm in (NVFP4, W4A16) or mixed
    if method != "modelopt" or not known:
        also = (
            f", {', '.join(sorted(set(algorithms.values())))} in its layers" if algorithms else ""
        )
        raise ScionError(
            "this quantization can't be measured offline",
            where=checkpoint.folder / CONFIG,
            expected=f"no quantization_config (bf16), or ModelOpt's with quant_algo {NVFP4}, "
            f"{W4A16} or with these and FP8 in mixed precision",
            found=f"quant_method {method!r}, quant_algo {algorithm!r}{also}",
            hint="measure it on a vLLM server, or measure the bf16 checkpoint that it was made of",
        )
    return algorithms or {"*": algorithm}


def _missing(checkpoint: Checkpoint, names: Iterable[str]) -> ScionError:
    first, *more = list(names)
    expected = inventory(with_mtp_layers(checkpoint.config, 1), where=checkpoint.folder / CONFIG)
    head = expected.family.head if first in expected.mtp else None
    hint = f"`scion lint {checkpoint.folder}` says what is wrong with the checkpoint"
    if head is not None:
        hint = f"graft them with the workflow's stage graft_mtp; {hint}"
    elif first.endswith(".input_scale"):
        hint = "a release of weights alone declares W4A16_NVFP4; else measure --activations bf16"
    return ScionError(
        "the MTP head is not in this folder" if head else "a tensor is not in this folder",
        where=checkpoint.folder,
        expected=f"the {len(expected.mtp)} {head.prefix}* tensors of the base model"
        if head
        else first,
        found=f"no {first}" + (f", nor {len(more)} others" if more else ""),
        hint=hint,
    )


def _wrong(checkpoint: Checkpoint, name: str, expected: str, found: Tensor) -> ScionError:
    return ScionError(
        "a tensor is not stored as the architecture and the quantization want it",
        where=f"{checkpoint.folder / checkpoint.shard_of[name]}: {name}",
        expected=expected,
        found=f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}",
        hint=f"`scion lint {checkpoint.folder}` says what is wrong with the checkpoint",
    )
