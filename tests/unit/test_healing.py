"""Training an MTP head on its frozen body: the parts, and the loop, on the embedded base model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import scion.healing.training as loop
from conversion import Conversion, Pico
from healing import QUICK, short_texts, spoil
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import NoRoomError, ScionError
from scion.evaluation.intervals import Estimate, ratio_of_sums
from scion.evaluation.offline.acceptance import count_rounds
from scion.evaluation.offline.mtp import Drafter, load_head
from scion.evaluation.offline.target import Target
from scion.evaluation.offline.weights import Weights
from scion.formats.stored_modules import HeadScheme
from scion.healing import body
from scion.healing.agreement import Agreement, HeldOut, steps_along
from scion.healing.batches import Batch, batches, collate
from scion.healing.body import body_states
from scion.healing.config import LossName
from scion.healing.head import UnrolledHead
from scion.healing.heal import _rounding, _stored, heal
from scion.healing.losses import FrozenVocabulary
from scion.healing.masters import MasterWeights
from scion.healing.rounding import head_groups, rounded
from scion.healing.texts import LearnedText
from scion.healing.training import held_out_places

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def texts(pico: Pico) -> list[LearnedText]:
    """Short dialogues."""
    return short_texts(pico)


@pytest.fixture(scope="module")
def weights(conversion: Conversion) -> Weights:
    """Those of a release in NVFP4, with a grafted head."""
    folder = conversion.graft_mtp.folder
    return Weights(Checkpoint.open(folder), device=CPU, activations="nvfp4")


@pytest.fixture(scope="module")
def target(weights: Weights) -> Target:
    """Its body, whole."""
    return Target(weights)


def test_layer_by_layer_states_are_those_of_the_whole_body(
    weights: Weights, target: Target, texts: list[LearnedText], tmp_path: Path
) -> None:
    states = body_states(weights, texts, folder=tmp_path, batch_tokens=900)
    for place, text in enumerate(texts):
        found, wanted = states.read([place], CPU)[0], target.hidden(text.ids)
        assert found.shape == wanted.shape
        # Batches and single texts add up in another order, and rounding to NVFP4 makes steps of it.
        near = functional.cosine_similarity(found.float(), wanted.float(), dim=-1)
        assert near.mean() > 0.99
        assert near[0] > 0.9999
        same = target.head(found).argmax(-1) == target.head(wanted).argmax(-1)
        assert same.float().mean() > 0.95
    # What is there is taken: nothing of the model is read again.
    again = body_states(replace_nothing(weights), texts, folder=tmp_path, batch_tokens=900)
    assert torch.equal(again.read([0], CPU), states.read([0], CPU))
    assert [path.name for path in tmp_path.iterdir()] == ["hidden_states.bf16"]


def replace_nothing(weights: Weights) -> Any:
    """Weights that can't be filled in."""

    class Unreadable:
        checkpoint, inventory, device = weights.checkpoint, weights.inventory, weights.device

    return Unreadable()


def test_the_unrolled_head_drafts_as_engines_do(
    weights: Weights, target: Target, texts: list[LearnedText]
) -> None:
    head, same, compared = UnrolledHead(weights), 0, 0
    for text in texts[:4]:
        hidden = target.hidden(text.ids)
        batch = collate([text], (0,), steps=3, device=CPU)
        with torch.no_grad():
            embedded = target.embed(batch.ids).float()
            drafted = head(embedded, hidden[None].float(), batch.rows, steps=3)
        begin = text.spans[-1][0]
        prompt, reply = list(text.ids[:begin]), list(text.ids[begin:])
        drafter = Drafter(load_head(weights, target.config), target, prompt, hidden)
        last_turn = [
            (row, place, steps)
            for row, (place, steps) in enumerate(text.chains(3))
            if place + 1 >= begin
        ]
        for row, place, steps in last_turn:
            wanted = drafter.draft(reply[: place + 2 - begin], 3)
            for step in range(steps):
                mine = target.best(drafted[step][0, row : row + 1].bfloat16())
                compared, same = compared + 1, same + (mine == wanted[step])
                if wanted[step] != text.ids[place + 2 + step]:
                    # Drafts beyond one that is wrong take another token than the text has.
                    break
    # One computes in float32, the other in bf16.
    assert compared > 250
    assert same >= 0.98 * compared


