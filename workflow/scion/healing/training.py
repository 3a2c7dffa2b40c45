"""Training of the head on its frozen body, in float32, over the drafts of a step.

Of the texts a share is held out. Before, at times while it trains, and after, it is counted on them
how often drafts are what the body says, all before them in their step included: at every place of
a reply a step begins. If that is not more in the end, the head stays as it was.

What a run has reached is kept now and then, so that one that was killed goes on from there, to the
same bytes on the same device.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scion.common.errors import ScionError
from scion.common.files import atomic_file
from scion.common.progress import progress
from scion.evaluation.intervals import Estimate, bounded_ratio
from scion.healing.batches import Batch, batches, collate
from scion.healing.body import BodyStates
from scion.healing.config import Training
from scion.healing.head import UnrolledHead
from scion.healing.losses import FrozenVocabulary
from scion.healing.texts import LearnedText

_KEPT = "training.pt"
# What is reached is kept when this time has passed since the last time, or so many times that which
# keeping it took.
_SAVE_SECONDS, _SAVE_SHARE = 60.0, 20
_WARM_UP = 0.1
_LAST_RATE = 0.02
_LARGEST_GRADIENT = 1.0
_LOOKS = 8


@dataclass(frozen=True)
class Agreement:
    """How often drafts are what the body says, text by text.

    It is no figure of serving: a step begins at every place of a reply, and drafts are held against
    the body along the text as it stands, also where that was sampled or given.

    Attributes:
        begun: By text, and by place in the draft, the steps that reach it within their reply.
        agreed: Those whose drafts are right up to it.
    """

    begun: tuple[tuple[int, ...], ...]
    agreed: tuple[tuple[int, ...], ...]

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """By place in the draft, the share that is right up to it; texts vary."""
        columns = zip(zip(*self.agreed, strict=True), zip(*self.begun, strict=True), strict=True)
        return tuple(bounded_ratio(agreed, begun) for agreed, begun in columns if any(begun))

    @property
    def tokens(self) -> float:
        """Mean tokens of a step: the drafts that are right, and the body's own."""
        return 1 + sum(estimate.value for estimate in self.estimates)

    def record(self) -> dict[str, Any]:
        """As facts hold it."""
        return {
            "per_position": [estimate.record() for estimate in self.estimates],
            "tokens": round(self.tokens, 6),
        }


@dataclass(frozen=True)
class Healed:
    """What training has come to.

    Attributes:
        before: Of the head as it was, on the texts that are held out.
        after: Of the head as it is stored.
        learned: How many texts were trained on.
        held_out: How many were held out.
        curve: By step at which it was looked at: mean loss since the last look, and tokens a step.
        tensors: The head, bf16, by name; none if it was no worse before.
    """

    before: Agreement
    after: Agreement
    learned: int
    held_out: int
    curve: list[dict[str, float]]
    tensors: dict[str, Tensor]


