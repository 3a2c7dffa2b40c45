"""What is done before a run, and after it. No rules here.

Nothing of this decides what is made: a run that lacks something is refused before work begins, the
store and the engine are made ready, and in the end results/ shows what there is.
"""

import atexit
import contextlib
import shutil

from scion.artifacts.environments import not_installed
from scion.artifacts.store.store import unusable
from scion.common.errors import ScionError
from scion.common.files import replace_link
from scion.engines.vllm.gpu_slots import require_gpus, visible
from scion.engines.vllm.server import share_forks

# Lines about places that can't be seen now: a family of hundreds would fill the terminal.
MOST_UNSEEN = 12


def begin_store():
    """Make the store if it is new, and keep what this run needs from being pruned."""
    or_end(Store.open, CONFIGS[0].store)
    try:
        for each in PLANS:
            each.keep()
    except OSError as error:
        end(unusable(STORE.folder, error))


def begin_logs():
    """Let each log be found under the name of its stage: that of the last run."""
    for job in workflow.dag.needrun_jobs():
        for log in map(Path, job.log):
            log.parent.mkdir(parents=True, exist_ok=True)
            # Where there are no links a log has the name with its key alone.
            with contextlib.suppress(OSError):
                replace_link(log.name, log.with_name(f"{job.rule.name}{log.suffix}"))


def begin_servers():
    """Import the engine once for all servers of this run, while other stages work.

    Where jobs run on other machines, each has its own.
    """
    jobs = workflow.dag.needrun_jobs() if workflow.local_exec else []
    needed = {job.params.get("python") for job in jobs}
    for each in CONFIGS:
        python = serving_python(each)
        if python in needed and each.serving.server_url is None:
            log = Path("logs", each.release, "imports.log")
            return or_end(share_forks, Path(python), each.serving, log)


def lacking_environments():
    """An error for each environment that jobs of this run need and that is not installed here."""
    # After a plan all count as finished.
    dag, here = workflow.dag, workflow.local_exec
    jobs = list(dag.needrun_jobs(exclude_finished=False)) if here else []
    started = {job.params.get("python") for job in jobs}
    folders = {
        serving_folder(each)
        for each in CONFIGS
        if each.serving.server_url is None and serving_python(each) in started
    }
    if any(job.params.get("evaluator_python") for job in jobs):
        folders.add(EVALUATION_FOLDER)
    needed = map(not_installed, sorted(folders))
    return [lacking for lacking in needed if lacking is not None]


def require_environments():
    """Refuse to run before hours are spent, if what is to be started then is not installed."""
    for lacking in lacking_environments():
        end(lacking)


def require_scheduler():
    """Refuse to run where the profile names a scheduler and there is none to hand jobs to."""
    if workflow.executor_plugin.name == "slurm" and shutil.which("sbatch") is None:
        end(
            ScionError(
                "there is no Slurm to hand jobs to",
                where="--executor slurm, as profiles/slurm says",
                expected="sbatch, one of Slurm's programs, on the PATH",
                found="none",
                hint="start the run on a login node of the cluster, or leave the profile out",
            )
        )


def require_servers():
    """Refuse to run where servers of this run want more GPUs than this machine shows."""
    jobs = workflow.dag.needrun_jobs() if workflow.local_exec else []
    started = {job.params.get("python") for job in jobs}
    wanted = [
        each.launch(name).tensor_parallel
        for each in CONFIGS
        if each.serving.environment == "serve-cuda" and each.serving.server_url is None
        if serving_python(each) in started
        for name in (each.serving.launch, *each.measurement.launches)
    ]
    gpus = visible(os.environ) if wanted else []
    for count in wanted:
        or_end(require_gpus, count, gpus)


def tell_environments():
    """Say of a plan which environments a run would lack here: it may be meant for elsewhere."""
    if workflow.executor_plugin is not None and workflow.dryrun and workflow.dag is not None:
        for lacking in lacking_environments():
            print(f"warning: {lacking}", file=sys.stderr)


def named_places(config):
    """Key and location of all that a release names."""
    return [*config.checkpoints(), *config.data()]


def require_pinned_sources():
    """Refuse to run before every repository is named with its commit."""
    for _, location in [place for each in CONFIGS for place in named_places(each)]:
        place = parse_location(location)
        if isinstance(place, HubRepository):
            or_end(place.require_pinned, CONFIG_FILES[0])


def require_keys():
    """Refuse to run for hours before the keys that sign what is sealed are at hand."""
    signed = [job for job in workflow.dag.needrun_jobs() if job.rule.name == "sign_release"]
    for job in signed:
        # It takes half a second to import.
        from scion.report.attestation.signature import require_pair

        (public_key,) = job.input.public_key
        or_end(require_pair, Path(public_key))


def look_at_hub(stage):
    """Say of repositories that are still to be fetched, in a second, what can't work."""
    if not workflow.is_main_process:
        return
    unseen = {}
    for each in CONFIGS:
        if PLANS.plans[each.release].stages[stage].pointer.exists():
            continue
        places = [parse_location(location) for _, location in named_places(each)]
        # A release can be planned before it is pinned.
        if all(isinstance(place, LocalFolder) or place.is_pinned for place in places):
            lines = or_end(check_sources, each, where=CONFIG_FILES[0], hub=True)
            unseen |= dict.fromkeys(lines)
    told = list(unseen) if len(unseen) <= MOST_UNSEEN else list(unseen)[: MOST_UNSEEN - 1]
    for line in told:
        print(line, file=sys.stderr)
    if len(told) < len(unseen):
        print(f"and {len(unseen) - len(told)} more places were not looked at", file=sys.stderr)


def show_results():
    """Let results/ show what this configuration has, whether or not anything had to be made."""
    # Neither a dry run nor `--lint` or `--report` changes anything.
    if workflow.executor_plugin is None or workflow.dryrun or workflow.touch:
        return
    try:
        for each in PLANS:
            each.show()
    except (ScionError, OSError) as error:
        print(f"error: the results can't be shown: {error}", file=sys.stderr)


if workflow.is_main_process:
    # Snakemake calls none of its hooks if there is nothing to be done.
    atexit.register(show_results)
    atexit.register(tell_environments)
