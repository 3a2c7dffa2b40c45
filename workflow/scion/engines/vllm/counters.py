"""vLLM's counters of speculative decoding, as its server's Prometheus page shows them."""

import re
from dataclasses import dataclass
from itertools import zip_longest

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_COUNTER = "vllm:spec_decode_num_"


@dataclass(frozen=True)
class SpecDecodeCounters:
    """The counters since the server's start, or a difference of two readings.

    Attributes:
        drafts: Steps that drafted.
        draft_tokens: Tokens drafted.
        accepted: Drafted tokens that the model accepted.
        accepted_per_position: Of those, by place in the draft.
    """

    drafts: int
    draft_tokens: int
    accepted: int
    accepted_per_position: tuple[int, ...]

    def __sub__(self, earlier: "SpecDecodeCounters") -> "SpecDecodeCounters":
        """What came between; a server shows no positions before it has drafted."""
        pairs = zip_longest(self.accepted_per_position, earlier.accepted_per_position, fillvalue=0)
        return SpecDecodeCounters(
            self.drafts - earlier.drafts,
            self.draft_tokens - earlier.draft_tokens,
            self.accepted - earlier.accepted,
            tuple(now - then for now, then in pairs),
        )

    def __add__(self, other: "SpecDecodeCounters") -> "SpecDecodeCounters":
        """Two stretches together."""
        pairs = zip_longest(self.accepted_per_position, other.accepted_per_position, fillvalue=0)
        return SpecDecodeCounters(
            self.drafts + other.drafts,
            self.draft_tokens + other.draft_tokens,
            self.accepted + other.accepted,
            tuple(first + second for first, second in pairs),
        )

    def fault(self, positions: int) -> str | None:
        """Why these can't be the counts of a server that drafted, or None.

        Args:
            positions: Tokens of a draft. Each must have its counter, and what they count must add
                up: a counter that is missing, or stands still, must not pass as zero acceptance.
        """
        if self.drafts <= 0:
            return f"{self.drafts} drafts counted"
        if not self.drafts <= self.draft_tokens <= self.drafts * positions:
            return f"{self.draft_tokens} drafted tokens in {self.drafts} drafts of {positions}"
        if len(self.accepted_per_position) != positions:
            return f"accepted tokens counted for {len(self.accepted_per_position)} positions"
        by_position = sum(self.accepted_per_position)
        if by_position != self.accepted:
            return f"{self.accepted} accepted tokens, and {by_position} by position"
        return None


def read_counters(metrics: str) -> SpecDecodeCounters:
    """Read the counters from Prometheus text; all zero for a server that does not speculate.

    Samples of several engines are added up.
    """
    totals: dict[tuple[str, int], int] = {}
    for line in metrics.split("\n"):
        sample = _SAMPLE.match(line)
        if sample is None or not sample["name"].startswith(_COUNTER):
            continue
        labels = dict(_LABEL.findall(sample["labels"] or ""))
        key = sample["name"].removeprefix(_COUNTER), int(labels.get("position", 0))
        totals[key] = totals.get(key, 0) + int(float(sample["value"]))
    places = sorted(place for name, place in totals if name == "accepted_tokens_per_pos_total")
    return SpecDecodeCounters(
        drafts=totals.get(("drafts_total", 0), 0),
        draft_tokens=totals.get(("draft_tokens_total", 0), 0),
        accepted=totals.get(("accepted_tokens_total", 0), 0),
        accepted_per_position=tuple(
            totals["accepted_tokens_per_pos_total", place] for place in places
        ),
    )
