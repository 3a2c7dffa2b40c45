"""Timed decodes: which are asked, and what their repeats say.

A repeat asks each length once with each number of parallel requests. Repeat r sends prompts of its
own, the next ones of the list, so that an interval covers the prompts as well as the machine's
noise; every launch and every number of drafts gets the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scion.engines.vllm.bench import Timing
from scion.evaluation.intervals import median, speedup
from scion.evaluation.serving.config import Measurement


@dataclass(frozen=True)
class Wave:
    """Requests that are sent together.

    Attributes:
        repeat: From 0.
        tokens: Length of each answer.
        prompts: Places in the list of prompts, one for each request.
    """

    repeat: int
    tokens: int
    prompts: tuple[int, ...]


def waves(
    measurement: Measurement, prompts: int, repeats: Sequence[int] | None = None
) -> list[Wave]:
    """All decodes of one server, repeat by repeat, so that a machine's moods touch all lengths.

    Args:
        measurement: Lengths, numbers of parallel requests, repeats.
        prompts: How many prompts there are; they are used in turn.
        repeats: Which of the repeats; all if none are named.
    """
    return [
        Wave(
            repeat,
            tokens,
            tuple((repeat * parallel + place) % prompts for place in range(parallel)),
        )
        for repeat in (range(measurement.repeats) if repeats is None else repeats)
        for parallel in measurement.parallel_requests
        for tokens in measurement.decode_tokens
    ]


def speed_records(
    timed: Sequence[tuple[Wave, Timing]], baseline: Sequence[tuple[Wave, Timing]] | None
) -> list[dict[str, Any]]:
    """The decodes of one server as results record them.

    Args:
        timed: Every decode.
        baseline: Those of the same launch without speculation; None where that was not asked.
    """
    groups, without = _grouped(timed), _grouped(baseline or ())
    records: list[dict[str, Any]] = []
    for (parallel, tokens), timings in groups.items():
        rates = [timing.tokens_per_second for timing in timings]
        before = [timing.tokens_per_second for timing in without.get((parallel, tokens), [])]
        records.append(
            {
                "tokens": tokens,
                "parallel": parallel,
                "repeats": len(timings),
                "tokens_per_second": median(rates).record(),
                "ttft_ms": median([timing.ttft_ms for timing in timings]).record(),
                "itl_ms": median([timing.itl_ms for timing in timings]).record(),
                "ratio_to_baseline": speedup(rates, before).record() if before else None,
            }
        )
    return records


def _grouped(timed: Sequence[tuple[Wave, Timing]]) -> dict[tuple[int, int], list[Timing]]:
    groups: dict[tuple[int, int], list[Timing]] = {}
    for wave, timing in timed:
        groups.setdefault((len(wave.prompts), wave.tokens), []).append(timing)
    return groups
