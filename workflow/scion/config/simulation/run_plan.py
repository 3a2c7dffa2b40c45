"""The jobs of a run as the rules plan them, in a file: `rules/plan_file.smk` writes it.

So a simulation knows the very jobs that Snakemake would start, with what releases share made once
and what the store has left out, and needs no second description of the stages.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scion.artifacts.plan import PlannedStage
from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.common.errors import ScionError
from scion.config.release import Config
from scion.config.resources import ReleaseSize, has_server, stage_resources

# Read by rules/plan_file.smk.
_PLAN_FILE = "SCION_PLAN_FILE"


@dataclass(frozen=True)
class PlannedJob:
    """A job of a run.

    Attributes:
        stage: Its stage.
        release: The first of the releases that ask for it.
        reads: Places in the plan of the jobs that it reads from.
        priority: Its rule's: of jobs that could start the highest does.
        cores: How many it takes.
        gpus: How many it takes.
        made: Whether its artifact is there already.
        from_hub: Whether what it fetches comes from a hub.
        servers: How many servers it starts; 0 if it has none.
        source: Bytes of the source's weights; None while nobody can tell.
        rewritten: Bytes of shards of the source that hold the language model beside other parts.
        quantized: Bytes of the quantized shards; None likewise.
    """

    stage: str
    release: str
    reads: tuple[int, ...]
    priority: int
    cores: int
    gpus: int
    made: bool
    from_hub: bool
    servers: int
    source: int | None
    rewritten: int
    quantized: int | None


def planned_job(
    planned: PlannedStage,
    config: Config,
    *,
    size: ReleaseSize,
    reads: Sequence[int],
    priority: int,
    cores: int,
    releases: int,
) -> PlannedJob:
    """What a plan's file says of a stage.

    Args:
        planned: The stage.
        config: Its release's.
        size: How large that is.
        reads: Places in the plan of the jobs that it reads from.
        priority: Its rule's.
        cores: How many it takes.
        releases: How many the run has.
    """
    taken = size.quantization
    return PlannedJob(
        stage=planned.name,
        release=planned.release,
        reads=tuple(dict.fromkeys(reads)),
        priority=priority,
        cores=cores,
        gpus=stage_resources(planned.name, config, size).get("gpu", 0),
        made=planned.pointer.is_file(),
        from_hub=_is_from_hub(planned.name, config),
        servers=_servers(planned.name, config, releases),
        source=size.source,
        rewritten=size.rewritten,
        quantized=None if taken is None else taken.shard_bytes,
    )


def _is_from_hub(stage: str, config: Config) -> bool:
    named = {"fetch_base": config.quality.base, "fetch_donor": config.donor}
    location = named.get(stage, config.source)
    return location is not None and isinstance(parse_location(location), HubRepository)


def _servers(stage: str, config: Config, releases: int) -> int:
    """How many servers a stage starts, if each is one of its own."""
    if not has_server(stage):
        return 0
    if stage == "measure_serving":
        return len(config.measurement.launches) * len(config.measurement.speculative_tokens)
    if stage == "compare_family" and config.family is not None:
        return config.family.rounds * releases
    return 2 if stage in ("evaluate_quality", "evaluate_images") else 1


def write_plan(path: Path, jobs: Sequence[PlannedJob]) -> None:
    """Write the jobs of a run."""
    path.write_text(json.dumps([asdict(job) for job in jobs]))


def read_plan(path: Path) -> list[PlannedJob]:
    """The jobs that `write_plan` has written."""
    jobs: list[dict[str, Any]] = json.loads(path.read_text())
    return [PlannedJob(reads=tuple(job.pop("reads")), **job) for job in jobs]


def planned_run(config: Path, *, cores: int, gpus: int) -> list[PlannedJob]:
    """Let the workflow plan a run here, as `snakemake -n` does, and take nothing but the plan.

    Args:
        config: A YAML file of a release or a family.
        cores: How many the run shall have.
        gpus: How many the run shall have.

    Raises:
        ScionError: There is no workflow in this folder, or it can't plan the run.
    """
    if not Path("Snakefile").is_file():
        raise ScionError(
            "there is no workflow here to plan the run with",
            where=Path("Snakefile").absolute(),
            expected="the Snakefile of Scion's checkout",
            found="no such file",
            hint="run scion simulate in the checkout, as you would run snakemake",
        )
    with tempfile.TemporaryDirectory(prefix="scion-plan-") as folder:
        file = Path(folder, "plan.json")
        command = [sys.executable, "-m", "snakemake", "-n", "--cores", str(cores)]
        command += ["--resources", f"gpu={gpus}"] if gpus else []
        done = subprocess.run(
            [*command, "--configfile", str(config)],
            env={**os.environ, _PLAN_FILE: str(file)},
            capture_output=True,
            text=True,
        )
        if done.returncode or not file.is_file():
            said = done.stderr.strip().splitlines() or ["nothing"]
            raise ScionError(
                "the workflow can't plan this run",
                where=config,
                expected="a plan, as `snakemake -n` makes it",
                found=said[-1].removeprefix("error: "),
                hint=f"see what is said: snakemake -n --configfile {config}",
            )
        return read_plan(file)
