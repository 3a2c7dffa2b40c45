"""The last words of a run: what is made and where, or what went wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from scion.artifacts.plan import Plan, PlannedStage, Plans
from scion.artifacts.release_layout import RELEASE, SEALED
from scion.common.errors import ScionError
from scion.common.text import duration, printable
from scion.report.summary import family_summary, summary


def made_lines(
    plans: Plans, finished: Sequence[PlannedStage], seconds: float, logs: Sequence[object]
) -> list[str]:
    """After a run in which all went well: the releases that were sealed, and where the logs are.

    Args:
        plans: The plans.
        finished: The stages that ran.
        seconds: How long they took, from the first to the last.
        logs: Where the words of stages, servers and Snakemake are.
    """
    told = "1 stage" if len(finished) == 1 else f"{len(finished)} stages"
    lines = [f"made in {duration(seconds)}: {told}"]
    sealed = [plan for plan in plans if plan.stages.get(SEALED) in finished]
    try:
        if len(plans.plans) == 1:
            lines += [line for plan in sealed for line in summary(plan.folder)]
        elif sealed:
            lines += family_summary([plan.folder for plan in plans if SEALED in plan.stages])
    except ScionError as error:
        lines.append(f"what was made can't be summed up: {error}")
    return [*lines, f"logs:        {', '.join(map(printable, logs))}"]


def nothing_lines(plans: Plans) -> list[str]:
    """Where there was nothing to do: a line for each release."""
    return [_nothing_line(plan) for plan in plans]


def _nothing_line(plan: Plan) -> str:
    sealed = plan.stages.get(SEALED)
    if sealed is not None and sealed.pointer.is_file():
        return f"nothing to do: {plan.folder / RELEASE} is what is asked for (scion summary tells)"
    return f"nothing to do: what is asked for is in {plan.folder}"


def failure_lines(failed: Mapping[PlannedStage, Sequence[Path]]) -> list[str]:
    """What each stage that failed said last, and where the rest of it is.

    Args:
        failed: By stage its logs.
    """
    lines: list[str] = []
    for stage, logs in failed.items():
        said = "".join(path.read_text(errors="replace") for path in logs if path.is_file())
        _, found, error = f"\n{said}".rpartition("\nerror: ")
        if found:
            lines.append(f"error: {error.rstrip()}")
        else:
            lines.append(f"error: {stage.name} ended without a word of its own")
            # Of an exception that nobody foresaw, say.
            lines += [f"  it said:  {printable(line)}" for line in said.split("\n")[-2:-1]]
        lines.append(f"  log:      {', '.join(map(str, logs))}")
    return lines
