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
    reasons = {each: reason(plan, each, running) for each in plan.stages if each in running}
    lines = [f"would run {told} for {plan.folder}:"]
    lines += [f"  {stage:<{_NAME}}  {printable(why)}" for stage, why in reasons.items()]
    if NOT_MADE in reasons.values() and any(plan.store.records.glob("*.json")):
        # Only when its inputs are there is it known whether another release has the same.
        lines.append(IN_STORE)
    return [*lines, DRY]
