"""Which experts of a mixture the calibration samples reached.

An expert's weights have scales by themselves, reached or not; its activation scale is one for all
experts of a layer (`scion.quantization.layerwise.experts`). So an expert that no sample reached is
quantized like the others, but nobody has seen what it does with its inputs: that is counted, and
told.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

RULE = (
    "scales of its own weights, and the activation scale that all experts of its layer share; "
    "where samples choose scales, least squares does"
)
"""What becomes of an expert that no sample reached."""


def coverage(tokens: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """What a manifest says of the experts; None where there are none.

    Experts that no sample reached are told on stderr.

    Args:
        tokens: How many each expert got, by the stored name of a layer's experts.

    Returns:
        `experts` of all layers together; `unreached`, numbers of experts by layer, without layers
        that have none; `rule` for these, where there are any; fewest and median tokens of an
        expert.
    """
    if not tokens:
        return None
    every = [count for counts in tokens.values() for count in counts]
    unreached = {
        layer: missed
        for layer, counts in sorted(tokens.items())
        if (missed := [number for number, count in enumerate(counts) if not count])
    }
    if unreached:
        print(
            f"{every.count(0)} of {len(every)} experts were reached by no calibration sample, in "
            f"{len(unreached)} of {len(tokens)} layers. Such an expert gets {RULE}. More samples "
            "reach more experts.",
            file=sys.stderr,
        )
    return {
        "experts": len(every),
        "unreached": unreached,
        **({"rule": RULE} if unreached else {}),
        "fewest_tokens": min(every),
        "median_tokens": statistics.median_low(every),
    }
