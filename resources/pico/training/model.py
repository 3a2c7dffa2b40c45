"""The pico model: the family's architecture at a size that fits into a git repository.

The body is transformers' own `Qwen3_5ForConditionalGeneration`, or that of a mixture of experts,
`Qwen3_5MoeForConditionalGeneration`: all but their MLPs is alike. The multi-token-prediction (MTP)
layer is not instantiated by transformers, so it is built here from transformers' decoder-layer
class, with exactly the names and the arithmetic that vLLM's `qwen3_5_mtp.py` uses:

    x = fc(cat[pre_fc_norm_embedding(embed(next token)), pre_fc_norm_hidden(hidden)])
    hidden = norm(decoder_layer(x)),  logits = the body's lm_head(hidden)

where `hidden` is at first the body's hidden state *after* its final norm, and in the steps after
that what `norm` gave in the step before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as qwen_moe

Config = Qwen3_5Config | Qwen3_5MoeConfig
Body = Qwen3_5ForConditionalGeneration | Qwen3_5MoeForConditionalGeneration

MTP_STEPS = 3
"""How many tokens ahead the MTP layer is trained to draft: vLLM's `num_speculative_tokens`."""


def load_config(path: Path) -> Config:
    """Reads the config.json of a dense checkpoint, or of a mixture's."""
    values = json.loads(path.read_text())
    if values["model_type"] == "qwen3_5":
        return Qwen3_5Config(**values)
    return Qwen3_5MoeConfig(**values)


def build_body(config: Config, *, seed: int) -> Body:
    """Returns the randomly initialized model in fp32, the same for the same seed."""
    # transformers up to 5.16 binds the function to each layer, later versions look it up here.
    qwen.torch_chunk_gated_delta_rule = chunk_gated_delta_rule
    qwen_moe.torch_chunk_gated_delta_rule = chunk_gated_delta_rule
    torch.manual_seed(seed)
    if isinstance(config, Qwen3_5MoeConfig):
        model: Body = Qwen3_5MoeForConditionalGeneration(config)
        # The loop over experts takes float32 weights under autocast; the grouped product does not.
        # The MTP layer, which has the same configuration, follows.
        model.set_experts_implementation("eager")
    else:
        model = Qwen3_5ForConditionalGeneration(config)
    model = model.float()  # config.json says bf16
    for module in model.modules():
        if isinstance(module, qwen.Qwen3_5GatedDeltaNet | qwen_moe.Qwen3_5MoeGatedDeltaNet):
            # transformers draws the decay rate A from 0..16, which forgets within a few tokens at
            # this depth. A log-uniform range gives heads that remember and heads that do not.
            rates = torch.logspace(-2.0, 0.5, module.num_v_heads)
            module.A_log.data.copy_(rates.log())
    return model


def chunk_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    chunk_size: int = 64,
    **unused: Any,
) -> tuple[Tensor, Tensor]:
    """The gated delta rule over chunks, for training: transformers' fallback without its loop.

    transformers inverts the unit lower-triangular matrix of each chunk row by row, 63 dependent
    steps; one batched triangular solve does the same. Shapes: query, key [B, T, H, K], value
    [B, T, H, V], g and beta [B, T, H], state [B, H, K, V].
    """
    dtype, length = query.dtype, query.shape[1]
    query, key = _unit(query.float()), _unit(key.float())
    padding = -length % chunk_size

    def chunked(x: Tensor) -> Tensor:
        x = x.float().transpose(1, 2)
        x = functional.pad(x, (0, 0, 0, padding) if x.ndim == 4 else (0, padding))
        return x.unflatten(2, (-1, chunk_size))

    query, key, value, g, beta = map(chunked, (query, key, value, g, beta))
    query = query * query.shape[-1] ** -0.5
    key_beta = key * beta.unsqueeze(-1)
    g = g.cumsum(-1)
    decay = (g.unsqueeze(-1) - g.unsqueeze(-2)).tril().exp().tril()
    inner = torch.eye(chunk_size, device=g.device) + ((key_beta @ key.mT) * decay).tril(-1)
    right = torch.cat([value * beta.unsqueeze(-1), key_beta * g.exp().unsqueeze(-1)], -1)
    solved = torch.linalg.solve_triangular(inner, right, upper=False, unitriangular=True)
    value, key_decayed = solved.split([value.shape[-1], key.shape[-1]], -1)
    within = (query @ key.mT) * decay
    query = query * g.exp().unsqueeze(-1)
    key = key * (g[..., -1:] - g).exp().unsqueeze(-1)
    state = value.new_zeros(*value.shape[:2], key.shape[-1], value.shape[-1])
    if initial_state is not None:
        state = initial_state.to(value)
    outputs: list[Tensor] = []
    for i in range(g.shape[2]):
        fresh = value[:, :, i] - key_decayed[:, :, i] @ state
        outputs.append(query[:, :, i] @ state + within[:, :, i] @ fresh)
        state = state * g[:, :, i, -1, None, None].exp() + key[:, :, i].mT @ fresh
    out = torch.stack(outputs, 2).flatten(2, 3)[:, :, :length]
    return out.transpose(1, 2).to(dtype), state


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


