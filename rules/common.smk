"""What the rules share: the plan of the run, settings as stages take them. No rules here.

Every rule is planned first, by `plan(…)`, which says what its stage reads and how it is asked; the
rule then declares what the plan says. A rule's output is a pointer, a small JSON file whose name
carries the digest of all of that: it exists if, and only if, what is asked for now was made. Dates
say nothing: the plan gives all pointers one date, and plain files are `ancient`.
"""

import atexit
import json
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

from scion.config import check_sources, load_config, read_values
from scion.common.section import Section
from scion.common.digest import digest_file, digest_json
from scion.artifacts.environments import identity, not_installed, prefix
from scion.artifacts.plan import Plan
from scion.artifacts.store.sources import appearance
from scion.artifacts.store.store import Store, unusable
from scion.common.errors import ScionError
from scion.common.progress_report import progress_file
from scion.engines.vllm.server import share_forks
from scion.checkpoint.hub.location import HubRepository, LocalFolder, parse_location
from scion.checkpoint.local_files import local_files, usable_files
from snakemake.io import contains_wildcard

PROJECT = Path(workflow.basedir)
# Those of the command line first, then the default.
CONFIG_FILES = [os.path.relpath(path) for path in workflow.configfiles]

# The jobs' `python` is the one that runs Snakemake, activated environment or not. Setting a prefix
# takes Snakemake's own strict mode away, and with it the exit code of a stage that is piped to tee.
# Where a line a stage is shown, what tee passes on is left to the log; `-i` lets tee outlive Ctrl-C,
# with what a stage says to it.
BIN = shlex.quote(str(Path(sys.executable).parent)).replace("{", "{{").replace("}", "}}")
HUSH = "exec >/dev/null; " if SHOWN else ""
shell.prefix(f'set -euo pipefail; export PATH={BIN}:"$PATH"; {HUSH}')


for path in CONFIG_FILES:
    # What Snakemake's own reader lets pass: a key twice, a bomb of aliases.
    or_end(read_values, Path(path))
CONFIG = or_end(load_config, config, where=", ".join(CONFIG_FILES))
if workflow.is_main_process:
    or_end(check_sources, CONFIG, where=CONFIG_FILES[0], hub=False)
RELEASE = CONFIG.release
STORE = or_end(Store.open, CONFIG.store, begin=False)
PLAN = Plan(Path("results", RELEASE), STORE)
if SHOWN:
    SHOWN.plan = PLAN
    SHOWN.logs = [f"logs/{RELEASE}", *map(os.path.relpath, workflow.logger_manager.get_logfile())]


def settings(**sections):
    """Sections of the configuration, or lists of them, as one line of JSON for `--settings`.

    The one option that is not one value: a section is nested and typed, so it travels as a whole,
    and the stage validates it by the same pydantic model. A new key needs no new option.
    """

    def plain(value):
        if isinstance(value, Section):
            return value.model_dump(mode="json")
        return [plain(item) for item in value]

    return json.dumps({name: plain(value) for name, value in sections.items()}, sort_keys=True)


def project_file(name):
    """A file of Scion's own, wherever the workflow is run."""
    return os.path.relpath(PROJECT / name)


def environment(*folders):
    """What manifests call the root environment, and those of folders of envs/ that a stage uses."""
    locks = [str(Path(folder, "uv.lock.neutral")) for folder in ("", *folders)]
    digest = digest_json({lock: digest_file(PROJECT / lock) for lock in locks})
    return identity(digest, [Path(sys.prefix), *map(prefix, folders)])


ROOT_ENVIRONMENT = environment()
SERVING_FOLDER = f"envs/{CONFIG.serving.environment}"
SERVING_ENVIRONMENT = environment(SERVING_FOLDER)
CALIBRATION_DATASETS = [dataset.dataset for dataset in CONFIG.quantization.calibration.sets]
# The launch that tasks and evaluations are served with, and those that are timed.
LAUNCH = CONFIG.launch(CONFIG.serving.launch)
MEASURED_LAUNCHES = [CONFIG.launch(name) for name in CONFIG.measurement.launches]
# Snakemake cuts the number to what it was given, so that the rule runs alone.
ALL_THREADS = 64
# Answers do not depend on what runs beside a server, but a GPU's memory is one server's own.
SERVER_THREADS = (
    CONFIG.serving.cpu_threads if CONFIG.serving.environment == "serve-cpu" else ALL_THREADS
)
AGENT_TASKS = project_file("workflow/scion/evaluation/agent/agent_tasks.yaml")
SERVING_PYTHON = str(prefix(SERVING_FOLDER) / "bin/python")


