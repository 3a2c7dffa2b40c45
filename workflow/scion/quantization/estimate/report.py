"""An estimate as lines for people, as JSON for programs, and beside what a run then used."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scion.common.text import size
from scion.quantization.estimate.estimate import ResourceEstimate
from scion.quantization.estimate.memory import Part, total
from scion.quantization.estimate.rates import Rates

_PLACES = {"device": "on the GPU", "host": "in host memory", "disk": "in a file"}


@dataclass(frozen=True)
class Use:
    """What a run used.

    Attributes:
        seconds: Wall time.
        device: Peak of the GPU memory that torch had allocated, in bytes; None without a GPU.
        host: Peak of the process's resident memory, in bytes; mapped pages of files count.
        written: Bytes that were handed to the kernel to write.
        before: Parts that an earlier run had finished.
    """

    seconds: float
    device: int | None
    host: int
    written: int
    before: int = 0


def lines(made: ResourceEstimate, rates: Rates | None) -> list[str]:
    """The estimate, with what each sum is made of; without rates no time."""
    sums = [
        ("read", made.read),
        ("write", made.written),
        ("disk, peak", made.disk),
        ("GPU memory, peak", made.device),
        ("host memory, peak", made.host),
    ]
    said = [
        f"estimate for {made.recipe} on {made.machine.name}: {made.samples} samples, "
        f"{made.tokens:,} tokens, {made.layers} layers, {_times(made.passes, 'pass', 'passes')}"
        + (f"; hidden states {_PLACES[made.place]}" if made.samples else ""),
    ]
    for name, parts in sums:
        if parts:
            said += _sum(name, parts)
    return said + (time_lines(made, rates) if rates else [])


def time_lines(made: ResourceEstimate, rates: Rates) -> list[str]:
    """The least time, its terms, and which of them bounds it."""
    seconds, bound = made.floor(rates)
    return [
        f"  {'time, at least':20}{duration(seconds)}, bounded by {bound}; rates {rates.source}",
        *(f"    {term.name:26}{term.seconds:10.1f} s  {term.why}" for term in made.terms(rates)),
    ]


def beside(made: ResourceEstimate, rates: Rates | None, used: Use) -> list[str]:
    """The estimate beside what a run used; time is a floor, and memory mostly an upper bound."""
    rows: list[tuple[str, float | None, float | None]] = [
        ("seconds (a floor)", made.floor(rates)[0] if rates else None, used.seconds),
        ("GPU memory, GB", total(made.device) / 1e9 if made.device else None, _giga(used.device)),
        ("host memory, GB", total(made.host) / 1e9, used.host / 1e9),
        ("written, GB", total(made.written) / 1e9, used.written / 1e9),
    ]
    said = [f"  {'beside the run':20}{'estimated':>12}{'used':>12}{'ratio':>9}"]
    for name, estimated, found in rows:
        if estimated is not None and found is not None:
            ratio = f"{found / estimated:9.2f}" if estimated else ""
            said.append(f"  {name:20}{estimated:12.3f}{found:12.3f}{ratio}")
    if used.before:
        said.append(f"  the estimate is of a whole run; {used.before} parts were finished before")
    return said


def record(made: ResourceEstimate, rates: Rates | None) -> dict[str, Any]:
    """The estimate as JSON; sizes in bytes, times in seconds."""
    sums = {
        name: {"bytes": total(parts), "parts": {part.name: part.size for part in parts}}
        for name, parts in (
            ("read", made.read),
            ("written", made.written),
            ("disk", made.disk),
            ("gpu_memory", made.device),
            ("host_memory", made.host),
        )
    }
    found: dict[str, Any] = {
        "recipe": made.recipe,
        "machine": asdict(made.machine),
        "samples": made.samples,
        "tokens": made.tokens,
        "layers": made.layers,
        "passes": made.passes,
        "hidden_states": made.place,
        "shard_bytes": made.shard_bytes,
        **sums,
        "operations": [asdict(operation) for operation in made.operations],
    }
    if rates:
        seconds, bound = made.floor(rates)
        terms = {term.name: term.seconds for term in made.terms(rates)}
        found["time"] = {"seconds": seconds, "bound": bound, "terms": terms, "rates": asdict(rates)}
    return found


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as people would say it."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _sum(name: str, parts: Sequence[Part]) -> list[str]:
    first = f"  {name:20}{size(total(parts))}"
    return [first, *(f"    {p.name:26}{size(p.size):>12}  {p.why}" for p in _largest_first(parts))]


def _largest_first(parts: Iterable[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: -part.size)


def _times(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _giga(count: int | None) -> float | None:
    return None if count is None else count / 1e9
