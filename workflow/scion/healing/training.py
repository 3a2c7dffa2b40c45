"""Training of the head on its frozen body, over the drafts of a step.

Of the texts a share is held out. Before, at times while it trains, and after, it is counted on them
how often drafts are what the body says, all before them in their step included. Training ends where
that has not grown for some looks, and the best head that was looked at is what it comes to.

What a run has reached is kept now and then, so that one that was killed goes on from there, to the
same bytes on the same device.
"""

import hashlib
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scion.common.errors import ScionError
from scion.common.files import atomic_file
from scion.common.progress import progress
from scion.healing.agreement import Agreement, HeldOut, said_states
from scion.healing.batches import Batch, batches, collate
from scion.healing.body import BodyStates
from scion.healing.config import Training
from scion.healing.head import InputMaxima, UnrolledHead
from scion.healing.losses import FrozenVocabulary
from scion.healing.masters import MasterWeights, Rounding
from scion.healing.texts import LearnedText

KEPT = "training.pt"
"""What a run that was killed goes on from, in the folder of its work."""
# What is reached is kept when this time has passed since the last time, or so many times that which
# keeping it took.
_SAVE_SECONDS, _SAVE_SHARE = 60.0, 20
_WARM_UP = 0.1
_LAST_RATE = 0.02
_LOOKS = 8


@dataclass(frozen=True)
class Healed:
    """What training has come to.

    Attributes:
        before: Of the head as it was, on the texts that are held out.
        after: Of the best head that was looked at.
        off_before: As `before`, on texts of other domains; None without any.
        off_after: As `after`, on these.
        learned: How many texts were trained on.
        held_out: How many were held out.
        curve: By step at which it was looked at: mean loss since the last look, and tokens a step.
        best_step: After which step the head was best; 0 if it was before the first.
        input_maxima: By matrix of the head that a release rounds, the largest magnitude of its
            input, by the checkpoint's names; none where it rounds nothing.
        tensors: The best head, bf16, by name; none if the head stays as it was.
    """

    before: Agreement
    after: Agreement
    off_before: Agreement | None
    off_after: Agreement | None
    learned: int
    held_out: int
    curve: list[dict[str, float]]
    best_step: int
    input_maxima: dict[str, float]
    tensors: dict[str, Tensor]

    @property
    def worse_elsewhere(self) -> bool:
        """Whether fewer drafts are right on texts of other domains, beyond the interval."""
        return _lost(self.off_before, self.off_after)

    def off_domain(self) -> dict[str, Any] | None:
        """What was counted on texts of other domains, as facts hold it; None without any."""
        if self.off_before is None or self.off_after is None:
            return None
        return {
            "texts": len(self.off_before.begun),
            "before": self.off_before.record(),
            "after": self.off_after.record(),
            "more_tokens_a_step": self.off_after.gain_over(self.off_before).record(),
            "worse": self.worse_elsewhere,
        }


@dataclass
class _Reached:
    """What a run has come to so far; `tensors` are those of the best head."""

    step: int
    curve: list[dict[str, float]]
    losses: list[float]
    before: Agreement
    off_before: Agreement | None
    best: Agreement
    best_step: int
    tensors: dict[str, Tensor]