def plan(
    stage,
    *,
    reads=None,
    evidence=(),
    files=None,
    local=None,
    environment,
    is_outdated=lambda manifest: False,
    **options,
):
    """Plan a stage; what is returned has all that its rule declares, by name.

    Args:
        stage: Name of stage and rule.
        reads: By name of the input, the stage that it comes from; None where this release has none,
            and the option on the stage's command line no value.
        evidence: Stages that are read together, as the input `evidence`.
        files: By name of the input, plain files: a path or a list of paths.
        local: The files of a local checkpoint that the stage takes.
        environment: Identity of its environment.
        is_outdated: Whether what a manifest describes is made again all the same.
        options: What else its command line says, by name; all of it counts.
    """
    reads, files = dict(reads or {}), dict(files or {})
    paths = {
        name: [value] if isinstance(value, str) else [path for path in value if path]
        for name, value in files.items()
    }
    if local is not None:
        # Nothing of a repository of the hub, whose commit says it all.
        options["planned"] = STORE.sources.name(stage, local, STORE.known) if local else []
    planned = or_end(
        PLAN.add,
        stage,
        reads=[*filter(None, reads.values()), *evidence],
        files=[Path(path) for name in paths for path in paths[name]],
        settings=options,
        environment=environment,
        is_outdated=is_outdated,
    )
    log = f"logs/{RELEASE}/{stage}.log"
    pointers = {
        name: str(PLAN.stages[read].pointer) if read else [] for name, read in reads.items()
    }
    if evidence:
        pointers["evidence"] = [str(PLAN.stages[name].pointer) for name in evidence]
    return SimpleNamespace(
        input={
            **pointers,
            **{name: ancient(list(filter(is_plain, value))) for name, value in paths.items()},
        },
        params={
            name: constant(value)
            for name, value in {
                **options,
                **paths,
                # How they look tells the stage whether they changed; their name is what counts.
                **({"planned": [options["planned"], appearance(stage, local)]} if local else {}),
                "environment": environment,
                "progress": str(progress_file(Path(log))),
                "store": CONFIG.store,
                "plan": planned.expectation,
            }.items()
        },
        pointer=str(planned.pointer),
        copies=str(planned.copies),
        log=log,
        benchmark=f"benchmarks/{RELEASE}/{stage}.tsv",
    )


def is_plain(path):
    """Whether Snakemake would take a path for itself; there is no way to escape a brace in it."""
    return not contains_wildcard(path)


def constant(value):
    """A value that Snakemake takes as it is: no brace in a path begins a wildcard."""
    return lambda wildcards: value


def local_checkpoint(location, files=local_files):
    """The files of a checkpoint that lies here; those of the hub are pinned by their commit."""
    place = parse_location(location)
    if isinstance(place, HubRepository) or not place.path.is_dir():
        return []
    return or_end(files, place.path)


def local_file(location):
    """A data file that lies here, or nothing for a data set of the hub."""
    return location if isinstance(parse_location(location), LocalFolder) else []


def begin_store():
    """Make the store if it is new, and keep what this run needs from being pruned."""
    or_end(Store.open, CONFIG.store)
    try:
        PLAN.keep()
    except OSError as error:
        end(unusable(STORE.folder, error))


def begin_servers():
    """Import the engine once for all servers of this run, while other stages work.

    Where jobs run on other machines, each has its own.
    """
    own = workflow.local_exec and CONFIG.serving.server_url is None
    jobs = workflow.dag.needrun_jobs() if own else []
    if any(job.params.get("python") == SERVING_PYTHON for job in jobs):
        log = Path("logs", RELEASE, "imports.log")
        or_end(share_forks, Path(SERVING_PYTHON), CONFIG.serving, log)


def lacking_environments():
    """An error for each environment that jobs of this run need and that is not installed here."""
    # After a plan all count as finished.
    dag, here = workflow.dag, workflow.local_exec
    jobs = list(dag.needrun_jobs(exclude_finished=False)) if here else []
    own = CONFIG.serving.server_url is None
    folders = {
        SERVING_FOLDER: own and any(job.params.get("python") == SERVING_PYTHON for job in jobs),
        EVALUATION_FOLDER: any(job.params.get("evaluator_python") for job in jobs),
    }
    needed = map(not_installed, [folder for folder, is_needed in folders.items() if is_needed])
    return [lacking for lacking in needed if lacking is not None]


def require_environments():
    """Refuse to run before hours are spent, if what is to be started then is not installed."""
    for lacking in lacking_environments():
        end(lacking)


def tell_environments():
    """Say of a plan which environments a run would lack here: it may be meant for elsewhere."""
    if workflow.executor_plugin is not None and workflow.dryrun and workflow.dag is not None:
        for lacking in lacking_environments():
            print(f"warning: {lacking}", file=sys.stderr)


def require_pinned_sources():
    """Refuse to run before every repository is named with its commit."""
    for _, location in [*CONFIG.checkpoints(), *CONFIG.data()]:
        place = parse_location(location)
        if isinstance(place, HubRepository):
            or_end(place.require_pinned, CONFIG_FILES[0])


def look_at_hub(planned):
    """Say of repositories that are still to be fetched, in a second, what can't work."""
    if not workflow.is_main_process or Path(planned.pointer).exists():
        return
    named = [*CONFIG.checkpoints(), *CONFIG.data()]
    places = [parse_location(location) for _, location in named]
    # A release can be planned before it is pinned.
    if all(isinstance(place, LocalFolder) or place.is_pinned for place in places):
        for line in or_end(check_sources, CONFIG, where=CONFIG_FILES[0], hub=True):
            print(line, file=sys.stderr)


def show_results():
    """Let results/ show what this configuration has, whether or not anything had to be made."""
    # Neither a dry run nor `--lint` or `--report` changes anything.
    if workflow.executor_plugin is None or workflow.dryrun or workflow.touch:
        return
    try:
        PLAN.show()
    except (ScionError, OSError) as error:
        print(f"error: the results can't be shown: {error}", file=sys.stderr)


if workflow.is_main_process:
    # Snakemake calls none of its hooks if there is nothing to be done.
    atexit.register(show_results)
    atexit.register(tell_environments)
