"""What `snakemake -n` says: each stage that would run, and why."""

from collections.abc import Collection

from scion.artifacts.plan import PlannedStage, Plans
from scion.artifacts.reasons import NOT_MADE, reason
from scion.common.text import printable

DRY = "a dry run: nothing was changed"
"""The last line."""
IN_STORE = "what another release in the store has in common is taken from there"
"""The line before it where there may be something."""
_NAME = 16


def plan_lines(plans: Plans, running: Collection[PlannedStage]) -> list[str]:
    """A line a stage, in the order of the plan; before each release's one that counts them.

    Args:
        plans: The plans.
        running: The stages that would run; one that releases have in common is told of the first.
    """
    lines: list[str] = []
    reasons: set[str] = set()
    running = set(running)
    for plan in plans:
        own = [each for each in plan.stages.values() if each in running]
        names = [each.name for each in own]
        told = {
            each.name: reason(plan, each.name, names)
            for each in own
            if each.release == plan.folder.name
        }
        if told:
            count = "1 stage" if len(told) == 1 else f"{len(told)} stages"
            lines.append(f"would run {count} for {plan.folder}:")
        lines += [f"  {stage:<{_NAME}}  {printable(why)}" for stage, why in told.items()]
        reasons.update(told.values())
    if NOT_MADE in reasons and any(next(iter(plans)).store.records.glob("*.json")):
        # Only when its inputs are there is it known whether another release has the same.
        lines.append(IN_STORE)
    return [*lines, DRY]
