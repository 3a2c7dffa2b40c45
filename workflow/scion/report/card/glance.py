"""The card's first table: what the release is and what was measured of it, in a line each.

Each number has its interval and what it rests on; of what was not measured the line says so.
"""

from collections.abc import Mapping, Sequence

from scion.common.text import (
    Record,
    drafts,
    hardware,
    number,
    ratio,
    share,
    small,
)
from scion.evaluation.agent import config as agent
from scion.evaluation.harness import config as harness
from scion.evaluation.quality import config as quality
from scion.evaluation.serving import config as serving
from scion.evaluation.verdict import records as verdict
from scion.report.card.scores import bfcl_rate, leading_part
from scion.report.card.serving import fastest_run, longest_decode, overall_acceptance
from scion.report.verdict import WORDS

NOT_MEASURED = "not measured"


def measured_lines(records: Mapping[str, Record]) -> dict[str, str | None]:
    """The table's lines of what was measured: `acceptance`, `speed`, `tasks`, `quality`, `verdict`.

    The last is None for a release that was not judged.

    Args:
        records: The parsed record of each stage that measured.
    """
    runs: Sequence[Record] = records[serving.RECORD.stage]["runs"]
    # The launch that counts, with the recommended drafts; acceptance is of those that draft.
    run = fastest_run(runs)
    drafting = fastest_run([run for run in runs if run["acceptance"]] or runs)
    where = hardware(records[serving.RECORD.stage]["hardware"])
    return {
        "acceptance": _acceptance(drafting),
        "speed": f"{_speed(run)}, on {where}",
        "tasks": "; ".join(
            (
                _tasks(records[agent.RECORD.stage]),
                _ifeval(records.get(harness.IFEVAL_RECORD.stage)),
                _bfcl(records.get(harness.BFCL_RECORD.stage)),
            )
        ),
        "quality": _quality(records[quality.RECORD.stage]),
        "verdict": _verdict(records.get(verdict.RECORD.stage)),
    }


def _verdict(record: Record | None) -> str | None:
    if record is None:
        return None
    outcome = record["outcome"]
    return f"{outcome}: by the thresholds of its configuration {WORDS[outcome]}"


def _acceptance(run: Record) -> str:
    counts = overall_acceptance(run)
    if counts is None:
        return f"{NOT_MEASURED}: no launch of this release drafts tokens"
    drafted = run["speculative_tokens"]
    positions = ", ".join(share(rate) for rate in counts["per_position"])
    return (
        f"{number(counts['mean_length'], 2)} of {drafted + 1} tokens a step with {drafted} MTP "
        f"drafts; accepted by position: {positions}; n={counts['drafts']:,} drafts on "
        f"{counts['prompts']} prompts"
    )


def _speed(run: Record) -> str:
    decode = longest_decode(run)
    beside = decode["ratio_to_baseline"]
    times = f", {ratio(beside)} the speed without MTP" if beside else ""
    return (
        f"{number(decode['tokens_per_second'])} tokens a second with "
        f"{drafts(run['speculative_tokens'])}{times}: {decode['tokens']} tokens, "
        f"{_requests(decode['parallel'])}, n={decode['repeats']} repeats"
    )


def _requests(count: int) -> str:
    return "one request" if count == 1 else f"{count} requests at once"


def _tasks(tasks: Record) -> str:
    return f"{tasks['passed']} of {tasks['total']} agent cases, {share(tasks['rate'])}"


def _ifeval(ifeval: Record | None) -> str:
    if ifeval is None:
        return f"IFEval {NOT_MEASURED}"
    rate = ifeval["scores"]["prompt_strict"]
    return f"IFEval, prompt strict: {share(rate)} of {rate['count']} prompts"


def _bfcl(bfcl: Record | None) -> str:
    if bfcl is None:
        return f"BFCL {NOT_MEASURED}"
    return f"BFCL: {bfcl_rate(bfcl)}"


def _quality(record: Record) -> str:
    text, scores = leading_part(record, "release")
    return (
        f"beside bf16: KL divergence {small(scores['kl'])}, the same most likely token in "
        f"{share(scores['top1_agreement'])}; n={scores['tokens']:,} held-out tokens of "
        f"{text}"
    )