class HeadTraining:
    """A head, its body, and what it learns from.

    Args:
        head: The head.
        vocabulary: The body's `lm_head`.
        embeddings: The body's embeddings, bf16 [vocabulary, H], wherever they lie.
        texts: What is learned from, and held out; each has at least one chain.
        states: The body's states of them.
        settings: How it is trained.
        folder: Where what a run has reached is kept.
        device: Where it runs.
        rounding: What a release does to the head's matrices beyond bf16; see `MasterWeights`.
    """

    def __init__(
        self,
        head: UnrolledHead,
        vocabulary: FrozenVocabulary,
        embeddings: Tensor,
        texts: Sequence[LearnedText],
        states: BodyStates,
        settings: Training,
        folder: Path,
        device: torch.device,
        rounding: Rounding | None = None,
    ) -> None:
        self._head, self._vocabulary, self._embeddings = head, vocabulary, embeddings
        self._texts, self._states, self._settings = texts, states, settings
        self._folder, self._device = folder, device
        self._masters = MasterWeights(head.head, settings, rounding)
        held_out = held_out_places(texts, settings.held_out_share, settings.seed)
        off = [place for place, text in enumerate(texts) if text.domain == "off"]
        learned = sorted(set(range(len(texts))) - {*held_out, *off})
        self._groups = batches(texts, learned, settings.batch_tokens)
        self._rounds = rounding is not None
        self._learned_texts = len(learned)
        self._held_out_texts = len(held_out)
        self._held_out, self._off = (
            HeldOut(texts, batches(texts, places, settings.batch_tokens), self._drafted, vocabulary)
            for places in (held_out, off)
        )

    def run(self) -> Healed:
        """Train the head.

        Raises:
            ScionError: A loss or a gradient is not finite.
        """
        settings, order = self._settings, self._order()
        reached = self._resumed()
        save_at = time.monotonic() + _SAVE_SECONDS
        every = max(1, settings.steps // _LOOKS)
        with progress("training steps", settings.steps, done=reached.step) as told:
            for step, group in zip(range(settings.steps), order, strict=False):
                if step < reached.step:
                    continue
                reached.losses.append(self._step(step, group))
                reached.step = step + 1
                last = reached.step == settings.steps
                if reached.step % every == 0 or last:
                    self._look(reached)
                    if reached.step - reached.best_step >= settings.patience * every:
                        break
                if not last and (begin := time.monotonic()) >= save_at:
                    self._save(reached)
                    took = time.monotonic() - begin
                    save_at = time.monotonic() + max(_SAVE_SECONDS, _SAVE_SHARE * took)
                told.advance(note=_note(reached))
        return self._ended(reached)

    def _ended(self, reached: _Reached) -> Healed:
        self._masters.put(reached.tensors)
        with InputMaxima(self._head) as maxima, torch.no_grad():
            off_after = self._off.agreement()
            # Scales of a quantized head are made of them.
            for group in self._groups if self._rounds else ():
                self._drafted(group)
        better = reached.best.tokens > reached.before.tokens
        kept = better and not _lost(reached.off_before, off_after)
        prefix = self._head.prefix
        return Healed(
            before=reached.before,
            after=reached.best,
            off_before=reached.off_before,
            off_after=off_after,
            learned=self._learned_texts,
            held_out=self._held_out_texts,
            curve=reached.curve,
            best_step=reached.best_step,
            input_maxima={prefix + name: value for name, value in maxima.found.items()},
            tensors={prefix + name: each for name, each in reached.tensors.items() if kept},
        )

    def _drafted(self, group: Sequence[int]) -> tuple[Batch, Tensor, list[Tensor]]:
        steps = self._settings.draft_tokens
        batch = collate(self._texts, group, steps=steps, device=self._device)
        states = self._states.read(group, self._device)
        # The table is large, and its rows are few: they are looked up where it lies.
        ids = batch.ids.to(self._embeddings.device)
        embedded = functional.embedding(ids, self._embeddings).to(self._device)
        of = self._head.dtype
        return batch, states, self._head(embedded.to(of), states.to(of), batch.rows, steps=steps)

    def _step(self, step: int, group: Sequence[int]) -> float:
        batch, states, drafted = self._drafted(group)
        total = torch.zeros((), device=self._device)
        for place, draft in enumerate(drafted):
            learned = batch.steps > place
            if count := int(learned.sum()):
                said = said_states(states, batch, place)[learned]
                loss = self._vocabulary.loss(draft[learned], said, self._settings.loss)
                total = total + loss / (count * len(drafted))
        if not total.isfinite():
            raise self._not_finite(step, group)
        total.backward()
        if not self._masters.step(_rate(step / self._settings.steps)):
            raise self._not_finite(step, group)
        return total.item()

    def _look(self, reached: _Reached) -> None:
        """Count on the texts that are held out, and remember the best."""
        found = self._held_out.agreement()
        assert found is not None
        reached.curve.append(_point(reached.step, reached.losses, found))
        reached.losses.clear()
        if found.tokens > reached.best.tokens:
            reached.best, reached.best_step = found, reached.step
            reached.tensors = self._masters.tensors()

    def _order(self) -> Iterator[tuple[int, ...]]:
        """The groups of texts that are trained on, each time round in another order."""
        turn = random.Random(f"{self._settings.seed}:order")
        while True:
            yield from turn.sample(self._groups, len(self._groups))

    # What is kept of a run

    def _save(self, reached: _Reached) -> None:
        state = {
            "reached": {
                **vars(reached),
                **{of: _counts(getattr(reached, of)) for of in ("before", "off_before", "best")},
            },
            "masters": self._masters.state(),
        }
        with atomic_file(self._folder / KEPT) as file:
            torch.save(state, file)

    def _resumed(self) -> _Reached:
        """What an earlier run has come to, or the beginning."""
        path = self._folder / KEPT
        if not path.exists():
            before = self._held_out.agreement()
            assert before is not None
            off, tensors = self._off.agreement(), self._masters.tensors()
            return _Reached(0, [], [], before, off, before, 0, tensors)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self._masters.resume(state["masters"])
        kept: dict[str, Any] = state["reached"]
        print(f"going on after step {kept['step']}", flush=True)
        for of in ("before", "off_before", "best"):
            kept[of] = _agreement(kept[of])
        return _Reached(**kept)

    def _not_finite(self, step: int, group: Sequence[int]) -> ScionError:
        names = [self._texts[place].name for place in group[:3]]
        return ScionError(
            "the loss of the head is not finite: training stops, and the head stays as it was",
            where=f"step {step + 1} of {self._settings.steps}, texts {', '.join(names)}"
            + (", …" if len(group) > len(names) else ""),
            expected="a number",
            found="NaN or infinity",
            hint="lower healing.training.learning_rate; healing.enabled: false releases the head "
            "as it was grafted",
        )


def held_out_places(texts: Sequence[LearnedText], share: float, seed: int) -> set[int]:
    """The texts that are set aside, by content: those of one prompt are on one side.

    Args:
        texts: All texts; those of other domains are never among them.
        share: Of the others, at least one of them.
        seed: Another one sets others aside.
    """
    prompts: dict[tuple[int, ...], list[int]] = {}
    for place, text in enumerate(texts):
        if text.domain == "in":
            prompts.setdefault(text.ids[: text.spans[0][0]], []).append(place)
    count = share * sum(map(len, prompts.values()))
    ordered = sorted(prompts, key=lambda ids: hashlib.sha256(f"{seed}:{ids}".encode()).digest())
    held_out: set[int] = set()
    for prompt in ordered[: len(ordered) - 1]:
        if held_out and len(held_out) + 0.5 >= count:
            break
        held_out.update(prompts[prompt])
    return held_out


def _lost(before: Agreement | None, after: Agreement | None) -> bool:
    if before is None or after is None:
        return False
    gain = after.gain_over(before)
    return gain.value < 0 and (gain.high is None or gain.high < 0)


def _counts(found: Agreement | None) -> tuple[Any, Any] | None:
    return None if found is None else (found.begun, found.agreed)


def _agreement(counts: Any) -> Agreement | None:
    if counts is None:
        return None
    begun, agreed = (tuple(map(tuple, part)) for part in counts)
    return Agreement(begun, agreed)


def _rate(done: float) -> float:
    """The learning rate's share of its highest: linear at first, then a cosine."""
    if done < _WARM_UP:
        return (done + 0.01) / (_WARM_UP + 0.01)
    fallen = (done - _WARM_UP) / (1 - _WARM_UP)
    return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * fallen)) / 2


def _point(step: int, losses: Sequence[float], found: Agreement) -> dict[str, float]:
    mean = sum(losses) / len(losses) if losses else 0.0
    return {"step": step, "loss": round(mean, 6), "tokens": round(found.tokens, 6)}


def _note(reached: _Reached) -> str:
    loss = reached.losses[-1] if reached.losses else reached.curve[-1]["loss"]
    best, before = reached.best.tokens, reached.before.tokens
    return f"loss {loss:.4f}, {best:.2f} tokens a step held out, {before:.2f} before"
