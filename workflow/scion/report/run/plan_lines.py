"""What `snakemake -n` says: each stage that would run, and why."""

from collections.abc import Collection

from scion.artifacts.plan import Plan
from scion.artifacts.reasons import NOT_MADE, reason
from scion.common.text import printable

DRY = "a dry run: nothing was changed"
"""The last line."""
IN_STORE = "what another release in the store has in common is taken from there"
"""The line before it where there may be something."""
_NAME = 16


def plan_lines(plan: Plan, running: Collection[str]) -> list[str]:
    """A line a stage, in the order of the plan; the first line counts them.

    Args:
        plan: The plan.
        running: The stages that would run.
    """
    told = "1 stage" if len(running) == 1 else f"{len(running)} stages"
    lines = [f"would run {told} for {plan.folder}:"]
    for stage in plan.stages:
        if stage in running:
            lines.append(f"  {stage:<{_NAME}}  {printable(reason(plan, stage, running))}")
    if any(line.endswith(NOT_MADE) for line in lines) and any(plan.store.records.glob("*.json")):
        # Only when its inputs are there is it known whether another release has the same.
        lines.append(IN_STORE)
    return [*lines, DRY]
