"""A copy of this project in a folder of its own, to run the workflow in."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conversion import SAMPLES
from scion.artifacts.artifact import Artifact
from scion.artifacts.store.store import Store
from scion.checkpoint.local_files import local_files, usable_files
from scion.report.run.plan_lines import DRY, IN_STORE

PROJECT = Path(__file__).parent.parent
QUICK = "quick.yaml"
"""The configuration of `converted_project`: a recipe without a search, and few samples."""
FETCHES = {
    "fetch_source": ("pico-agent", local_files, True),
    "fetch_donor": ("pico-base", usable_files, False),
    "fetch_base": ("pico-base", local_files, True),
}
"""By stage the local checkpoint, which of its files it takes, and whether it reads them whole."""


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

    def copy(self, folder: Path) -> "ProjectCopy":
        """A copy of this one with all that runs have made in it; its sources are its own.

        They are noted in its store, as by a run that fetches them and finds what is there.
        """
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        copied, store = ProjectCopy(folder), Store.open([str(folder / "results/.store")])
        for stage, (source, files, read) in FETCHES.items():
            paths = files(folder / "resources/pico" / source)
            for path in paths if read else ():
                store.known.digest(path)
            for shown in folder.glob(f"results/*/{stage}.json"):
                content = Artifact.open(shown).content
                store.sources.note(stage, paths, planned=None, content=content, read=read)
        return copied

    def configure(self, name: str, *, samples: int = SAMPLES, **values: object) -> None:
        """Write a configuration of the quick recipe with so many samples, and further values."""
        sets = {"sets": [{"samples": samples}]}
        quantization = {"recipe": "nvfp4_default", "calibration": sets}
        (self.folder / name).write_text(json.dumps({"quantization": quantization, **values}))

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the root environment in the copy, with the copy's own package.

        Args:
            command: The program's name and its arguments.
            variables: What its environment has besides.
        """
        program = Path(sys.executable).with_name(command[0])
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "workflow"), **variables}
        return subprocess.run(
            [str(program), *command[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def pointers(self, *options: str) -> dict[str, Path]:
        """By rule the pointers that are missing, in Snakemake's own table of what is planned."""
        done = self.run("snakemake", "--summary", *options)
        assert done.returncode == 0, done.stderr + done.stdout
        rows = csv.DictReader(done.stdout.splitlines(), delimiter="\t")
        return {
            row["rule"]: self.folder / row["output_file"]
            for row in rows
            if row["status"] == "missing"
            and re.fullmatch(rf"{row['rule']}-[0-9a-f]{{16}}\.json", Path(row["output_file"]).name)
        }

    def planned(self, *options: str) -> set[str]:
        """The rules that `snakemake -n` would run, as it tells people."""
        done = self.run("snakemake", "-n", *options)
        assert done.returncode == 0, done.stderr + done.stdout
        first, *lines = done.stdout.splitlines()
        if first.startswith("nothing to do: "):
            assert lines == []
            return set()
        rules = [line.split()[0] for line in lines if line.startswith("  ")]
        said = [line for line in lines if not line.startswith("  ")]
        assert said in ([DRY], [IN_STORE, DRY]), done.stdout
        assert first.startswith(f"would run {len(rules)} stage"), done.stdout
        return set(rules)

    def log(self, release: str, stage: str) -> str:
        """What a stage said when it last ran."""
        return (self.folder / "logs" / release / f"{stage}.log").read_text()