class MtpLayer(nn.Module):
    """The MTP tensors, trained over the same recursion that vLLM drafts with.

    They are 15 where its decoder layer is dense; a mixture's has experts of its own.

    State-dict names are the checkpoint's without the prefix `mtp.`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        text = config.text_config
        hidden, eps = text.hidden_size, text.rms_norm_eps
        self.fc = nn.Linear(2 * hidden, hidden, bias=False)
        self.norm = qwen.Qwen3_5RMSNorm(hidden, eps=eps)
        self.pre_fc_norm_hidden = qwen.Qwen3_5RMSNorm(hidden, eps=eps)
        self.pre_fc_norm_embedding = qwen.Qwen3_5RMSNorm(hidden, eps=eps)
        full = text.layer_types.index("full_attention")
        dense = isinstance(config, Qwen3_5Config)
        layer = qwen.Qwen3_5DecoderLayer if dense else qwen_moe.Qwen3_5MoeDecoderLayer
        self.layers = nn.ModuleList([layer(text, full)])
        self.rotary = qwen.Qwen3_5TextRotaryEmbedding(text)
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=text.initializer_range)

    def forward(self, embedded: Tensor, hidden: Tensor, *, steps: int) -> list[Tensor]:
        """Drafts `steps` tokens ahead at every position at once.

        Args:
            embedded: embeddings of the tokens, [B, T, H].
            hidden: the body's hidden states after its final norm, [B, T, H].
            steps: how often the layer is applied.

        Returns:
            For step s a tensor [B, T - steps, H] of hidden states: row i predicts token i + s + 2.
            Step s reads the true token i + s + 1, as a verified draft would be.
        """
        length = hidden.shape[1] - steps
        hidden = hidden[:, :length]
        keys: list[Tensor] = []
        values: list[Tensor] = []
        outputs: list[Tensor] = []
        for step in range(steps):
            token = embedded[:, step + 1 : step + 1 + length]
            joined = [self.pre_fc_norm_embedding(token), self.pre_fc_norm_hidden(hidden)]
            x = self.fc(torch.cat(joined, -1))
            hidden = self.norm(self._decode(x, step, keys, values))
            outputs.append(hidden)
        return outputs

    def _decode(self, x: Tensor, step: int, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Runs the decoder layer; appends this step's keys and values to those before."""
        layer = self.layers[0]
        attention = layer.self_attn
        normed = layer.input_layernorm(x)
        heads = (*x.shape[:2], -1, attention.head_dim)
        query, gate = attention.q_proj(normed).view(*heads[:3], 2 * heads[3]).chunk(2, -1)
        query = attention.q_norm(query).transpose(1, 2)
        key = attention.k_norm(attention.k_proj(normed).view(heads)).transpose(1, 2)
        value = attention.v_proj(normed).view(heads).transpose(1, 2)
        # Three equal rows, as multimodal RoPE has them for text.
        positions = (torch.arange(x.shape[1], device=x.device) + step).expand(3, 1, -1)
        query, key = qwen.apply_rotary_pos_emb(query, key, *self.rotary(x, positions))
        keys.append(qwen.repeat_kv(key, attention.num_key_value_groups))
        values.append(qwen.repeat_kv(value, attention.num_key_value_groups))
        mixed = _attend(query * attention.scaling, keys, values).transpose(1, 2)
        mixed = mixed.flatten(2) * torch.sigmoid(gate.flatten(2))
        x = x + attention.o_proj(mixed)
        return x + layer.mlp(layer.post_attention_layernorm(x))


def _attend(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """Attention of a draft chain: step-0 entries up to i, then i's own entry of each later step.

    Row i stands for one chain of drafts that began at position i. vLLM rewrites the step-0
    entries from verified hidden states in every round, so chain i sees step-0 keys up to i and,
    of the later steps, its own alone.
    """
    length = query.shape[2]
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    scores = [(query @ keys[0].mT).masked_fill(future, float("-inf"))]
    scores += [(query * key).sum(-1, keepdim=True) for key in keys[1:]]
    weights = torch.cat([s.float() for s in scores], -1).softmax(-1).to(query.dtype)
    out = weights[..., :length] @ values[0]
    for i, value in enumerate(values[1:]):
        out = out + weights[..., length + i, None] * value
    return out
