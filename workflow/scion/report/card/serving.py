"""The card's tables of what measure_serving found."""

from collections.abc import Sequence
from typing import Any

from scion.common.text import Record, drafts, mode, number, parallel, ratio, share, table
from scion.evaluation.serving import leading


def serving_values(serving: Record) -> dict[str, Any]:
    """What the template says of speed, memory and acceptance.

    Args:
        serving: The content of `serving.json`.
    """
    runs = serving["runs"]
    launches = list(dict.fromkeys(run["launch"] for run in runs))
    several = len(launches) > 1
    return {
        "prompts": serving["prompts"],
        "speed": [
            {
                "launch": launch,
                "conditions": _conditions(next(run for run in runs if run["launch"] == launch)),
                "table": speed_table([run for run in runs if run["launch"] == launch]),
            }
            for launch in launches
        ],
        "latency": latency_table(runs, several=several),
        "memory": memory_table(runs),
        "acceptance": acceptance_table(runs, several=several),
        "acceptance_by_set": acceptance_by_set(runs, several=several),
        "same_text": same_text(runs),
        "recommendation": recommendation(serving),
    }


def overall_acceptance(run: Record) -> Record | None:
    """What a run accepted over all prompts; None where nothing was drafted, or counted."""
    return next((row for row in run["acceptance"] or () if row["set"] == "all"), None)


def longest_decode(run: Record) -> Record:
    """The longest decode of a run, of those with the fewest requests at once."""
    return dict(leading.longest_decode(run["speed"]))


def fastest_run(runs: Sequence[Record]) -> Record:
    """The run of the first launch that is fastest; of equals the one with fewer drafts.

    Its longest decode counts, of those with the fewest requests at once.
    """
    own = [run for run in runs if run["launch"] == runs[0]["launch"]]
    ordered = sorted(own, key=lambda run: run["speculative_tokens"])
    return max(ordered, key=lambda run: longest_decode(run)["tokens_per_second"]["value"])


def recommended_drafts(serving: Record) -> int | None:
    """How many drafts a step to serve the first launch with; None if one number was measured."""
    fastest = fastest_run(serving["runs"])
    return fastest["speculative_tokens"] if len(_measured_drafts(serving)) > 1 else None


def _measured_drafts(serving: Record) -> list[int]:
    runs = serving["runs"]
    return sorted({run["speculative_tokens"] for run in runs if run["launch"] == runs[0]["launch"]})


def recommendation(serving: Record) -> str:
    """How many drafts to serve with, and why; empty if one number was measured."""
    drafted = recommended_drafts(serving)
    if drafted is None:
        return ""
    decode = longest_decode(fastest_run(serving["runs"]))
    close = _overlapping(serving, drafted)
    measured = (
        f"Recommended: {drafts(drafted)}, the fastest of n={_listed(_measured_drafts(serving))} "
        f"with {number(decode['tokens_per_second'])} tokens a second"
        f"{f'; its interval overlaps with that of n={_listed(close)}' if close else ''}."
    )
    return f"{measured} {_predicted(serving)}".strip()


def _overlapping(serving: Record, drafted: int) -> list[int]:
    """The other numbers of drafts whose interval is not apart from that of the fastest."""
    runs = [run for run in serving["runs"] if run["launch"] == serving["runs"][0]["launch"]]
    speeds = {run["speculative_tokens"]: longest_decode(run)["tokens_per_second"] for run in runs}
    low = speeds[drafted]["low"]
    return sorted(
        count
        for count, speed in speeds.items()
        if count != drafted
        and low is not None
        and speed["high"] is not None
        and speed["high"] >= low
    )


def _predicted(serving: Record) -> str:
    """What was predicted to be fastest, and what it came to; a record of old has no prediction."""
    prediction = serving.get("prediction")
    if prediction is None:
        return ""
    rows = {row["speculative_tokens"]: row for row in prediction["speeds"]}
    best = rows[prediction["best"]]
    came = "not measured" if best["measured"] is None else f"measured {number(best['measured'])}"
    return (
        f"Predicted fastest of up to {max(rows)}: n={prediction['best']} with "
        f"{best['tokens_per_second']:.1f}, {came}."
    )


def _listed(counts: Sequence[int]) -> str:
    return " and ".join(filter(None, [", ".join(map(str, counts[:-1])), str(counts[-1])]))


def _conditions(run: Record) -> str:
    seqs = run["max_num_seqs"]
    at_once = (
        "as many requests at once as the engine chooses" if seqs is None else f"{seqs} at once"
    )
    return f"context {run['max_model_len']}, {at_once}, KV cache {run['kv_cache_dtype']}"


