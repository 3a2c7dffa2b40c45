"""NVFP4 in plain torch, for training and evaluation: what W4A4 does to a linear layer.

A block of 16 values along K shares an E4M3 scale; a tensor shares an fp32 scale; the values
themselves are E2M1 (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives). Weights and activations are
rounded alike; gradients pass straight through the rounding.

This is a stand-in for training only. Scion's releases take their numbers from ModelOpt.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK: Final = 16
E2M1_MAX: Final = 6.0
E4M3_MAX: Final = 448.0

QUANTIZED: Final = re.compile(
    r"language_model\.layers\.\d+\."
    r"(self_attn\.[qkvo]_proj|mlp\.(shared_expert\.)?(gate|up|down)_proj"
    r"|linear_attn\.(in_proj_qkv|in_proj_z|out_proj))$"
)
"""Modules that the release quantizes; the rest, MTP and lm_head included, stays bf16."""

EXPERTS: Final = re.compile(r"language_model\.layers\.\d+\.mlp\.experts$")
"""Stacks of experts, each of which the release quantizes by itself."""


def round_to_nvfp4(x: Tensor) -> Tensor:
    """Rounds a tensor to NVFP4 and back, blocks along the last dimension; no gradient."""
    blocks = x.detach().float().unflatten(-1, (-1, BLOCK))
    amax = blocks.abs().amax(-1, keepdim=True)
    tensor_scale = (amax.amax() / (E2M1_MAX * E4M3_MAX)).clamp_min(1e-30)
    scale = (amax / (E2M1_MAX * tensor_scale)).clamp(max=E4M3_MAX)
    scale = scale.to(torch.float8_e4m3fn).float() * tensor_scale
    value = blocks / scale.clamp_min(1e-30)
    size = value.abs().clamp(max=E2M1_MAX)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    rounded = (value.clamp(-E2M1_MAX, E2M1_MAX) / step).round() * step
    return (rounded * scale).flatten(-2).to(x.dtype)


def straight_through(x: Tensor) -> Tensor:
    """Rounds forward, passes the gradient unchanged."""
    return x + (round_to_nvfp4(x) - x.detach())


class FakeQuantizer:
    """Switches the model's quantized linears between exact and NVFP4 arithmetic.

    Attaches to plain `nn.Linear` layers and to peft's LoRA layers; of the latter it quantizes the
    merged weight, since that is what a release holds.
    """

    def __init__(self, model: nn.Module) -> None:
        self.active = False
        self.count = 0
        for name, module in model.named_modules():
            if QUANTIZED.search(name) and hasattr(module, "weight"):
                self._attach(module)
                self.count += 1
            elif EXPERTS.search(name):
                self._attach_experts(module)
                self.count += 1

    @contextmanager
    def __call__(self, active: bool = True) -> Generator[None]:
        """Turns the rounding on (or off) inside the block."""
        before, self.active = self.active, active
        try:
            yield
        finally:
            self.active = before

    def _attach(self, module: Any) -> None:
        exact = module.forward

        def forward(x: Tensor) -> Tensor:
            if not self.active:
                return exact(x)
            weight = module.weight
            if hasattr(module, "get_delta_weight") and not module.merged:
                weight = weight + module.get_delta_weight("default")
            return functional.linear(straight_through(x), straight_through(weight))

        module.forward = forward

    def _attach_experts(self, module: Any) -> None:
        exact = module.forward

        def forward(hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
            """Adds up the experts of each token: hidden [N, H], chosen and shares [N, k]."""
            if not self.active:
                return exact(hidden, chosen, shares)
            out = torch.zeros_like(hidden)
            rounded = straight_through(hidden)
            for expert in range(module.num_experts):
                token, place = torch.where(chosen == expert)
                if not len(token):
                    continue
                both = functional.linear(
                    rounded[token], straight_through(module.gate_up_proj[expert])
                )
                gate, up = both.chunk(2, dim=-1)
                inner = straight_through(module.act_fn(gate) * up)
                each = functional.linear(inner, straight_through(module.down_proj[expert]))
                each = each * shares[token, place, None]
                out.index_add_(0, token, each.to(out.dtype))
            return out

        module.forward = forward
