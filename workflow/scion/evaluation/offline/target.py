"""The language model of a release, in transformers' own classes, decoding greedily."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig

from scion.checkpoint.shards import CONFIG
from scion.common.errors import ScionError
from scion.evaluation.offline.classes import classes_of
from scion.evaluation.offline.delta_net import compute_in_float32
from scion.evaluation.offline.weights import Weights


@dataclass(frozen=True)
class Reply:
    """A greedy decode.

    Attributes:
        tokens: What was generated, `past` tokens beyond the end included.
        length: How many of them a server would return.
        hidden: Hidden states after the final norm, bf16 [positions, H], of every position of prompt
            and reply but the last.
    """

    tokens: list[int]
    length: int
    hidden: Tensor


class Target:
    """Embeddings, decoder layers, final norm and head.

    Args:
        weights: The release.
    """

    def __init__(self, weights: Weights) -> None:
        family = weights.inventory.family
        classes = classes_of(family)
        self.config: Any = text_config(weights)
        with torch.device("meta"):
            model = classes.text_model(self.config)
        weights.fill(model, family.prefix)
        self.head = lm_head(weights, self.config, model.embed_tokens.weight)
        # Frequencies are no tensors of the checkpoint, and must stay in float32.
        self.rotary: Any = classes.rotary(self.config, device=weights.device)
        model.rotary_emb = self.rotary
        compute_in_float32(model, classes)
        self.embed = model.embed_tokens
        self._model = model.eval()

    def best(self, hidden: Tensor) -> int:
        """The most likely token after the last of some hidden states, [positions, H]."""
        return int(self.head(hidden[-1:]).argmax(-1))

    @torch.inference_mode()
    def hidden(self, tokens: Sequence[int]) -> Tensor:
        """Hidden states after the final norm, bf16 [tokens, H], of a text in one pass."""
        ids = torch.tensor([list(tokens)], device=self.embed.weight.device)
        return self._model(input_ids=ids, use_cache=False).last_hidden_state[0]

    @torch.inference_mode()
    def decode(self, prompt: list[int], *, ends: Collection[int], limit: int, past: int) -> Reply:
        """Decode greedily.

        Args:
            prompt: Token ids.
            ends: Tokens that end the reply.
            limit: Most tokens of the reply.
            past: Tokens to generate after the reply's end: a server verifies drafts beyond it.
        """
        cache = DynamicCache(config=self.config)
        tokens: list[int] = []
        hidden: list[Tensor] = []
        length, feed = limit, prompt
        while len(tokens) < length + past:
            ids = torch.tensor([feed], device=self.embed.weight.device)
            out = self._model(input_ids=ids, past_key_values=cache, use_cache=True)
            hidden.append(out.last_hidden_state[0])
            tokens.append(self.best(hidden[-1]))
            feed = tokens[-1:]
            if len(tokens) < length and tokens[-1] in ends:
                length = len(tokens)
        return Reply(tokens, length, torch.cat(hidden))


def lm_head(weights: Weights, config: PretrainedConfig, embeddings: nn.Parameter) -> nn.Module:
    """What makes logits of the final hidden states.

    Args:
        weights: The release.
        config: The text part of its config.json.
        embeddings: Those of the tokens, which it shares where it is tied to them.
    """
    sizes: Any = config
    with torch.device("meta"):
        head = nn.Linear(sizes.hidden_size, sizes.vocab_size, bias=False)
    if "lm_head.weight" not in weights.inventory.language:
        head.weight = embeddings
        return head
    # A module around it, since the head itself may be in NVFP4.
    holder = nn.ModuleDict({"lm_head": head})
    weights.fill(holder, "")
    return holder["lm_head"]


def text_config(weights: Weights) -> PretrainedConfig:
    """The text part of config.json.

    Raises:
        ScionError: transformers can't use it.
    """
    try:
        config: Any = classes_of(weights.inventory.family).config(**weights.checkpoint.config)
        config = config.get_text_config()
    except (ValueError, TypeError, KeyError) as error:
        raise ScionError(
            "transformers can't use this configuration",
            where=weights.checkpoint.folder / CONFIG,
            expected=f"a configuration of {weights.inventory.family.title}, "
            "as the base model has it",
            found=f"{type(error).__name__}: {error}",
            hint=f"`scion lint {weights.checkpoint.folder}` says what is wrong with it",
        ) from error
    config._attn_implementation, config._experts_implementation = "sdpa", "eager"
    return config
