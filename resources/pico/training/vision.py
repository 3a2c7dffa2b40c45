"""The pico with eyes: transformers' own tower and language model, on batches of equal pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

from training.data import Batch
from training.loop import Pico
from training.pictures import GRID, IMAGE_TOKEN, MERGE

TOWER: Final = {"depth": 3, "hidden_size": 64, "intermediate_size": 192, "num_heads": 4}
"""Sizes of pico-vision's tower where they are not the pair's, which was never to see anything."""

_TEXT_ALONE: Final = (
    "{%- for part in content if part.text is defined -%}{{- part.text -}}{%- endfor -%}"
)
_TEXT_AND_IMAGES: Final = """{%- for part in content -%}
      {%- if part.type in ('image', 'image_url') -%}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
      {%- elif part.text is defined -%}{{- part.text -}}{%- endif -%}
    {%- endfor -%}"""


def vision_config(assets: Path) -> dict[str, Any]:
    """The content of pico-vision's config.json: the pair's, with a tower of its own size."""
    config = json.loads((assets / "config.json").read_text())
    return config | {"vision_config": config["vision_config"] | TOWER}


def vision_template(assets: Path) -> str:
    """pico-vision's chat template: the pair's, with the family's placeholder for an image.

    Raises:
        ValueError: The pair's template changed, and what is replaced here is no longer in it.
    """
    template = (assets / "chat_template.jinja").read_text()
    if template.count(_TEXT_ALONE) != 1:
        raise ValueError("the chat template does not join the text parts of a message as it did")
    return template.replace(_TEXT_ALONE, _TEXT_AND_IMAGES)


def spread_weights(tower: nn.Module, *, seed: int) -> None:
    """Draws the tower's weights anew, so wide that no layer makes its input smaller or larger.

    transformers' standard deviation of 0.02 is that of large models; at this width the blocks would
    add next to nothing to what they get, and learn as little.
    """
    torch.manual_seed(seed)
    for module in tower.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)


class SeeingPico(Pico):
    """A pico whose prompts hold one picture each."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for block in self.model.model.visual.blocks:
            _attend_in_batches(block.attn)

    def see(self, ids: Tensor, patches: Tensor) -> Tensor:
        """Logits [B, T, V] for ids [B, T] that hold one picture each, with its patches."""
        grid = torch.tensor([[1, GRID, GRID]] * len(ids), device=ids.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            hidden = self.model.model(
                input_ids=ids,
                pixel_values=patches,
                image_grid_thw=grid,
                position_ids=positions(ids),
                use_cache=False,
            ).last_hidden_state
            return self.model.lm_head(hidden)

    def picture_loss(self, batch: Batch, patches: Tensor) -> Tensor:
        """Mean loss of the answers' tokens."""
        logits = self.see(batch.ids, patches)[:, :-1].flatten(0, 1).float()
        each = functional.cross_entropy(logits, batch.ids[:, 1:].flatten(), reduction="none")
        answers = batch.assistant[:, 1:].flatten()
        return (each * answers).sum() / answers.sum()

    @torch.no_grad()
    def answers_exactly(self, batch: Batch, patches: Tensor) -> Tensor:
        """Whether greedy decoding gives the whole answer, bool [B].

        It does if, and only if, every token of the answer is the likeliest one after those before.
        """
        same = self.see(batch.ids, patches)[:, :-1].argmax(-1) == batch.ids[:, 1:]
        return (same | ~batch.assistant[:, 1:]).all(1)


def positions(ids: Tensor) -> Tensor:
    """M-RoPE positions [3, B, T] of ids [B, T] with one picture a row.

    transformers' `get_rope_index` without its loop over rows: text counts up in all three rows; a
    picture's tokens share one temporal position and spread over its grid in the other two; the
    text after it goes on as if the picture were as long as its grid is wide.
    """
    side = GRID // MERGE
    seen = ids == IMAGE_TOKEN
    order = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    first = seen.int().argmax(1, keepdim=True)
    inside = (order - first).clamp(0, side * side - 1)
    # Of as many tokens as the picture has, the positions after it count only `side`.
    after = order >= first + side * side
    text = torch.where(after, order - side * side + side, order)
    rows = torch.where(seen, first + inside // side, text)
    columns = torch.where(seen, first + inside % side, text)
    return torch.stack([torch.where(seen, first, text), rows, columns])


def _attend_in_batches(attention: Any) -> None:
    """Makes a layer of the tower attend within all pictures at once.

    transformers' loops over the pictures of a batch, for they could be of different sizes. Ours
    are not: GRID**2 patches each.
    """

    def forward(
        hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **unused: Any
    ) -> Tensor:
        shape = (len(hidden_states), 3, attention.num_heads, -1)
        query, key, value = attention.qkv(hidden_states).view(shape).unbind(1)
        query, key = qwen.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        heads = (x.unflatten(0, (-1, GRID**2)).transpose(1, 2) for x in (query, key, value))
        mixed = functional.scaled_dot_product_attention(*heads, scale=attention.scaling)
        return attention.proj(mixed.transpose(1, 2).flatten(0, 1).flatten(1))

    attention.forward = forward
