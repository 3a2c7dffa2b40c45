"""A clone of this repository in which the workflow runs, with the environments of the original."""

import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def clone_project(folder: Path) -> dict[str, str]:
    """Clone the repository, as it was last committed.

    Args:
        folder: Where the clone goes.

    Returns:
        The environment variables with which commands there take the clone's code.
    """
    subprocess.run(["git", "clone", "--quiet", PROJECT, folder], check=True)
    for environment in (PROJECT / ".venv", *PROJECT.glob("envs/*/.venv")):
        (folder / environment.relative_to(PROJECT)).symlink_to(environment.resolve())
    return {"PYTHONPATH": str(folder / "workflow")}
