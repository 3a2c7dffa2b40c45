"""The MTP head of a release, and how vLLM drafts with it.

    x = fc(cat[pre_fc_norm_embedding(embed(next token)), pre_fc_norm_hidden(hidden)])
    hidden = norm(decoder_layer(x)),  draft = argmax(lm_head(hidden))

Embeddings and `lm_head` are the target's. Each round begins over the positions that the target has
verified since the last: position i takes the token of position i + 1 and the target's hidden state
i, after its final norm, so that keys and values of the head rest on the target alone. Every further
draft takes the token drafted before, what `norm` gave for it, and the next position; its keys and
values are dropped again after the round. (vLLM's `qwen3_5_mtp.py`, `llm_base_proposer.py`; there is
one layer, whatever the number of drafts.)
"""

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig

from scion.evaluation.offline.classes import classes_of
from scion.evaluation.offline.target import Target
from scion.evaluation.offline.weights import Weights


class MtpHead(nn.Module):
    """The head's tensors; names are the checkpoint's after the head's prefix.

    Args:
        config: A model's whose only layer is one of full attention.
        classes: The classes of transformers for it.
    """

    def __init__(self, config: Any, classes: SimpleNamespace) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.fc = nn.Linear(2 * hidden, hidden, bias=False)
        self.pre_fc_norm_embedding = classes.norm(hidden, eps=eps)
        self.pre_fc_norm_hidden = classes.norm(hidden, eps=eps)
        self.layers = nn.ModuleList([classes.layer(config, 0)])
        self.norm = classes.norm(hidden, eps=eps)

    def forward(self, embedded: Tensor, hidden: Tensor, **layer: Any) -> Tensor:
        """Hidden states that predict the token after next.

        Args:
            embedded: Embeddings of the next tokens, [1, T, H].
            hidden: Hidden states, [1, T, H].
            layer: What the decoder layer takes beside them: position embeddings, mask, cache.
        """
        joined = self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden)
        return self.norm(self.layers[0](self.fc(torch.cat(joined, -1)), **layer))


def load_head(weights: Weights, config: PretrainedConfig) -> MtpHead:
    """The head of a release.

    Args:
        weights: The release.
        config: The target's.

    Raises:
        ValueError: The family of the release has no head.
    """
    family = weights.inventory.family
    if family.head is None:
        raise ValueError(f"{family.title}: the family has no MTP head")
    with torch.device("meta"):
        head = MtpHead(one_layer(config), classes_of(family))
    weights.fill(head, family.head.prefix)
    return head.eval()


def one_layer(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of a model whose only layer is one of full attention."""
    single: Any = copy.deepcopy(config)
    single.num_hidden_layers, single.layer_types = 1, ["full_attention"]
    return single


class Drafter:
    """Drafts along one reply.

    Args:
        head: The MTP head.
        target: Has embeddings, rotary embeddings and lm_head.
        prompt: The tokens before the reply.
        hidden: The target's hidden states after its final norm, at all positions of prompt and
            reply but the last, [positions, H].
    """

    def __init__(self, head: MtpHead, target: Target, prompt: list[int], hidden: Tensor) -> None:
        self._head, self._target = head, target
        self._prompt, self._hidden = prompt, hidden
        self._cache = DynamicCache(config=one_layer(target.config))
        self._verified = 0

    @torch.inference_mode()
    def draft(self, reply: list[int], count: int) -> list[int]:
        """Draft what follows.

        Args:
            reply: What the target has said so far; longer in each call.
            count: How many tokens to draft.
        """
        tokens = self._prompt + reply
        self._cache.crop(self._verified)
        start, end = self._verified, len(tokens) - 1
        fed, states = tokens[start + 1 :], self._hidden[start:end]
        drafted: list[int] = []
        for _ in range(count):
            states = self._step(fed, states, start)[-1:]
            fed = [self._target.best(states)]
            drafted += fed
            start = end if len(drafted) == 1 else start + 1
        self._verified = end
        return drafted

    def _step(self, fed: list[int], states: Tensor, start: int) -> Tensor:
        """Run the head over consecutive positions from `start`: [T, H] to [T, H]."""
        ids = torch.tensor([fed], device=states.device)
        positions = torch.arange(start, start + len(fed), device=states.device)
        seen = torch.arange(start + len(fed), device=states.device)
        return self._head(
            self._target.embed(ids),
            states[None],
            # Text has the same position in all three rows of M-RoPE.
            position_embeddings=self._target.rotary(states, positions.expand(3, 1, -1)),
            attention_mask=(seen <= positions[:, None])[None, None],
            past_key_values=self._cache,
        )[0]
