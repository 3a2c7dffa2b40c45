"""How well models predict the same tokens: loss, divergence and agreement, from top-K lists.

An engine tells the K most likely tokens at each place with their log-probabilities, not the whole
distribution. From two such lists the Kullback-Leibler divergence is known up to a bound: split the
vocabulary into each token that both lists name, and the rest as one. The divergence of the two
distributions over these parts is never more than that over all tokens (the data-processing
inequality), grows with K, and is exact where the lists name everything. `covered` says how much of
the reference's probability the named tokens hold.

A *place* is a token of a document that has others before it: all but the first.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scion.evaluation.intervals import Estimate, bounded_ratio, positive_ratio, ratio_of_sums

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Engines compute in float32, where the probabilities of a vocabulary add up to 1 within about
# 1e-6: a rest below that is rounding, and its logarithm would be noise. To take a smaller rest for
# this large lowers the bound, never raises it above the divergence by more than such rounding.
_REST = 1e-6


@dataclass(frozen=True)
class Predictions:
    """What one model makes of one document.

    Attributes:
        actual: Log-probability (nats) of the token that stands at each place, [places].
        likely: The most likely token at each place, [places]; of equals the smallest number.
        named: Place and token of each entry, `place << 32 | token`, sorted, [entries].
        logprobs: Log-probability of each entry, [entries].
    """

    actual: Floats
    likely: NDArray[np.int64]
    named: NDArray[np.int64]
    logprobs: Floats


@dataclass(frozen=True)
class Divergence:
    """How one model's predictions of a document part from the reference's, by place.

    Attributes:
        kl: KL(reference || model) in nats, a lower bound over the tokens that both name, [places].
        covered: Probability that the reference gives to those tokens, [places].
        agrees: Whether both hold the same token for the most likely one, [places].
    """

    kl: Floats
    covered: Floats
    agrees: Flags


def read_predictions(
    rows: Sequence[Mapping[str, Mapping[str, Any]] | None], tokens: Sequence[int], *, top: int
) -> Predictions:
    """Check and pack the `prompt_logprobs` that vLLM's /v1/completions answered.

    Args:
        rows: For each token, entries by token number, each with a `logprob`; None for the first.
        tokens: The document.
        top: How many of the most likely tokens were asked for.

    Raises:
        ValueError: There are fewer rows than tokens, a row is missing, names fewer tokens than
            were asked for or not the one that stands there, or holds what is no log-probability.
    """
    if len(rows) != len(tokens):
        raise ValueError(f"{len(rows)} places for {len(tokens)} tokens")
    actual = np.empty(len(tokens) - 1)
    likely = np.empty(len(tokens) - 1, np.int64)
    named: list[NDArray[np.int64]] = []
    logprobs: list[Floats] = []
    for place, (row, token) in enumerate(zip(rows[1:], tokens[1:], strict=True)):
        if row is None or len(row) < top or str(token) not in row:
            about = "nothing" if row is None else f"{len(row)} entries, {str(token) in row=}"
            raise ValueError(f"place {place + 1}, token {token}: {about}")
        ids = np.fromiter(map(int, row), np.int64, len(row))
        # A missing number becomes NaN here.
        values = np.array([entry["logprob"] for entry in row.values()], np.float64)
        if not (np.isfinite(values).all() and values.max() < _REST):
            raise ValueError(f"place {place + 1}: {values.min()} to {values.max()}")
        order = np.argsort(ids)
        ids, values = ids[order], values[order]
        likely[place] = ids[np.argmax(values)]
        actual[place] = row[str(token)]["logprob"]
        named.append(place << 32 | ids)
        logprobs.append(values)
    return Predictions(actual, likely, np.concatenate(named), np.concatenate(logprobs))


def compare_predictions(reference: Predictions, model: Predictions) -> Divergence:
    """How a model's predictions part from the reference's on the same document."""
    shared, ours, theirs = np.intersect1d(
        reference.named, model.named, assume_unique=True, return_indices=True
    )
    where, places = shared >> 32, len(reference.actual)

    def by_place(values: Floats) -> Floats:
        return np.bincount(where, values, minlength=places).astype(np.float64)

    mass = np.exp(reference.logprobs[ours])
    gap = reference.logprobs[ours] - model.logprobs[theirs]
    covered = by_place(mass)
    rest = np.maximum(1 - covered, _REST)
    model_rest = np.maximum(1 - by_place(np.exp(model.logprobs[theirs])), _REST)
    kl = by_place(mass * gap) + rest * np.log(rest / model_rest)
    return Divergence(
        kl=np.maximum(kl, 0),
        covered=np.minimum(covered, 1),
        agrees=reference.likely == model.likely,
    )


def predictions_record(
    reference: Sequence[Predictions], model: Sequence[Predictions], chosen: Sequence[Flags]
) -> dict[str, Any]:
    """The scores of a model over a part of the documents, as `quality.json` holds them.

    Tokens of one document are not independent: the document is the unit of all intervals.

    Args:
        reference: The reference's predictions, by document.
        model: The model's.
        chosen: Of each document, which places belong to the part, [places].

    Raises:
        ValueError: No place is chosen at all.
    """
    counts = [int(flags.sum()) for flags in chosen]
    divergences = [compare_predictions(*pair) for pair in zip(reference, model, strict=True)]

    def over(
        values: Sequence[Floats | Flags],
        ratio: Callable[[Sequence[float], Sequence[int]], Estimate] = ratio_of_sums,
    ) -> Estimate:
        sums = [float(array[flags].sum()) for array, flags in zip(values, chosen, strict=True)]
        return ratio(sums, counts)

    loss = over([-predictions.actual for predictions in model])
    changes = [a.actual - b.actual for a, b in zip(reference, model, strict=True)]
    return {
        "tokens": loss.count,
        "loss": loss.record(),
        "perplexity": exponential(loss).record(),
        "loss_change": over(changes).record(),
        "kl": over([divergence.kl for divergence in divergences], positive_ratio).record(),
        "top1_agreement": over(
            [divergence.agrees for divergence in divergences], bounded_ratio
        ).record(),
        "kl_covered": round(over([divergence.covered for divergence in divergences]).value, 6),
    }


def exponential(loss: Estimate) -> Estimate:
    """The perplexity of a loss, its interval with it."""
    ends = [None if end is None else math.exp(end) for end in (loss.low, loss.high)]
    return Estimate(math.exp(loss.value), ends[0], ends[1], loss.count)


def assistant_mask(tokens: Sequence[int], header: Sequence[int], end: int) -> list[bool]:
    """Which tokens the assistant wrote: those after each `header` up to and with the next `end`.

    Args:
        tokens: A rendered chat.
        header: Tokens that an assistant's turn begins with.
        end: The token that ends a turn.
    """
    mask = [False] * len(tokens)
    place = 0
    while place + len(header) <= len(tokens):
        if list(tokens[place : place + len(header)]) != list(header):
            place += 1
            continue
        place += len(header)
        while place < len(tokens):
            mask[place] = True
            place += 1
            if tokens[place - 1] == end:
                break
    return mask
