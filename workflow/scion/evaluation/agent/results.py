"""The verdicts of the agent capability test, counted, and told while and after it runs."""

import sys
from collections.abc import Sequence
from typing import Any

from scion.evaluation.agent.tasks import TaskFile
from scion.evaluation.intervals import proportion


def count(task_file: TaskFile, results: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Passes and rates, by task and overall, as `agent_tasks.json` has them."""
    tasks: list[dict[str, Any]] = []
    for task, entries in zip(task_file.tasks, results, strict=True):
        passed = sum(entry["passed"] for entry in entries)
        tasks.append(
            {
                "name": task.name,
                "title": task.title,
                "passed": passed,
                "cases": len(entries),
                "rate": proportion(passed, len(entries)).record(),
                "results": entries,
            }
        )
    passed, total = sum(task["passed"] for task in tasks), sum(task["cases"] for task in tasks)
    rate = proportion(passed, total).record()
    return {"tasks": tasks, "passed": passed, "total": total, "rate": rate}


def print_verdicts(stage: str, result: dict[str, Any]) -> None:
    """Say what came of each task, what failed and why, and last the sum, on stderr."""
    lines = [f"{task['title']}: {_rate(task, task['cases'])}" for task in result["tasks"]]
    lines += [f"failed: {failure}" for failure in failures(result)]
    for line in [*lines, f"all tasks: {_rate(result, result['total'])}"]:
        print(f"{stage}: {line}", file=sys.stderr, flush=True)


def _rate(counted: dict[str, Any], total: int) -> str:
    low, high = (f"{100 * counted['rate'][end]:.0f}" for end in ("low", "high"))
    return f"{counted['passed']} of {total} passed (95 % interval {low} to {high} %)"


def failures(result: dict[str, Any]) -> list[str]:
    """Each case that failed, with its reason."""
    return [
        f"{task['name']}, {entry['name']}: {entry['reason']}"
        for task in result["tasks"]
        for entry in task["results"]
        if not entry["passed"]
    ]
