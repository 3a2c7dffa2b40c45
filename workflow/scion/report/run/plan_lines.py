"""What `snakemake -n` says: each stage that would run, and why."""

from collections.abc import Collection

from scion.artifacts.plan import Plan
from scion.artifacts.reasons import reason
from scion.common.text import printable

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
    return [*lines, "a dry run: nothing was changed"]