def test_what_is_computed_again_on_a_gpu_gives_the_same_gradients(
    weights: Weights, target: Target, texts: list[LearnedText]
) -> None:
    text = texts[0]
    hidden = target.hidden(text.ids).float()[None]
    batch = collate([text], (0,), steps=3, device=CPU)
    embedded = target.embed(batch.ids).float()
    found: list[dict[str, Tensor]] = []
    for saving in (False, True):
        head = UnrolledHead(weights)
        head._saving = saving
        drafted = head(embedded, hidden, batch.rows, steps=3)
        torch.stack([draft.square().sum() for draft in drafted]).sum().backward()
        parameters = head.head.named_parameters()
        found.append({name: cast("Tensor", each.grad) for name, each in parameters})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 0, name
        assert torch.equal(gradient, found[1][name]), name


def test_steps_are_counted_as_a_server_steps_along_a_reply() -> None:
    # Two replies of six and four tokens; a draft is made behind each but the last.
    text = LearnedText("two", "given", tuple(range(20)), ((4, 10), (15, 19)))
    chains = text.chains(3)
    assert chains == [(3, 3), (4, 3), (5, 3), (6, 2), (7, 1), (14, 3), (15, 2), (16, 1)]
    # Two drafts are right, then none at 6, one at 7 ends the reply; all three of the second are.
    leading = [2, 0, 0, 0, 1, 3, 0, 0]
    assert steps_along(chains, leading, 3) == ((4, 3, 2), (3, 2, 1))


