"""Configuration of the agent tasks."""

from pydantic import Field

from scion.common.section import Section
from scion.evaluation.record_file import RecordFile

RECORD = RecordFile("run_agent_tasks", "agent_tasks.json")


class AgentTasks(Section):
    """The agent capability test: five tasks, each with many cases, the first of which is its own.

    Each request is one case; as many run at once as the launch decodes in parallel.
    """

    cases: int | None = Field(
        default=None, gt=0, description="cases of each task, from the start; null: all of them"
    )
    required_passes: int = Field(
        default=5,
        ge=0,
        description="of the five tasks' first cases; with fewer passed the stage fails",
    )
    minimum_rate: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="share of all cases; with a smaller one passed the stage fails",
    )
