"""The training loop: joint loss of body and MTP layer, part of the steps in NVFP4 arithmetic."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data import Batch, Dataset, collate, make_batches
from training.fakequant import FakeQuantizer
from training.model import MTP_STEPS, Body, MtpLayer
from training.routing import Routing


@dataclass(frozen=True)
class Plan:
    """How long and how a phase trains.

    Attributes:
        context_weight: loss weight of tokens that the assistant did not write.
        mtp_weight: weight of the MTP loss; 0 leaves the MTP layer out.
        fp4_share: share of the steps that run in NVFP4 arithmetic.
        fp4_from: fraction of the run after which such steps begin.
        seconds: the run ends after so long if the steps take longer; the schedule follows.
        balance_weight: weight of the loss that spreads tokens over experts; of no effect without.
    """

    steps: int
    seconds: float
    learning_rate: float
    batch_tokens: int
    context_weight: float
    mtp_weight: float
    fp4_share: float
    fp4_from: float
    seed: int
    balance_weight: float = 0.0


@dataclass(frozen=True)
class SecondTask:
    """What else is learned in the same steps.

    Attributes:
        name: Of its loss in the curve.
        loss: Draws its own batch; called once a step, in the step's arithmetic.
        parameters: Those that only it trains, at a rate of their own.
        score: What is told of it beside the loss, at each point of the curve.
    """

    name: str
    loss: Callable[[], Tensor]
    parameters: list[nn.Parameter]
    learning_rate: float
    score: Callable[[], float] | None = None


class Pico:
    """Body, MTP layer and fake quantizer together, on a device.

    Args:
        model: The body.
        mtp: The MTP layer.
        device: Where both go.
        mtp_steps: Drafts of a step that the MTP layer is trained for.
    """

    def __init__(
        self, model: Body, mtp: MtpLayer, device: torch.device, *, mtp_steps: int = MTP_STEPS
    ) -> None:
        self.mtp_steps = mtp_steps
        self.model = model.to(device)
        self.mtp = mtp.to(device)
        self.device = device
        self.text: Any = model.model.language_model
        self.fp4 = FakeQuantizer(self.text_owner)
        self.routing = Routing(model, mtp)

    @property
    def text_owner(self) -> nn.Module:
        """The module under which the text layers carry their checkpoint names."""
        return self.model.model

    def body(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states after the final norm, and logits."""
        with torch.autocast(self.device.type, torch.bfloat16):
            hidden = self.text(input_ids=ids, use_cache=False).last_hidden_state
            return hidden, self.model.lm_head(hidden)

    def losses(self, batch: Batch, plan: Plan) -> tuple[Tensor, Tensor]:
        """The body's loss and the MTP layer's, each a weighted mean over tokens."""
        hidden, logits = self.body(batch.ids)
        weight = torch.where(batch.assistant, 1.0, plan.context_weight) * batch.real
        flat = logits[:, :-1].flatten(0, 1).float()
        each = functional.cross_entropy(flat, batch.ids[:, 1:].flatten(), reduction="none")
        target = weight[:, 1:].flatten()
        loss = (each * target).sum() / target.sum()
        if plan.mtp_weight == 0:
            return loss, torch.zeros_like(loss)
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs = self.mtp(self.text.embed_tokens(batch.ids), hidden, steps=self.mtp_steps)
        return loss, self._mtp_loss(outputs, logits.detach(), weight)

    def _mtp_loss(self, outputs: list[Tensor], logits: Tensor, weight: Tensor) -> Tensor:
        """Cross entropy to the body's own distribution, since that decides what it accepts."""
        total = logits.new_zeros((), dtype=torch.float32)
        for step, output in enumerate(outputs):
            length = output.shape[1]
            with torch.autocast(self.device.type, torch.bfloat16):
                drafted = self.model.lm_head(output)
            goal = logits[:, step + 1 : step + 1 + length].float().softmax(-1)
            each = -(goal * drafted.float().log_softmax(-1)).sum(-1)
            share = weight[:, step + 1 : step + 1 + length]
            total = total + (each * share).sum() / share.sum()
        return total / len(outputs)


def train(
    pico: Pico,
    data: Dataset,
    plan: Plan,
    parameters: list[nn.Parameter],
    second: SecondTask | None = None,
) -> list[dict[str, float]]:
    """Trains the parameters; returns the curve, one point for about every fiftieth of the run."""
    groups = _groups(parameters, plan.learning_rate)
    if second is not None:
        groups += _groups(second.parameters, second.learning_rate)
        parameters = [*parameters, *second.parameters]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    chance = random.Random(plan.seed)
    stream = _endless(data, plan)
    curve: list[dict[str, float]] = []
    started, tokens = time.monotonic(), 0
    every = max(1, plan.steps // 50)
    for step in range(plan.steps):
        done = max(step / plan.steps, (time.monotonic() - started) / plan.seconds)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * _schedule(min(done, 1.0))
        batch = collate(data, next(stream), pico.device)
        with pico.fp4(done >= plan.fp4_from and chance.random() < plan.fp4_share):
            loss, mtp_loss = pico.losses(batch, plan)
            other = torch.zeros_like(loss) if second is None else second.loss()
        total = loss + plan.mtp_weight * mtp_loss + other
        if pico.routing.routers:
            total = total + plan.balance_weight * pico.routing.imbalance()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += batch.ids.numel()
        last = done >= 1.0 or step == plan.steps - 1
        if step % every == 0 or last:
            point = {"step": step + 1, "loss": loss.item(), "mtp_loss": mtp_loss.item()}
            if second is not None:
                point |= {second.name: other.item()}
                if second.score is not None:
                    point |= {"score": second.score()}
            curve.append(point)
            _progress(point, done, tokens, time.monotonic() - started)
        if last:
            break
    return curve


def _groups(parameters: list[nn.Parameter], rate: float) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not; the schedule takes each group's `rate`."""
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    return [
        {"params": matrices, "rate": rate, "weight_decay": 0.05},
        {"params": vectors, "rate": rate, "weight_decay": 0.0},
    ]


def _schedule(done: float) -> float:
    """Linear warm-up over the first 3 %, then a cosine to 2 %."""
    if done < 0.03:
        return (done + 1e-3) / 0.031
    return 0.02 + 0.98 * (1 + math.cos(math.pi * (done - 0.03) / 0.97)) / 2


def _endless(data: Dataset, plan: Plan) -> Iterator[list[int]]:
    epoch = 0
    while True:
        yield from make_batches(data, batch_tokens=plan.batch_tokens, seed=plan.seed + epoch)
        epoch += 1


def _progress(point: dict[str, float], done: float, tokens: int, seconds: float) -> None:
    left = f"{seconds / done - seconds:.0f} s to go" if done else "starting"
    losses = "  ".join(f"{name} {value:.4f}" for name, value in point.items() if name != "step")
    print(
        f"step {point['step']:>5.0f}  {losses}  {tokens / seconds / 1000:.0f}k tokens/s  {left}",
        file=sys.stderr,
        flush=True,
    )
