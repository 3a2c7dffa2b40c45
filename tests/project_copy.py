"""A copy of this project in a folder of its own, to run the workflow in."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent


@dataclass(frozen=True)
class ProjectCopy:
    """A copy with the environments of the original."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "ProjectCopy":
        """Copy what git tracks, or would track, and link the environments."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            source, target = PROJECT / name, folder / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        for environment in (PROJECT / ".venv", *PROJECT.glob("envs/*/.venv")):
            (folder / environment.relative_to(PROJECT)).symlink_to(environment)
        return cls(folder)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the root environment in the copy, with the copy's own package."""
        program = Path(sys.executable).with_name(command[0])
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "workflow")}
        return subprocess.run(
            [str(program), *command[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def pointers(self, *options: str) -> dict[str, Path]:
        """By rule the pointers that are missing, as `snakemake -n` names them."""
        done = self.run("snakemake", "-n", *options)
        assert done.returncode == 0, done.stderr + done.stdout
        found = re.findall(r"output: (\S*/(\w+)-[0-9a-f]{16}\.json)", done.stdout + done.stderr)
        return {rule: self.folder / path for path, rule in found}

    def planned(self, *options: str) -> set[str]:
        """The rules that `snakemake -n` would run."""
        done = self.run("snakemake", "-n", *options)
        assert done.returncode == 0, done.stderr + done.stdout
        rules = re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.MULTILINE)
        return set(rules) - {"all"}
