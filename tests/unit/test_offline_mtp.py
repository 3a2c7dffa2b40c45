"""How the MTP head drafts, against a reference that keeps no cache and knows no class."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from checkpoints import tiny_config
from scion.architectures.inventory import inventory
from scion.checkpoint.shards import Checkpoint
from scion.evaluation.offline.mtp import Drafter, load_head
from scion.evaluation.offline.target import Target
from scion.evaluation.offline.weights import Weights

DRAFTS = 4
ROPE = {
    "rope_type": "default",
    "rope_theta": 50.0,
    "partial_rotary_factor": 0.5,
    "mrope_section": [2, 1, 1],
    "mrope_interleaved": True,
}
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny member of the family in bf16, its weights large enough that every term counts."""
    folder = tmp_path_factory.mktemp("tiny")
    config = tiny_config(rope_parameters=ROPE, max_position_embeddings=512)
    config |= {"architectures": ["Qwen3_5ForConditionalGeneration"], "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    expected = inventory(config, where=folder)
    tensors = {
        name: (0.4 * torch.randn(shape, generator=generator)).bfloat16()
        for name, shape in {**expected.language, **expected.mtp}.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def weights(folder: Path) -> Weights:
    return Weights(Checkpoint.open(folder), device=torch.device("cpu"), activations="bf16")


@pytest.fixture(scope="module")
def target(weights: Weights) -> Target:
    target = Target(weights)
    # In float32 the two must agree to the last few bits, and no draft hangs on a rounding.
    target.embed.float()
    target.head.float()
    target._model.float()
    return target


@pytest.mark.parametrize("lengths", [(1, 2, 3, 4), (1, 3, 4, 9), (2, 7)])
def test_drafts_are_the_definitions(
    folder: Path, weights: Weights, target: Target, lengths: tuple[int, ...]
):
    """In each round of a reply, whatever was accepted in those before."""
    head = load_head(weights, target.config).float()
    generator = torch.Generator().manual_seed(len(lengths))
    tokens = torch.randint(0, 48, (24,), generator=generator).tolist()
    prompt, reply = tokens[:12], tokens[12:]
    hidden = torch.randn(23, 32, generator=generator)
    drafter = Drafter(head, target, prompt, hidden)
    reference = Reference({name: tensor.float() for name, tensor in _tensors(folder).items()})
    drafts = [drafter.draft(reply[:length], DRAFTS) for length in lengths]
    expected = [reference.draft(prompt + reply[:length], hidden, DRAFTS) for length in lengths]
    assert drafts == expected
    assert len(set(itertools.chain(*drafts))) > len(lengths), "they must not all be one token"


def test_head_computes_what_the_definition_says(folder: Path, weights: Weights, target: Target):
    """Hidden states themselves, of which a draft shows the largest product alone."""
    head = load_head(weights, target.config).float()
    generator = torch.Generator().manual_seed(9)
    tokens = torch.randint(0, 48, (10,), generator=generator).tolist()
    hidden = torch.randn(9, 32, generator=generator)
    with torch.inference_mode():
        hidden_states = Drafter(head, target, tokens, hidden)._step(tokens[1:], hidden, 0)
    reference = Reference({name: tensor.float() for name, tensor in _tensors(folder).items()})
    torch.testing.assert_close(
        hidden_states, reference.states(tokens[1:], hidden), atol=1e-4, rtol=1e-4
    )


def test_decode_equals_a_forward_without_cache(target: Target):
    prompt = list(range(1, 20))
    reply = target.decode(prompt, ends=(), limit=12, past=3)
    assert (reply.length, len(reply.tokens)) == (12, 15)
    tokens = prompt + reply.tokens
    with torch.inference_mode():
        whole = target._model(input_ids=torch.tensor([tokens[:-1]]), use_cache=False)
        best = target.head(whole.last_hidden_state[0]).argmax(-1).tolist()
    torch.testing.assert_close(reply.hidden, whole.last_hidden_state[0], atol=1e-3, rtol=1e-3)
    assert best[len(prompt) - 1 :] == reply.tokens


def test_decode_ends_where_the_server_would(target: Target):
    prompt = list(range(1, 20))
    free = target.decode(prompt, ends=(), limit=12, past=0).tokens
    end = free[4]
    first = free.index(end)
    reply = target.decode(prompt, ends={end}, limit=12, past=3)
    assert reply.length == first + 1
    assert reply.tokens == free[: first + 4], "an end beyond the reply's end is no end"


def test_rotary_frequencies_stay_in_float32(target: Target):
    expected = 50.0 ** -(torch.arange(0, 8, 2) / 8)
    assert target.rotary.inv_freq.dtype == torch.float32
    torch.testing.assert_close(target.rotary.inv_freq, expected)


class Reference:
    """The head by its definition: each draft recomputes all positions from the start."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def draft(self, tokens: list[int], hidden: Tensor, count: int) -> list[int]:
        fed, states = tokens[1:], hidden[: len(tokens) - 1]
        drafts: list[int] = []
        for _ in range(count):
            last = self.states(fed, states)[-1:]
            drafts.append(int((last @ self._tensors["lm_head.weight"].T).argmax()))
            fed, states = [*fed, drafts[-1]], torch.cat([states, last])
        return drafts

    def states(self, fed: list[int], hidden: Tensor) -> Tensor:
        embedded = self._tensors["model.language_model.embed_tokens.weight"][fed]
        joined = [
            self._norm("pre_fc_norm_embedding", embedded),
            self._norm("pre_fc_norm_hidden", hidden),
        ]
        x = self._times("fc", torch.cat(joined, -1))
        x = x + self._attention(self._norm("layers.0.input_layernorm", x))
        normed = self._norm("layers.0.post_attention_layernorm", x)
        gate, up = (self._times(f"layers.0.mlp.{name}_proj", normed) for name in ("gate", "up"))
        return self._norm(
            "norm", x + self._times("layers.0.mlp.down_proj", functional.silu(gate) * up)
        )

    def _attention(self, x: Tensor) -> Tensor:
        """Two heads of 16 for queries and gates, one for keys and values."""
        part = "layers.0.self_attn."
        query, gate = self._times(f"{part}q_proj", x).view(-1, 2, 32).chunk(2, -1)
        query = _turn(self._norm(f"{part}q_norm", query))
        key = _turn(self._norm(f"{part}k_norm", self._times(f"{part}k_proj", x)[:, None]))[:, 0]
        value = self._times(f"{part}v_proj", x)
        heads: list[Tensor] = []
        for head in range(2):
            scores = query[:, head] @ key.T / 16**0.5
            scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, float("-inf"))
            heads.append(scores.softmax(-1) @ value * gate[:, head].sigmoid())
        return self._times(f"{part}o_proj", torch.cat(heads, -1))

    def _times(self, name: str, x: Tensor) -> Tensor:
        return x @ self._tensors[f"mtp.{name}.weight"].T

    def _norm(self, name: str, x: Tensor) -> Tensor:
        mean = x.square().mean(-1, keepdim=True)
        return x / (mean + 1e-6).sqrt() * (1 + self._tensors[f"mtp.{name}.weight"])


def _turn(x: Tensor) -> Tensor:
    """Rotate the first 8 of 16 values of [positions, heads, 16], value j with value j + 4."""
    frequencies = torch.tensor([50.0 ** -(2 * j / 8) for j in range(4)])
    angles = (torch.arange(len(x))[:, None] * frequencies)[:, None]
    first, second, rest = x[..., :4], x[..., 4:8], x[..., 8:]
    turned = (
        first * angles.cos() - second * angles.sin(),
        second * angles.cos() + first * angles.sin(),
    )
    return torch.cat([*turned, rest], -1)


def _tensors(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")
