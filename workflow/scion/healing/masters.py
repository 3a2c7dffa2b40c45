"""The head's weights in float32, which the optimizer moves, and what the head computes with.

A head computes with its weights as a release stores them: rounded to bf16, and further where the
release stores its matrices in FP8 or NVFP4. Gradients are taken there and applied to the weights in
float32, as if rounding were not (the straight-through estimator: Bengio et al., 2013,
https://arxiv.org/abs/1308.3432).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scion.healing.config import Training

Rounding = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
_LARGEST_GRADIENT = 1.0


class MasterWeights:
    """Weights that train.

    Args:
        head: The head that computes; its parameters hold what a release stores.
        settings: How it is trained.
        rounding: From all tensors in bf16, by name, those that are rounded further, as bf16.
    """

    def __init__(
        self, head: nn.Module, settings: Training, rounding: Rounding | None = None
    ) -> None:
        self._parameters = dict(head.named_parameters())
        self._settings, self._rounding = settings, rounding
        on_cpu = settings.optimizer_memory == "cpu"
        self._donor: dict[str, Tensor] = {}
        self._masters: dict[str, Tensor] = {}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        for name, parameter in self._parameters.items():
            where = torch.device("cpu") if on_cpu else parameter.device
            value = parameter.detach()
            # What is grafted is bf16, so its copy loses nothing.
            self._donor[name] = value.to(where, torch.bfloat16, copy=True)
            self._masters[name] = value.to(where, torch.float32, copy=True)
            # One for each: the gradients of all in float32 never stand at once.
            self._optimizers[name] = torch.optim.AdamW(
                [self._masters[name]], betas=(0.9, 0.95), weight_decay=0.0, fused=True
            )
        self._store()

    def step(self, rate: float) -> bool:
        """Move the weights by the gradients of the head's parameters, which it takes.

        Args:
            rate: The learning rate's share of its highest.

        Returns:
            Whether the gradients were finite; if not, nothing is moved.
        """
        gradients = {
            name: each.grad for name, each in self._parameters.items() if each.grad is not None
        }
        norm = nn.utils.get_total_norm(list(gradients.values()))
        if not norm.isfinite():
            return False
        shrink = min(1.0, _LARGEST_GRADIENT / (norm.item() + 1e-6))
        for name, gradient in gradients.items():
            master, optimizer = self._masters[name], self._optimizers[name]
            master.grad = gradient.to(master.device).float().mul_(shrink)
            self._parameters[name].grad = None
            optimizer.param_groups[0]["lr"] = self._settings.learning_rate * rate
            optimizer.step()
            master.grad = None
            master.lerp_(self._donor[name].float(), self._settings.donor_pull * rate)
        self._store()
        return True

    def tensors(self) -> dict[str, Tensor]:
        """The weights in bf16, by the head's names, on the CPU; not rounded further."""
        return {
            name: master.to(torch.bfloat16).to("cpu", copy=True)
            for name, master in self._masters.items()
        }

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Let the head compute with other weights, such as `tensors` gave earlier."""
        for name, master in self._masters.items():
            master.copy_(tensors[name])
        self._store()

    def state(self) -> dict[str, Any]:
        """All that `resume` takes."""
        optimizers = {name: each.state_dict() for name, each in self._optimizers.items()}
        return {"masters": self._masters, "optimizers": optimizers}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` was."""
        for name, master in self._masters.items():
            master.copy_(state["masters"][name])
            self._optimizers[name].load_state_dict(state["optimizers"][name])
        self._store()

    @torch.no_grad()
    def _store(self) -> None:
        """Let the head compute with what a release would store now."""
        stored = {
            name: self._masters[name].to(parameter.device, torch.bfloat16)
            for name, parameter in self._parameters.items()
        }
        if self._rounding is not None:
            stored |= self._rounding(stored)
        for name, parameter in self._parameters.items():
            parameter.copy_(stored[name])
