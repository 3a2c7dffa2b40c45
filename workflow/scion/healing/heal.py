"""Healing the MTP head of a release: texts in, the head's new tensors out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scion.checkpoint.shards import Checkpoint
from scion.common.devices import device_named, fast_products, fixed_threads
from scion.common.errors import ScionError
from scion.evaluation.offline.linear import Fp8Linear, NvFp4Linear
from scion.evaluation.offline.target import lm_head, text_config
from scion.evaluation.offline.weights import Weights
from scion.formats.stored_modules import HeadScheme
from scion.healing.body import THREADS, body_states, embeddings
from scion.healing.config import Training
from scion.healing.head import UnrolledHead
from scion.healing.losses import FrozenVocabulary
from scion.healing.masters import Rounding
from scion.healing.rounding import head_groups, rounded
from scion.healing.texts import LearnedText
from scion.healing.training import HeadTraining, Healed, held_out_places
from scion.quantization.stored_rows import DTYPES


def heal(
    folder: Path,
    texts: Sequence[LearnedText],
    settings: Training,
    *,
    work: Path,
    scheme: HeadScheme = "none",
) -> Healed:
    """Train the MTP head of a release on its own body, which stays as it is.

    Args:
        folder: The release, in NVFP4 or bf16.
        texts: What the head learns from, and is held against.
        settings: How it is trained.
        work: Where a run keeps what it has reached, with the body's hidden states.
        scheme: What the release will store the head's matrices in; it is trained through that.

    Raises:
        ScionError: As `Weights`, `device_named`, `body_states` and `HeadTraining.run`; there is
            nothing to learn.
    """
    device = device_named(settings.device, where="healing.training.device")
    weights = Weights(
        Checkpoint.open(folder),
        device=device,
        activations=settings.activations,
        # All texts pass through each matrix, some thousand tokens at a time.
        compiled=device.type == "cuda",
    )
    learned = [text for text in texts if text.chains(settings.draft_tokens)]
    if not held_out_places(learned, settings.held_out_share, settings.seed):
        raise _nothing_to_learn(folder, learned, len(texts))
    states = body_states(weights, learned, folder=work, batch_tokens=settings.batch_tokens)
    table = embeddings(weights)
    tied = "lm_head.weight" not in weights.inventory.language
    shared = nn.Parameter(table.to(device) if tied else table, requires_grad=False)
    head = lm_head(weights, text_config(weights), shared)
    with fixed_threads(device, THREADS), fast_products(device):
        unrolled = UnrolledHead(weights)
        training = HeadTraining(
            unrolled,
            FrozenVocabulary(head, _matrix(head)),
            table,
            learned,
            states,
            settings,
            work,
            device,
            _rounding(weights, unrolled.prefix, scheme),
        )
        healed = training.run()
    return replace(healed, tensors=dict(_stored(weights, healed.tensors)))


def _rounding(weights: Weights, prefix: str, scheme: HeadScheme) -> Rounding | None:
    """What a release in such a scheme does to the head's matrices, by their names in the head."""
    if scheme == "none":
        return None
    groups = [
        [f"{module.removeprefix(prefix)}.weight" for module in group]
        for group in head_groups(weights.inventory)
    ]

    def through(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value
            for group in groups
            for name, value in zip(
                group, rounded([stored[name] for name in group], scheme), strict=True
            )
        }

    return through


def raw_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor as a shard has them."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _stored(weights: Weights, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The head's tensors as the release has them, which may have experts one by one."""
    for name, tensor in tensors.items():
        if name in weights.checkpoint.shard_of:
            parts = {name: tensor}
        else:
            stack = weights.inventory.stacked[name]
            members = tensor.view(len(stack.members), *stack.member_shape)
            parts = dict(zip(stack.members, members, strict=True))
        for stored, part in parts.items():
            yield stored, part.to(DTYPES[weights.checkpoint.tensor(stored).dtype])


def software(settings: Training) -> dict[str, str]:
    """What a head is trained with: where it ran, and the versions."""
    device = device_named(settings.device, where="healing.training.device")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, **{of: version(of) for of in ("torch", "transformers")}}


def _matrix(head: Any) -> Tensor:
    """The weights of a `lm_head`, bf16."""
    return head.decode() if isinstance(head, NvFp4Linear | Fp8Linear) else head.weight.data


def _nothing_to_learn(folder: Path, learned: Sequence[LearnedText], texts: int) -> ScionError:
    return ScionError(
        "there is nothing that an MTP head could learn",
        where=folder,
        expected="at least two texts, to different prompts, in which the assistant says two tokens "
        "or more",
        found=f"{sum(text.domain == 'in' for text in learned)} of {texts}",
        hint="ask prompts that the model answers, and raise healing.replies.reply_tokens",
    )