def test_agreement_on_a_greedy_reply_is_what_rounds_of_drafts_accept(
    weights: Weights, target: Target, texts: list[LearnedText], tmp_path: Path
) -> None:
    head, loaded = UnrolledHead(weights), load_head(weights, target.config)
    greedy: list[LearnedText] = []
    rounds: list[tuple[int, tuple[int, ...]]] = []
    for text in texts[:3]:
        prompt = list(text.ids[: text.spans[0][0]])
        # As many tokens as it takes, an end or none: what is beyond a reply's end is not compared.
        reply = target.decode(prompt, ends=(), limit=40, past=0)
        drafter = Drafter(loaded, target, prompt, reply.hidden)
        ids = (*prompt, *reply.tokens)
        greedy.append(LearnedText(text.name, "greedy", ids, ((len(prompt), len(ids)),)))
        # Drafts that would lie beyond it are not asked for.
        beyond = [*reply.tokens, -1, -1, -1]
        rounds.append(count_rounds(beyond, reply.length, drafter.draft, 3))
    states = body_states(weights, greedy, folder=tmp_path, batch_tokens=2048)

    def drafted(group: Sequence[int]) -> tuple[Batch, Tensor, list[Tensor]]:
        batch, own = collate(greedy, group, steps=3, device=CPU), states.read(group, CPU)
        return batch, own, head(target.embed(batch.ids).float(), own.float(), batch.rows, steps=3)

    groups = batches(greedy, range(3), 2048)
    vocabulary = FrozenVocabulary(target.head, cast("Tensor", target.head.weight))
    found = HeldOut(greedy, groups, drafted, vocabulary).agreement()
    assert found is not None
    # One computes in float32, the other in bf16: a draft may be another, and shift what follows.
    assert sum(count for count, _ in rounds) > 30
    for begun, agreed, (count, accepted) in zip(found.begun, found.agreed, rounds, strict=True):
        assert abs(begun[0] - count) <= 2
        assert abs(sum(agreed) - sum(accepted)) <= 4


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda p, q: -(p * q.log()).sum(-1),
    "total_variation": lambda p, q: (p - q).abs().sum(-1) / 2,
    "acceptance": lambda p, q: -torch.minimum(p, q).sum(-1).log(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_do_not_depend_on_the_pieces(
    name: LossName, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weight, said = torch.randn(50, 8), torch.randn(13, 8)
    drafted = torch.randn(13, 8, requires_grad=True)
    p, q = (functional.linear(x, weight).softmax(-1) for x in (said, drafted))
    wanted = LOSSES[name](p, q).sum()
    (slope,) = torch.autograd.grad(wanted, drafted)
    for rows in (1, 5, 100):
        monkeypatch.setattr("scion.healing.losses._LOGITS", rows * 50)
        vocabulary = FrozenVocabulary(lambda x: functional.linear(x, weight), weight)
        found = vocabulary.loss(drafted, said, name)
        assert torch.allclose(found, wanted, rtol=1e-5)
        assert torch.allclose(torch.autograd.grad(found, drafted)[0], slope, atol=1e-6)


def test_training_brings_a_spoiled_head_back_and_goes_on_where_it_was_stopped(
    conversion: Conversion,
    texts: list[LearnedText],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = conversion.graft_mtp.folder
    settings = QUICK.model_copy(update={"steps": 12, "learning_rate": 3e-3, "donor_pull": 0.0})
    spoil(monkeypatch)
    whole = heal(folder, texts, settings, work=tmp_path / "whole")
    assert whole.after.tokens > whole.before.tokens + 0.3
    assert whole.curve[-1]["loss"] < whole.curve[0]["loss"]
    names = [name for name in conversion.graft_mtp.tensors() if name.startswith("mtp.")]
    assert sorted(whole.tensors) == sorted(names)
    assert all(tensor.dtype == torch.bfloat16 for tensor in whole.tensors.values())

    # The same, stopped after its seventh step, whose state was kept.
    monkeypatch.setattr(loop, "_SAVE_SECONDS", 0.0)
    step = loop.HeadTraining._step

    def stopped(self: Any, number: int, group: Any) -> float:
        if number == 7:
            raise KeyboardInterrupt
        return step(self, number, group)

    monkeypatch.setattr(loop.HeadTraining, "_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        heal(folder, texts, settings, work=tmp_path / "stopped")
    monkeypatch.setattr(loop.HeadTraining, "_step", step)
    resumed = heal(folder, texts, settings, work=tmp_path / "stopped")
    assert (resumed.before, resumed.after, resumed.curve) == (
        whole.before,
        whole.after,
        whole.curve,
    )
    assert all(torch.equal(resumed.tensors[name], whole.tensors[name]) for name in names)


def test_a_head_that_training_makes_worse_stays_as_it_was(
    conversion: Conversion, texts: list[LearnedText], tmp_path: Path
) -> None:
    settings = QUICK.model_copy(update={"learning_rate": 0.5, "steps": 2})
    healed = heal(conversion.graft_mtp.folder, texts, settings, work=tmp_path)
    assert all(look["tokens"] < healed.before.tokens for look in healed.curve)
    assert (healed.after, healed.best_step) == (healed.before, 0)
    assert healed.tensors == {}


def test_a_loss_that_is_no_number_stops_and_says_where(
    conversion: Conversion,
    texts: list[LearnedText],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        FrozenVocabulary, "loss", lambda *_: torch.tensor(float("nan"), requires_grad=True)
    )
    with pytest.raises(ScionError, match="not finite") as caught:
        heal(conversion.graft_mtp.folder, texts, QUICK, work=tmp_path)
    assert caught.value.where.startswith("step 1 of 6, texts line ")


def test_a_mixture_of_experts_is_healed_whatever_its_experts_are_stored_as(
    pico: Pico, texts: list[LearnedText], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head has eight experts, stacked in the checkpoint."""
    stacked = Checkpoint.open(pico.folder / "pico-mixture")
    settings = QUICK.model_copy(update={"steps": 3, "learning_rate": 2e-3})
    spoil(monkeypatch)
    healed = heal(stacked.folder, texts, settings, work=tmp_path / "work")
    head = {name: stacked.tensor(name) for name in stacked.shard_of if name.startswith("mtp.")}
    assert healed.tensors.keys() == head.keys()
    assert all(tuple(each.shape) == head[name].shape for name, each in healed.tensors.items())
    weights = Weights(stacked, device=CPU, activations="bf16")
    parts: Any = dict(_stored(cast("Weights", ExpertsApart(weights)), healed.tensors))
    stacks = {n: each for n, each in weights.inventory.stacked.items() if n in healed.tensors}
    assert len(stacks) == 2
    for name, stack in stacks.items():
        members = torch.stack([parts[member] for member in stack.members])
        assert torch.equal(members.flatten(), healed.tensors[name].flatten())


class ExpertsApart:
    """Weights of a release that has each expert under a name of its own."""

    def __init__(self, weights: Weights) -> None:
        self.inventory, self.checkpoint = weights.inventory, self
        names = weights.checkpoint.shard_of.keys() - weights.inventory.stacked.keys()
        self.shard_of = dict.fromkeys(names, "")

    def tensor(self, _name: str) -> Any:
        return SimpleNamespace(dtype="BF16")


def test_a_quantized_head_is_refused(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scion.healing.head.NvFp4Linear", torch.nn.Linear)
    with pytest.raises(ScionError, match="the MTP head is quantized"):
        UnrolledHead(weights)


def test_a_body_that_says_one_token_teaches_nothing(conversion: Conversion, tmp_path: Path) -> None:
    short = [LearnedText(f"{number}", "greedy", (1, 2, 3), ((2, 3),)) for number in range(5)]
    with pytest.raises(ScionError, match="nothing that an MTP head could learn") as caught:
        heal(conversion.graft_mtp.folder, short, QUICK, work=tmp_path)
    assert caught.value.found == "0 of 5"


def test_a_disk_without_room_is_told_before(
    weights: Weights, texts: list[LearnedText], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = body.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(body.shutil, "disk_usage", lambda _: full)
    with pytest.raises(NoRoomError, match="too small for the hidden states"):
        body_states(weights, texts, folder=tmp_path, batch_tokens=900)
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_is_worse_on_other_domains_stays_as_it_was(
    conversion: Conversion,
    texts: list[LearnedText],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch)
    others = [replace(text, name=f"other_{text.name}", domain="off") for text in texts[:3]]
    settings = QUICK.model_copy(update={"steps": 12, "learning_rate": 3e-3, "donor_pull": 0.0})
    folder = conversion.graft_mtp.folder
    healed = heal(folder, [*texts, *others], settings, work=tmp_path / "better")
    found = healed.off_domain()
    assert found is not None
    assert found["texts"] == 3
    assert healed.tensors
    assert not found["worse"]
    assert found["after"]["tokens"] > found["before"]["tokens"]

    # As if it had begun where it ended on them: the loss is the gain's mirror.
    def mirrored(self: Agreement, other: Agreement) -> Estimate:
        gain = ratio_of_sums([-9, -10, -11], [10, 10, 10])
        assert (self, other) == (healed.off_after, healed.off_before)
        return gain

    monkeypatch.setattr(Agreement, "gain_over", mirrored)
    refused = heal(folder, [*texts, *others], settings, work=tmp_path / "worse")
    assert refused.after.tokens > refused.before.tokens
    assert refused.worse_elsewhere
    assert refused.tensors == {}


def test_training_ends_where_nothing_is_gained_and_keeps_the_best(
    conversion: Conversion, texts: list[LearnedText], tmp_path: Path
) -> None:
    settings = QUICK.model_copy(update={"learning_rate": 0.5, "steps": 16, "patience": 2})
    healed = heal(conversion.graft_mtp.folder, texts, settings, work=tmp_path)
    assert [look["step"] for look in healed.curve] == [2, 4]
    assert healed.best_step == 0


def test_texts_of_one_prompt_are_held_out_together() -> None:
    texts = [
        LearnedText(f"{number}", "greedy", (number % 10, 1, 2, 3), ((1, 4),))
        for number in range(40)
    ]
    others = [replace(text, domain="off") for text in texts]
    for seed in range(5):
        held_out = held_out_places([*texts, *others], 0.25, seed)
        assert len(held_out) in (8, 12)
        assert {place % 10 for place in held_out} == {
            place % 10 for place in range(40) if place in held_out
        }
        assert all(
            (place in held_out) == (place % 10 in {each % 10 for each in held_out})
            for place in range(40)
        )
    assert len({tuple(sorted(held_out_places(texts, 0.25, seed))) for seed in range(5)}) > 1
    # One prompt alone is learned from, and none is held out.
    assert held_out_places(texts[::10], 0.5, 0) == set()


@pytest.mark.parametrize("scheme", ["fp8", "nvfp4"])
def test_a_head_computes_with_what_its_release_stores(weights: Weights, scheme: HeadScheme) -> None:
    head = UnrolledHead(weights)
    computed = dict(head.head.named_parameters())
    masters = MasterWeights(head.head, QUICK, _rounding(weights, head.prefix, scheme))
    before = masters.tensors()
    for parameter in computed.values():
        parameter.grad = torch.ones_like(parameter)
    assert masters.step(1.0)
    moved = masters.tensors()
    groups = [
        [f"{module.removeprefix(head.prefix)}.weight" for module in group]
        for group in head_groups(weights.inventory)
    ]
    assert ["layers.0.mlp.down_proj.weight"] in groups
    stored = moved | {
        name: value
        for group in groups
        for name, value in zip(group, rounded([moved[of] for of in group], scheme), strict=True)
    }
    for name, parameter in computed.items():
        # The optimizer's step is small beside a step of four bits, and is not lost.
        assert not torch.equal(moved[name], before[name]), name
        assert torch.equal(parameter, stored[name].to(parameter.dtype)), name
        assert parameter.grad is None
    computed["norm.weight"].grad = torch.full_like(computed["norm.weight"], float("inf"))
    assert not masters.step(1.0)
    assert all(torch.equal(each, moved[name]) for name, each in masters.tensors().items())
