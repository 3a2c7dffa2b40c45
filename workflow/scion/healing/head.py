"""The MTP head as it is trained: unrolled over the drafts of a step, at all places at once.

As engines draft (`scion.evaluation.offline.mtp`), a chain that begins at position i sees the keys
and values of the first step up to i, which rest on the body's states, and of each further step its
own alone. Step s takes the token at i + s + 1 and the state of the step before, at first the
body's at i; what comes out says, by the body's `lm_head`, what follows that token. The tokens are
those of the text, as they are where all drafts so far were accepted.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scion.common.errors import ScionError
from scion.evaluation.offline.classes import classes_of
from scion.evaluation.offline.linear import Fp8Linear, NvFp4Linear
from scion.evaluation.offline.mtp import MtpHead, load_head
from scion.evaluation.offline.target import text_config
from scion.evaluation.offline.weights import Weights

# Numbers of attention scores that stand at once, with some copies of them on the way.
_SCORES = 1 << 26


class InputMaxima:
    """Records how large the inputs of a head's matrices become, while it is open.

    Attributes:
        found: The largest magnitude, by name of the module within the head.

    Args:
        head: The head.
    """

    def __init__(self, head: "UnrolledHead") -> None:
        self.found: dict[str, float] = {}
        modules = head.head.named_modules()
        self._linear = {name: each for name, each in modules if isinstance(each, nn.Linear)}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, module in self._linear.items():
            self._hooks.append(module.register_forward_pre_hook(partial(self._record, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _record(self, name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.found[name] = max(self.found.get(name, 0.0), inputs[0].abs().max().item())


class UnrolledHead(nn.Module):
    """The head's weights, and what they do: bf16 on a GPU, float32 on a CPU.

    A CPU multiplies bf16 no faster, and less exactly.

    Args:
        weights: The release.

    Raises:
        ScionError: Its head is quantized.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        config: Any = text_config(weights)
        self._classes = classes_of(weights.inventory.family)
        family = weights.inventory.family
        self.prefix = family.head.prefix if family.head else ""
        self._saving = weights.device.type == "cuda"
        self.dtype = torch.bfloat16 if self._saving else torch.float32
        loaded = load_head(weights, config)
        if any(isinstance(part, NvFp4Linear | Fp8Linear) for part in loaded.modules()):
            raise _quantized(weights)
        self.head: MtpHead = loaded.to(self.dtype).requires_grad_(True)
        self._rotary: Any = self._classes.rotary(config, device=weights.device)

    @property
    def _layer(self) -> Any:
        return self.head.layers[0]

    def forward(
        self, embedded: Tensor, states: Tensor, rows: Tensor, *, steps: int
    ) -> list[Tensor]:
        """Draft from some positions.

        Args:
            embedded: Embeddings of the tokens, [B, T, H].
            states: The body's states after its final norm, [B, T, H].
            rows: int64 [B, R], the positions.
            steps: How many drafts.

        Returns:
            For each step, [B, R, H], what predicts the token at `rows + step + 2`.
        """
        positions = torch.arange(embedded.shape[1] - 1, device=rows.device).expand(
            rows.shape[0], -1
        )
        x, normed, keys, values = self._again(
            self._begun, embedded[:, 1:], states[:, :-1], positions
        )
        own: list[tuple[Tensor, Tensor]] = []
        x, normed = _rows(x, rows), _rows(normed, rows)
        drafted: list[Tensor] = []
        for step in range(steps):
            if step:
                # Chains that reach beyond the text are not learned; they read its last token.
                tokens = _rows(embedded, (rows + step + 1).clamp(max=embedded.shape[1] - 1))
                x, normed, *kept = self._again(self._begun, tokens, drafted[-1], rows + step)
                own.append((kept[0], kept[1]))
            drafted.append(
                self._again(self._ended, x, normed, rows + step, keys, values, tuple(own), rows)
            )
        return drafted

    def _again(self, part: Callable[..., Any], *inputs: Any) -> Any:
        """Compute a part; on a GPU, where memory is short, once more on the way back."""
        if not self._saving:
            return part(*inputs)
        return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)

    def _begun(
        self, embedded: Tensor, states: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The layer's input, the same after its norm, keys, and values."""
        x = self._joined(embedded, states)
        normed = self._layer.input_layernorm(x)
        return x, normed, *self._keys(normed, positions)

    def _ended(
        self,
        x: Tensor,
        normed: Tensor,
        positions: Tensor,
        keys: Tensor,
        values: Tensor,
        own: Sequence[tuple[Tensor, Tensor]],
        rows: Tensor,
    ) -> Tensor:
        """From the layer's input to what a step drafts, [B, R, H]."""
        layer = self._layer
        x = x + self._attend(normed, positions, keys, values, own, rows)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.head.norm(x)

    def _joined(self, embedded: Tensor, states: Tensor) -> Tensor:
        head = self.head
        joined = head.pre_fc_norm_embedding(embedded), head.pre_fc_norm_hidden(states)
        return head.fc(torch.cat(joined, -1))

    def _keys(self, normed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, [B, heads, T, D], with as many heads as the queries have."""
        attention = self._layer.self_attn
        shape = (*normed.shape[:2], -1, attention.head_dim)
        key = attention.k_norm(attention.k_proj(normed).view(shape)).transpose(1, 2)
        value = attention.v_proj(normed).view(shape).transpose(1, 2)
        key = self._rotated(key, positions)
        repeats = attention.num_key_value_groups
        return key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)

    def _attend(
        self,
        normed: Tensor,
        positions: Tensor,
        keys: Tensor,
        values: Tensor,
        own: Sequence[tuple[Tensor, Tensor]],
        rows: Tensor,
    ) -> Tensor:
        """The attention of chains: first-step keys up to each row, later ones of their own."""
        attention = self._layer.self_attn
        shape = (*normed.shape[:2], -1, 2 * attention.head_dim)
        query, gate = attention.q_proj(normed).view(shape).chunk(2, -1)
        query = attention.q_norm(query).transpose(1, 2)
        query = self._rotated(query, positions) * attention.scaling
        # Scores of so many rows at a time, made again on the way back: few of them stand at once.
        count = max(1, _SCORES // (query.shape[0] * query.shape[1] * keys.shape[2]))
        pieces = [
            checkpoint(
                _mixed,
                part,
                rows[:, place : place + count],
                keys,
                values,
                [
                    (key[:, :, place : place + count], v[:, :, place : place + count])
                    for key, v in own
                ],
                use_reentrant=False,
            )
            for place, part in zip(
                range(0, rows.shape[1], count), query.split(count, 2), strict=True
            )
        ]
        mixed = torch.cat(pieces, 2).transpose(1, 2).flatten(2) * torch.sigmoid(gate.flatten(2))
        return attention.o_proj(mixed)

    def _rotated(self, heads: Tensor, positions: Tensor) -> Tensor:
        # Text has the same position in all three rows of M-RoPE.
        angles = self._rotary(heads, positions.expand(3, *positions.shape))
        # The function wants two; the other has no heads.
        return self._classes.modeling.apply_rotary_pos_emb(heads, heads[:, :0], *angles)[0]


def _mixed(
    query: Tensor,
    rows: Tensor,
    keys: Tensor,
    values: Tensor,
    own: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    """Values by the attention of some rows, [B, heads, R, D]."""
    later = torch.arange(keys.shape[2], device=rows.device) > rows[:, None, :, None]
    scores = [(query @ keys.mT).masked_fill(later, float("-inf"))]
    scores += [(query * key).sum(-1, keepdim=True) for key, _ in own]
    shares = torch.cat(scores, -1).float().softmax(-1).to(query.dtype)
    mixed = shares[..., : keys.shape[2]] @ values
    for place, (_, value) in enumerate(own, start=keys.shape[2]):
        mixed = mixed + shares[..., place, None] * value
    return mixed


def _quantized(weights: Weights) -> ScionError:
    return ScionError(
        "the MTP head is quantized, and one in bf16 is trained",
        where=weights.checkpoint.folder,
        expected="a head whose matrices are bf16, float16 or float32",
        found="matrices in NVFP4 or FP8",
        hint="graft the head of the base model, which is bf16, in its place",
    )


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """Some positions of each text: [B, T, H] and [B, R] to [B, R, H]."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
