"""Rounds of drafts along a greedy reply, counted as vLLM counts them.

Greedy decoding makes the target's text independent of the drafts, so the text is generated once,
and the drafts of every round are compared with it. vLLM's scheduler counts so:

- The first token comes with the prompt; nothing was drafted for it.
- A round counts with all its drafts, also the one in which the reply ends.
- A draft is accepted if it and all before it in its round are what the target says. That is counted
  before the reply is cut, so drafts beyond its end, by an end token or by `max_tokens`, count as
  accepted where the target would have gone on so.

Near the end of the context vLLM drafts less; a prompt that comes so far is refused here. Penalties
that a generation_config.json sets, which a server applies unless asked otherwise, are not applied.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from scion.checkpoint.shards import CONFIG, Checkpoint
from scion.common.devices import device_named
from scion.common.errors import ScionError
from scion.common.progress import progress
from scion.evaluation.chats import Chat
from scion.evaluation.intervals import Estimate, bounded_ratio
from scion.evaluation.offline.mtp import Drafter, load_head
from scion.evaluation.offline.prompts import end_tokens, load_tokenizer, prompt_ids
from scion.evaluation.offline.target import Target
from scion.evaluation.offline.weights import Activations, Weights


@dataclass(frozen=True)
class Counts:
    """What was drafted and accepted for one prompt.

    Attributes:
        name: The prompt's.
        prompt_tokens: How long it is.
        reply: The tokens that the target answered.
        drafts: Rounds.
        accepted: Accepted tokens by place in the draft.
    """

    name: str
    prompt_tokens: int
    reply: tuple[int, ...]
    drafts: int
    accepted: tuple[int, ...]


@dataclass(frozen=True)
class Acceptance:
    """The acceptance of a release's MTP head, and what it was measured with.

    Attributes:
        draft_tokens: Drafts a round.
        reply_tokens: Longest reply.
        activations: What NVFP4 layers did to their input.
        device: `cpu`, or the GPU's name.
        prompts: Counts by prompt.
    """

    draft_tokens: int
    reply_tokens: int
    activations: Activations
    device: str
    prompts: tuple[Counts, ...]

    @property
    def drafts(self) -> int:
        """Rounds."""
        return sum(prompt.drafts for prompt in self.prompts)

    @property
    def accepted(self) -> tuple[int, ...]:
        """Accepted tokens by place in the draft."""
        return tuple(map(sum, zip(*(prompt.accepted for prompt in self.prompts), strict=True)))

    def per_position(self) -> list[Estimate]:
        """Share of the rounds whose draft at each place was accepted."""
        rounds = [prompt.drafts for prompt in self.prompts]
        columns = zip(*(prompt.accepted for prompt in self.prompts), strict=True)
        return [bounded_ratio(column, rounds) for column in columns]

    def mean_length(self) -> Estimate:
        """Mean tokens a round: the accepted ones, and the prompt that the target adds."""
        rounds = [prompt.drafts for prompt in self.prompts]
        tokens = [prompt.drafts + sum(prompt.accepted) for prompt in self.prompts]
        return bounded_ratio(tokens, rounds, low=1, high=1 + self.draft_tokens)

    def record(self) -> dict[str, Any]:
        """The form that `--output` writes."""
        return {
            "versions": {name: version(name) for name in ("scion", "torch", "transformers")},
            "device": self.device,
            "activations": self.activations,
            "reply_tokens": self.reply_tokens,
            "drafts": self.drafts,
            "draft_tokens": self.drafts * self.draft_tokens,
            "accepted_by_position": list(self.accepted),
            "per_position": [estimate.record() for estimate in self.per_position()],
            "mean_length": self.mean_length().record(),
            "prompts": [
                {
                    "name": prompt.name,
                    "prompt_tokens": prompt.prompt_tokens,
                    "reply_tokens": len(prompt.reply),
                    "drafts": prompt.drafts,
                    "accepted_by_position": list(prompt.accepted),
                }
                for prompt in self.prompts
            ],
        }


def measure_offline(
    folder: Path,
    chats: Sequence[Chat],
    *,
    draft_tokens: int = 3,
    reply_tokens: int = 200,
    device: str = "auto",
    activations: Activations = "nvfp4",
) -> Acceptance:
    """Measure the acceptance of a release's MTP head.

    Args:
        folder: The release, in NVFP4 by ModelOpt or in bf16.
        chats: The prompts.
        draft_tokens: Drafts a round; vLLM's `num_speculative_tokens`.
        reply_tokens: Longest reply.
        device: `cpu`, `cuda`, or `auto` for a GPU if there is one.
        activations: `nvfp4` rounds the inputs of NVFP4 layers, as the format says and GPUs with FP4
            units do; `bf16` does not, as GPUs without them. No matter for a bf16 release.

    Raises:
        ScionError: As `Weights`, `prompt_ids` and `device_named` do; a prompt is too long for the
            context; no reply was long enough for a draft.
    """
    where = device_named(device, where=f"--device {device}")
    weights = Weights(Checkpoint.open(folder), device=where, activations=activations)
    tokenizer = load_tokenizer(folder)
    prompts = [prompt_ids(tokenizer, chat) for chat in chats]
    target = Target(weights)
    context = target.config.max_position_embeddings
    for chat, prompt in zip(chats, prompts, strict=True):
        _check_length(folder, chat, len(prompt) + reply_tokens + 2 * draft_tokens, context)
    head, ends = load_head(weights, target.config), end_tokens(folder, tokenizer)
    counts: list[Counts] = []
    pairs = list(zip(chats, prompts, strict=True))
    with progress("prompts", len(pairs)) as told:
        for chat, prompt in pairs:
            reply = target.decode(prompt, ends=ends, limit=reply_tokens, past=draft_tokens)
            drafter = Drafter(head, target, prompt, reply.hidden)
            drafts, accepted = count_rounds(reply.tokens, reply.length, drafter.draft, draft_tokens)
            answered = tuple(reply.tokens[: reply.length])
            counts.append(Counts(chat.name, len(prompt), answered, drafts, accepted))
            told.advance()
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"
    result = Acceptance(draft_tokens, reply_tokens, weights.activations, name, tuple(counts))
    if result.drafts == 0:
        raise _nothing_drafted(folder, len(chats))
    return result


def count_rounds(
    tokens: list[int],
    length: int,
    draft: Callable[[list[int], int], list[int]],
    draft_tokens: int,
) -> tuple[int, tuple[int, ...]]:
    """Count rounds, and accepted tokens by place in the draft.

    Args:
        tokens: What the target generates, at least `draft_tokens - 1` beyond the reply.
        length: Tokens of the reply.
        draft: Drafts so many tokens that follow those of the reply that it is given.
        draft_tokens: Drafts a round.
    """
    rounds, accepted = 0, [0] * draft_tokens
    done = 1
    while done < length:
        rounds += 1
        for place, drafted in enumerate(draft(tokens[:done], draft_tokens)):
            if drafted != tokens[done]:
                break
            accepted[place] += 1
            done += 1
        done += 1
    return rounds, tuple(accepted)


def _check_length(folder: Path, chat: Chat, needed: int, context: int) -> None:
    if needed > context:
        raise ScionError(
            "a prompt is too long for the model",
            where=f"prompt {chat.name}",
            expected=f"prompt, reply and drafts within max_position_embeddings, {context} tokens "
            f"({folder / CONFIG})",
            found=f"{needed} tokens",
            hint="ask for shorter replies with --reply-tokens, or leave the prompt out",
        )


def _nothing_drafted(folder: Path, prompts: int) -> ScionError:
    return ScionError(
        "nothing was drafted",
        where=folder,
        expected="replies of at least two tokens",
        found=f"{prompts} replies of one token",
        hint="raise --reply-tokens, or ask prompts that the model answers",
    )
