"""Runs the agent capability test on the bf16 source, as run_agent_tasks does on the release.

For the verdict, which holds the one beside the other, case by case. The source has no MTP head and
is served without drafts; nothing is required of it. `agent_tasks_source.json` has the form of
`agent_tasks.json`. It depends on no release: those of one source, asked the same, share it.
"""

import sys
from pathlib import Path

from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.engines.config import Launch, Serving
from scion.evaluation.agent.config import AgentTasks
from scion.evaluation.verdict.records import AGENT_SOURCE
from scion.stages.run_agent_tasks import AgentTaskSettings, run_agent_tasks
from scion.stages.served import require_own_servers, run_served_stage


def run_agent_tasks_source(
    *,
    fixed: Artifact,
    tasks: Path,
    output: Output,
    serving: Serving,
    launch: Launch,
    agent_tasks: AgentTasks,
    python: Path,
    log_folder: Path,
    environment: str,
) -> Artifact:
    """Ask the source every case of every task.

    Args:
        fixed: The bf16 source with sound keys.
        tasks: As of `run_agent_tasks`.
        output: Where the artifact goes.
        serving: The server.
        launch: How the source is served.
        agent_tasks: How many cases are asked; what must pass counts for the release alone.
        python: Interpreter of the serving environment.
        log_folder: Where `run_agent_tasks_source.server.log` goes.
        environment: Identity of the locked environment.

    Raises:
        ScionError: As `run_agent_tasks`; `serving.server_url` names a server.
    """
    require_own_servers(serving)
    return run_agent_tasks(
        release=fixed,
        tasks=tasks,
        output=output,
        serving=serving,
        launch=launch,
        agent_tasks=agent_tasks.model_copy(update={"required_passes": 0, "minimum_rate": 0.0}),
        python=python,
        log_folder=log_folder,
        environment=environment,
        record=AGENT_SOURCE,
        role="fixed",
    )


def main() -> int:
    """Parse the command line and run the stage."""
    return run_served_stage(
        run_agent_tasks_source,
        __doc__,
        settings=AgentTaskSettings,
        manifests={"fixed": "pointer of the bf16 source, with sound keys"},
        files={"tasks": "YAML of tasks"},
    )


if __name__ == "__main__":
    sys.exit(main())
