"""Several short samples in one forward pass, without one seeing another.

Norms and MLP treat each token by itself, so they take all tokens at once. The token mixers don't:
attention looks back over a sequence, the gated delta net carries a state along it, and its
convolution looks back too. So under `isolated` a layer's mixer is called for each segment alone,
as if the others were not there; no mask and no `cu_seqlens` has to be right for that, in no kernel.
What a segment gets is what the sample alone would get. A matrix library may add the products of an
MLP in another order for another number of rows, which can change a result's last bit.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scion.common.errors import ScionError
from scion.quantization.calibration.batch_lengths import pack_lengths
from scion.quantization.calibration.samples import Sample

# Where a decoder layer keeps its mixer: one of these.
_MIXERS = ("self_attn", "linear_attn")


@dataclass(frozen=True)
class PackedBatch:
    """Samples that one forward pass takes.

    Attributes:
        ids: Token ids of all segments, one behind the other, int64 [1, tokens].
        lengths: Tokens of each segment.
    """

    ids: Tensor
    lengths: tuple[int, ...]


def pack(samples: Iterable[Sample], max_tokens: int | None) -> list[PackedBatch]:
    """Put samples together, each into the first batch that has room for it.

    Args:
        samples: What is to be put together.
        max_tokens: Most tokens of a batch. A sample that is longer is not cut but has a batch to
            itself; None gives each sample one.

    Returns:
        The batches; `scion.quantization.calibration.batch_lengths` says which samples are in which,
        and in what order.
    """
    ordered = list(samples)
    batches = pack_lengths((sample.tokens for sample in ordered), max_tokens)
    return [
        PackedBatch(
            ids=torch.cat([ordered[number].ids for number in batch], dim=1),
            lengths=tuple(ordered[number].tokens for number in batch),
        )
        for batch in batches
    ]


def segment_positions(lengths: Sequence[int]) -> Tensor:
    """The position of each token of a packed batch in its own segment, int64 [1, tokens]."""
    return torch.cat([torch.arange(length) for length in lengths])[None]


@contextmanager
def isolated(layer: nn.Module, lengths: Sequence[int]) -> Generator[None]:
    """Let the token mixer of a decoder layer see each segment alone.

    Within the context `layer(hidden_states, ...)` takes the hidden states of a packed batch,
    [1, tokens, width], and keyword arguments made for `segment_positions(lengths)`. An attention
    mask is not looked at: a segment is attended causally, as transformers does without a mask.
    Hooks and quantizers on the mixer's projections see the segments one by one; those on the mixer
    itself see the batch. To be entered after ModelOpt has put its quantizers in.

    Args:
        layer: A decoder layer whose mixer is `self_attn` or `linear_attn`.
        lengths: Tokens of each segment. With one there is nothing to do.

    Raises:
        ScionError: The layer has no mixer that is known, or (when it is called) its arguments don't
            belong to these segments, or would carry something from one to the next.
    """
    if len(lengths) == 1:
        yield
        return
    mixer = _mixer(layer)
    # Set in the instance, not by setattr: ModelOpt's modules watch their attributes.
    attributes = vars(mixer)
    before: dict[str, Any] = {k: v for k, v in attributes.items() if k == "forward"}
    attributes["forward"] = _segment_by_segment(mixer.forward, tuple(lengths))
    try:
        yield
    finally:
        del attributes["forward"]
        attributes.update(before)


def _mixer(layer: nn.Module) -> nn.Module:
    mixers = [
        child for name in _MIXERS if isinstance(child := getattr(layer, name, None), nn.Module)
    ]
    if len(mixers) != 1:
        raise _not_packable(
            type(layer).__name__, f"one of {', '.join(_MIXERS)}", f"{len(mixers)} of them"
        )
    # Without a mask, eager attention looks ahead.
    config = getattr(mixers[0], "config", None)
    if config is not None and config._attn_implementation == "eager":
        raise _not_packable(
            type(layer).__name__, "attention that is causal without a mask, as sdpa", "eager"
        )
    return mixers[0]


def _segment_by_segment(forward: Callable[..., Any], lengths: tuple[int, ...]) -> Any:
    """A mixer's `forward` that calls the given one for each segment."""

    def packed(hidden_states: Tensor, **arguments: Any) -> Any:
        if hidden_states.shape[:2] != (1, sum(lengths)):
            expected = f"shape [1, {sum(lengths)}, width]"
            raise _not_packable("hidden_states", expected, list(hidden_states.shape))
        split = {name: _by_segment(name, value, lengths) for name, value in arguments.items()}
        outputs: list[Any] = [
            forward(hidden_states=part, **{name: parts[n] for name, parts in split.items()})
            for n, part in enumerate(hidden_states.split(lengths, dim=1))
        ]
        if isinstance(outputs[0], tuple):
            # Attention gives its weights too; those of segments make no matrix.
            return torch.cat([output[0] for output in outputs], dim=1), None
        return torch.cat(outputs, dim=1)

    return packed


def _by_segment(name: str, value: Any, lengths: tuple[int, ...]) -> Sequence[Any]:
    """An argument's value for each segment."""
    if name == "attention_mask" or value is None:
        return [None] * len(lengths)
    if name == "position_ids":
        if not torch.equal(value, segment_positions(lengths).to(value.device)):
            raise _not_packable(name, "positions that begin at 0 in each segment", "others")
        return value.split(lengths, dim=1)
    if name == "position_embeddings":
        return list(zip(*(part.split(lengths, dim=1) for part in value), strict=True))
    if not isinstance(value, bool | int | float | str):
        # A cache would hand one segment's state to the next; another tensor's axes are not known.
        expected = "no cache, and no tensor but positions and a mask"
        raise _not_packable(name, expected, type(value).__name__)
    return [value] * len(lengths)


def _not_packable(where: str, expected: str, found: object) -> ScionError:
    return ScionError(
        "a layer can't run over packed samples",
        where=where,
        expected=expected,
        found=found,
        hint="set quantization.calibration.pack_tokens to null: one sample a pass",
    )
