"""What a comparison of recipes says: records by part, the best recipe, a table, single lines."""

from collections.abc import Mapping, Sequence
from typing import Any

from scion.common.text import Record, change, number, share, size, small, table
from scion.evaluation.intervals import positive_ratio, ratio_of_sums
from scion.evaluation.quality.full_vocabulary import Sums, sums_record
from scion.quantization.recipe_table import REFERENCE

SOURCE = "source"
# The part that recipes are ranked by.
RANKED = "all"
_HEADINGS = [
    "recipe",
    "size",
    "seconds",
    "KL to bf16",
    "KL beside maxima",
    "same token",
    "perplexity",
    "loss beside bf16",
    "MTP accepted",
    "tokens a step",
    "agent cases",
]


def parts_record(
    sums: Mapping[str, Sums | None],
    source: Mapping[str, Sums | None],
    default: Mapping[str, Sums | None] | None,
) -> dict[str, Any]:
    """A variant's scores by part; None for a part that no document has.

    Args:
        sums: The variant's.
        source: The bf16 source's.
        default: Those of the variant that others are held against, if it is compared.
    """
    record: dict[str, Any] = {}
    for part, own in sums.items():
        reference = source[part]
        if own is None or reference is None:
            record[part] = None
        else:
            record[part] = sums_record(own, reference, default[part] if default else None)
    return record


def best(entries: Sequence[Record]) -> Record | None:
    """The recipe with the smallest divergence of those with every projection in NVFP4.

    Args:
        entries: Variants with their `sums`, by part and document.

    Returns:
        Its name and divergence, and the difference to the next best, document by document; None
        if no such recipe is compared.
    """
    pure = [entry for entry in entries if entry["keep_bf16"] == entry["use_fp8"] == "none"]
    if not pure:
        return None
    ranked = sorted(pure, key=lambda entry: sum(entry["sums"][RANKED]["kl"]))
    first = ranked[0]["sums"][RANKED]
    kl = positive_ratio(first["kl"], first["tokens"])
    record: Record = {"name": ranked[0]["name"], "kl": kl.record()}
    if len(ranked) == 1:
        return record | {"runner_up": None, "kl_change": None}
    pairs = zip(first["kl"], ranked[1]["sums"][RANKED]["kl"], strict=True)
    beside = ratio_of_sums([entry - other for entry, other in pairs], first["tokens"])
    return record | {"runner_up": ranked[1]["name"], "kl_change": beside.record()}


def best_line(result: Record) -> str:
    """The best recipe, in one line."""
    record = result["best"]
    if record is None:
        return "no recipe with all projections in NVFP4 was compared"
    line = (
        f"the best recipe with all projections in NVFP4 is {record['name']}, "
        f"KL {small(record['kl'])}"
    )
    if record["runner_up"] is None:
        return line
    return f"{line}; beside {record['runner_up']}, the next, {change(record['kl_change'])}"


def told(entry: Record) -> str:
    """What was measured of a variant, in one line."""
    sums = entry["sums"][RANKED]
    tokens = sum(sums["tokens"])
    parts = [
        size(entry["bytes"]),
        f"KL {sum(sums['kl']) / tokens:.5f}",
        f"same token {100 * sum(sums['agreements']) / tokens:.1f} %",
    ]
    if entry["seconds"] is not None:
        parts.insert(1, f"{entry['seconds']:.0f} s")
    if entry["acceptance"]:
        parts.append(f"{entry['acceptance']['mean_length']['value']:.2f} tokens a step")
    if entry["agent_tasks"]:
        parts.append(
            f"{entry['agent_tasks']['passed']}/{entry['agent_tasks']['total']} agent cases"
        )
    return f"{entry['name']}: {', '.join(parts)}"


def markdown(result: Record) -> str:
    """The comparison as a Markdown table, over all held-out tokens, and what it rests on."""
    rows = [_row(variant) for variant in result["variants"]]
    first = result["variants"][0]["parts"][RANKED]
    return (
        f"{table(_HEADINGS, rows)}\n\n"
        f"Over {first['tokens']} held-out tokens; in brackets 95 % intervals by document, "
        "differences document by document. "
        f"By that, {best_line(result)}.\n"
    )


def _row(variant: Record) -> list[str]:
    part, is_source = variant["parts"][RANKED], variant["recipe"] is None
    beside = part["beside_default"]
    taken, tasks = variant["acceptance"], variant["agent_tasks"]
    positions = [f"{100 * rate['value']:.1f}" for rate in taken["per_position"]] if taken else []
    shown = None if is_source or variant["name"] == REFERENCE else beside
    return [
        variant["title"],
        size(variant["bytes"]),
        "" if variant["seconds"] is None else f"{variant['seconds']:.0f}",
        "" if is_source else small(part["kl"]),
        "" if shown is None else change(shown["kl_change"]),
        "" if is_source else share(part["top1_agreement"]),
        number(part["perplexity"], 3),
        "" if is_source else change(part["loss_change"]),
        f"{', '.join(positions)} %" if positions else "",
        number(taken["mean_length"], 2) if taken else "",
        f"{tasks['passed']}/{tasks['total']}" if tasks else "",
    ]