def speed_table(runs: Sequence[Record]) -> str:
    """Tokens a second of one launch: a row for each decode, with ratios to no MTP."""
    ordered = sorted(runs, key=lambda run: run["speculative_tokens"])
    keys = [
        (decode["tokens"], decode["parallel"], decode["repeats"]) for decode in ordered[0]["speed"]
    ]
    headings = ["decode", "requests"]
    for run in ordered:
        name = drafts(run["speculative_tokens"])
        headings += [name, f"{name}, ratio"]
    rows: list[list[str]] = []
    for tokens, together, repeats in keys:
        cells = [f"{tokens} tokens", parallel(together)]
        for run in ordered:
            decode = _decode(run, tokens, together)
            cells.append(number(decode["tokens_per_second"]))
            cells.append(ratio(decode["ratio_to_baseline"]) if decode["ratio_to_baseline"] else "")
        rows.append([*cells, str(repeats)])
    return table([*headings, "n"], rows)


def _decode(run: Record, tokens: int, together: int) -> Record:
    return next(
        decode
        for decode in run["speed"]
        if decode["tokens"] == tokens and decode["parallel"] == together
    )


def latency_table(runs: Sequence[Record], *, several: bool) -> str:
    """Time to the first token and between tokens, in milliseconds."""
    rows = [
        [
            run["launch"] if several else "",
            drafts(run["speculative_tokens"]),
            f"{decode['tokens']} tokens",
            parallel(decode["parallel"]),
            number(decode["ttft_ms"]),
            number(decode["itl_ms"], 2),
            str(decode["repeats"]),
        ]
        for run in runs
        for decode in run["speed"]
    ]
    headings = ["launch", "drafts", "decode", "requests", "first token (ms)"]
    return table([*headings, "between tokens (ms)", "n"], rows)


def memory_table(runs: Sequence[Record]) -> str:
    """Memory and cache of each server; what no log told has no column."""

    def told(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    rows = [
        [
            run["launch"],
            drafts(run["speculative_tokens"]),
            str(run["max_model_len"]),
            run["kv_cache_dtype"],
            told(run["memory"]["weights_gib"], ".2f"),
            told(run["memory"]["graphs_gib"], ".2f"),
            told(run["memory"]["kv_cache_gib"], ".2f"),
            told(run["kv_cache_tokens"], ","),
            told(run["concurrency"], ".2f"),
            told(run["start_seconds"], ".0f"),
        ]
        for run in runs
    ]
    headings = ["launch", "drafts", "context", "KV cache type", "weights (GiB)", "graphs (GiB)"]
    headings += ["KV cache (GiB)", "KV cache (tokens)", "requests of full context", "start (s)"]
    return table(headings, rows)


def acceptance_table(runs: Sequence[Record], *, several: bool) -> str:
    """Acceptance by position over all prompts; empty without speculation."""
    return _acceptance(runs, {"all"}, several=several)


def acceptance_by_set(runs: Sequence[Record], *, several: bool) -> str:
    """The same for each set of prompts, with and without thinking."""
    sets = {row["set"] for run in runs for row in run["acceptance"] or ()} - {"all"}
    return _acceptance(runs, sets, several=several)


def _acceptance(runs: Sequence[Record], sets: set[str], *, several: bool) -> str:
    rows = [(run, row) for run in runs for row in run["acceptance"] or () if row["set"] in sets]
    if not rows:
        return ""
    most = max(run["speculative_tokens"] for run, _ in rows)
    overall = sets == {"all"}
    cells: list[list[str]] = []
    for run, row in rows:
        positions = [share(rate) for rate in row["per_position"]]
        cells.append(
            [
                run["launch"] if several else "",
                f"n={run['speculative_tokens']}",
                "" if overall else f"{row['set'].replace('_', ' ')}, {mode(row['thinking'])}",
                *positions,
                *[""] * (most - len(positions)),
                f"{number(row['mean_length'], 2)} of {run['speculative_tokens'] + 1}",
                str(row["drafts"]),
                str(row["prompts"]),
            ]
        )
    positions = [f"position {place}" for place in range(1, most + 1)]
    headings = ["launch", "drafted", "prompts of", *positions]
    return table([*headings, "tokens a step", "n (drafts)", "prompts"], cells)


def same_text(runs: Sequence[Record]) -> list[str]:
    """A sentence for each run whose greedy texts were compared with those without MTP."""
    sentences: list[str] = []
    for run in runs:
        same = run["same_text_as_baseline"]
        if same is None or not same["total"]:
            continue
        first = min(
            (difference["first_difference"] for difference in same["differences"]), default=None
        )
        apart = "" if first is None else f" (first difference at token {first})"
        sentences.append(
            f"Greedy text with n={run['speculative_tokens']} equals that without MTP in "
            f"{same['identical']} of {same['total']} replies{apart}."
        )
    return sentences