@dataclass
class HeadTraining:
    """Everything that the loop needs.

    Attributes:
        head: The head.
        vocabulary: The body's `lm_head`.
        embeddings: The body's embeddings, [vocabulary, H].
        texts: What is learned from; each has at least one chain.
        states: The body's states of them.
        settings: How it is trained.
        folder: Where what a run has reached is kept.
        device: Where it runs.
    """

    head: UnrolledHead
    vocabulary: FrozenVocabulary
    embeddings: Tensor
    texts: Sequence[LearnedText]
    states: BodyStates
    settings: Training
    folder: Path
    device: torch.device
    _start: list[Tensor] = field(init=False)
    _optimizer: torch.optim.AdamW = field(init=False)
    _held_out: list[int] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.texts)
        held_out = max(1, round(self.settings.held_out_share * count))
        self._held_out = sorted(random.Random(self.settings.seed).sample(range(count), held_out))
        parameters = list(self.head.parameters())
        self._start = [parameter.detach().clone() for parameter in parameters]
        self._optimizer = torch.optim.AdamW(
            parameters, lr=self.settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )

    def run(self) -> Healed:
        """Train the head.

        Raises:
            ScionError: A loss is not finite.
        """
        done, curve, losses, before = self._resumed()
        if before is None:
            before = self.agreement()
        order = self._order()
        save_at = time.monotonic() + _SAVE_SECONDS
        every = max(1, self.settings.steps // _LOOKS)
        with progress("training steps", self.settings.steps, done=done) as told:
            for step, group in zip(range(self.settings.steps), order, strict=False):
                if step < done:
                    continue
                losses.append(self._step(step, group))
                last = step + 1 == self.settings.steps
                if (step + 1) % every == 0 and not last:
                    curve.append(_point(step + 1, losses, self.agreement()))
                    losses.clear()
                if not last and (begin := time.monotonic()) >= save_at:
                    self._save(step + 1, curve, losses, before)
                    took = time.monotonic() - begin
                    save_at = time.monotonic() + max(_SAVE_SECONDS, _SAVE_SHARE * took)
                told.advance(note=_note(losses, curve, before))
        self._round()
        after = self.agreement()
        curve.append(_point(self.settings.steps, losses, after))
        better = after.tokens > before.tokens
        held_out = len(self._held_out)
        learned = len(self.texts) - held_out
        tensors = self.head.tensors() if better else {}
        return Healed(before, after, learned, held_out, curve, tensors)

    @torch.no_grad()
    def agreement(self) -> Agreement:
        """Count on the texts that are held out."""
        begun: list[list[int]] = []
        agreed: list[list[int]] = []
        for group in batches(self.texts, self._held_out, self.settings.batch_tokens):
            batch, states, drafted = self._drafted(group)
            right = torch.ones_like(batch.steps, dtype=torch.bool)
            counted: list[tuple[Tensor, Tensor]] = []
            for step, draft in enumerate(drafted):
                learned = batch.steps > step
                said = self.vocabulary.best(_said(states, batch, step)[learned])
                drafts = self.vocabulary.best(draft[learned].to(torch.bfloat16))
                right[learned] &= said == drafts
                counted.append((learned.sum(1), (right & learned).sum(1)))
            for counts, places in zip((begun, agreed), zip(*counted, strict=True), strict=True):
                counts += torch.stack(places, 1).tolist()
        return Agreement(tuple(map(tuple, begun)), tuple(map(tuple, agreed)))

    def _drafted(self, group: Sequence[int]) -> tuple[Batch, Tensor, list[Tensor]]:
        steps = self.settings.draft_tokens
        batch = collate(self.texts, group, steps=steps, device=self.device)
        states = self.states.read(group, self.device)
        embedded = functional.embedding(batch.ids, self.embeddings)
        # A CPU multiplies bf16 no faster, and less exactly.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return (
                batch,
                states,
                self.head(embedded.float(), states.float(), batch.rows, steps=steps),
            )

    def _step(self, step: int, group: Sequence[int]) -> float:
        batch, states, drafted = self._drafted(group)
        total = torch.zeros((), device=self.device)
        for place, draft in enumerate(drafted):
            learned = batch.steps > place
            if count := int(learned.sum()):
                said = _said(states, batch, place)[learned]
                loss = self.vocabulary.loss(draft[learned], said, self.settings.loss)
                total = total + loss / (count * len(drafted))
        if not total.isfinite():
            raise self._not_finite(step, group)
        rate = _rate(step / self.settings.steps)
        for options in self._optimizer.param_groups:
            options["lr"] = self.settings.learning_rate * rate
        total.backward()
        nn.utils.clip_grad_norm_(self.head.parameters(), _LARGEST_GRADIENT)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, start in zip(self.head.parameters(), self._start, strict=True):
                parameter.lerp_(start, self.settings.donor_pull * rate)
        return total.item()

    def _order(self) -> Iterator[tuple[int, ...]]:
        """The groups of texts that are trained on, each time round in another order."""
        places = sorted(set(range(len(self.texts))) - set(self._held_out))
        groups = batches(self.texts, places, self.settings.batch_tokens)
        turn = random.Random(f"{self.settings.seed}:order")
        while True:
            yield from turn.sample(groups, len(groups))

    @torch.no_grad()
    def _round(self) -> None:
        """Let the weights be what a release stores."""
        for parameter in self.head.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))

    # What is kept of a run

    def _save(
        self, step: int, curve: list[dict[str, float]], losses: list[float], before: Agreement
    ) -> None:
        state = {
            "step": step,
            "curve": curve,
            "losses": losses,
            "before": (before.begun, before.agreed),
            "head": self.head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        with atomic_file(self.folder / _KEPT) as file:
            torch.save(state, file)

    def _resumed(
        self,
    ) -> tuple[int, list[dict[str, float]], list[float], Agreement | None]:
        """The steps of an earlier run, what it looked at, losses since, and what was before."""
        path = self.folder / _KEPT
        if not path.exists():
            return 0, [], [], None
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        print(f"going on after step {state['step']}", flush=True)
        begun, agreed = (tuple(map(tuple, counts)) for counts in state["before"])
        before = Agreement(begun, agreed)
        return state["step"], state["curve"], state["losses"], before

    def _not_finite(self, step: int, group: Sequence[int]) -> ScionError:
        names = [self.texts[place].name for place in group[:3]]
        return ScionError(
            "the loss of the head is not finite: training stops, and the head stays as it was",
            where=f"step {step + 1} of {self.settings.steps}, texts {', '.join(names)}"
            + (", …" if len(group) > len(names) else ""),
            expected="a number",
            found="NaN or infinity",
            hint="lower healing.training.learning_rate; healing.enabled: false releases the head "
            "as it was grafted",
        )


def _said(states: Tensor, batch: Batch, step: int) -> Tensor:
    """The body's states that say what a step's drafts should: [B, R, H]."""
    places = (batch.rows + step + 1).clamp(max=states.shape[1] - 1)
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def _rate(done: float) -> float:
    """The learning rate's share of its highest: linear at first, then a cosine."""
    if done < _WARM_UP:
        return (done + 0.01) / (_WARM_UP + 0.01)
    fallen = (done - _WARM_UP) / (1 - _WARM_UP)
    return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * fallen)) / 2


def _point(step: int, losses: Sequence[float], found: Agreement) -> dict[str, float]:
    mean = sum(losses) / len(losses) if losses else 0.0
    return {"step": step, "loss": round(mean, 6), "tokens": round(found.tokens, 6)}


def _note(losses: Sequence[float], curve: Sequence[dict[str, float]], before: Agreement) -> str:
    loss = losses[-1] if losses else curve[-1]["loss"]
    tokens = curve[-1]["tokens"] if curve else before.tokens
    return f"loss {loss:.4f}, {tokens:.2f} tokens a step held out, {before.tokens:.2f} before"
