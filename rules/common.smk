"""What the rules share: the plans of the run, settings as stages take them. No rules here.

Every rule is planned first, by `plan(…)`, for each release that is asked for, with what its stage
reads, and how it is asked. The rule then declares what the plan says, by functions of its wildcards. A
rule's output is a pointer, a small JSON file whose name carries the digest of all of that, `{key}`:
it exists if, and only if, what is asked for now was made. What several releases ask for alike has
one key, and one pointer: it belongs to the first of them, `{release}`. Dates say nothing: the plan
gives all pointers one date, and plain files are `ancient`.
"""

import functools
import gc
import inspect
import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from scion.config import check_sources, load_configs, read_values
from scion.common.section import Section
from scion.config.families import RELEASES
from scion.common.digest import digest_file, digest_json
from scion.artifacts.environments import identity, prefix
from scion.artifacts.plan import RESULTS, Plan, Plans
from scion.artifacts.release_layout import GRAFTED, HEAD_QUANTIZED, HEALED
from scion.artifacts.store.sources import appearance
from scion.artifacts.store.store import Store
from scion.evaluation.family.config import FamilyMember
from scion.formats.spellings import DEFAULT_SPELLING
from scion.report.measurements import measured
from scion.common.progress_report import progress_file
from scion.checkpoint.hub.location import HubRepository, LocalFolder, parse_location
from scion.checkpoint.hub.lock import lock_of, read_lock
from scion.checkpoint.local_files import local_files, usable_files
from snakemake.io import contains_wildcard

PROJECT = Path(workflow.basedir)
# The release's own first, then the default.
CONFIG_FILES = sorted(map(os.path.relpath, workflow.configfiles), key="config/default.yaml".__eq__)

# The jobs' `python` is the one that runs Snakemake, activated environment or not. Setting a prefix
# takes Snakemake's own strict mode away, and with it the exit code of a stage that is piped to tee.
# Where a line a stage is shown, what tee passes on is left to the log; `-i` lets tee outlive Ctrl-C,
# with what a stage says to it.
BIN = shlex.quote(str(Path(sys.executable).parent)).replace("{", "{{").replace("}", "}}")
HUSH = "exec >/dev/null; " if SHOWN else ""
shell.prefix(f'set -euo pipefail; export PATH={BIN}:"$PATH"; {HUSH}')


# A plan of hundreds of releases makes millions of objects that stay; the collector, which looks
# through all of them again and again, would take a tenth of the time.
gc.set_threshold(100_000)

for path in CONFIG_FILES:
    # What Snakemake's own reader lets pass: a key twice, a bomb of aliases.
    or_end(read_values, Path(path))
# One for each release, in their order.
CONFIGS = or_end(load_configs, config, where=", ".join(CONFIG_FILES))
if workflow.is_main_process:
    for each in CONFIGS:
        or_end(check_sources, each, where=CONFIG_FILES[0], hub=False)
STORE = or_end(Store.open, CONFIGS[0].store, begin=False)
PLANS = Plans()
# By key of the planned stage, its job.
JOBS = {}
# By stage that fetches a source, those that have to end before it, so that there is room.
EARLIER = {}
for each in CONFIGS:
    Plan(Path("results", each.release), STORE, together=PLANS)
# The locks beside the files of the run, by path.
LOCKS = {
    lock: or_end(read_lock, lock)
    for named in (CONFIG_FILES, config.get(RELEASES) or [])
    for lock in (lock_of(Path(each)) for each in named if isinstance(each, str))
    if lock.is_file()
}
FAMILY = CONFIGS[0].family
FAMILY_NAME = FAMILY.name if FAMILY else None
# One that stands for all: what the releases share.
FAMILY_CONFIGS = [CONFIGS[0].model_copy(update={"release": FAMILY.name})] if FAMILY else []
for each in FAMILY_CONFIGS:
    Plan(Path("results", each.release), STORE, together=PLANS)
if SHOWN:
    SHOWN.plans = PLANS
    SHOWN.logs = [
        *(f"logs/{each.release}" for each in CONFIGS),
        *map(os.path.relpath, workflow.logger_manager.get_logfile()),
    ]


wildcard_constraints:
    release=r"[a-z0-9][a-z0-9._-]*",
    key=r"[0-9a-f]{16}(-[0-9]+)?",


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


def attested_settings(config):
    """What the seal of a release is told of its configuration: all that its attestations name."""
    if not config.attestations.enabled:
        return json.dumps({})
    told = config.model_dump(mode="json", exclude={"store", "scratch"})
    return json.dumps({"config": told}, sort_keys=True)


def project_file(name):
    """A file of Scion's own, wherever the workflow is run."""
    return os.path.relpath(PROJECT / name)


@functools.cache
def environment(*folders):
    """What manifests call the root environment, and those of folders of envs/ that a stage uses."""
    locks = [str(Path(folder, "uv.lock.neutral")) for folder in ("", *folders)]
    digest = digest_json({lock: digest_file(PROJECT / lock) for lock in locks})
    return identity(digest, [Path(sys.prefix), *map(prefix, folders)])


ROOT_ENVIRONMENT = environment()
EVALUATION_FOLDER = "envs/evaluate"
# Of several releases, what takes longest comes first, and what it waits for before that: the rest
# runs beside it.
BEFORE_QUANTIZING, QUANTIZING = 2, 1
# Snakemake cuts the number to what it was given, so that the rule runs alone.
ALL_THREADS = max(64, os.cpu_count() or 1)
# Loads what a GPU computes with, and serves what it answers.
THREADS_BESIDE_GPU = 8
# Those that training a head computes with on a CPU (scion.healing.body).
HEALING_THREADS = 2
# Bytes that one core has read and hashed in a second.
SMALL_CHECKPOINT = 1_000_000_000
WITH_ATTEMPT = inspect.signature(lambda wildcards, attempt: None)
AGENT_TASKS = project_file("workflow/scion/evaluation/agent/agent_tasks.yaml")


def serving_folder(config):
    """The folder of envs/ whose engine serves."""
    return f"envs/{config.serving.environment}"


def serving_environment(config, *folders):
    """What manifests call the environments of a stage with a server."""
    return environment(serving_folder(config), *folders)


def serving_python(config):
    """The interpreter that servers are started with."""
    return str(prefix(serving_folder(config)) / "bin/python")


def server_threads(config):
    """How many of the cores given to Snakemake a stage with a server takes.

    Answers do not depend on what runs beside a server, but a GPU's memory is one server's own: so
    it runs alone, unless GPUs are dealt out (`gpu_threads`).
    """
    if config.serving.environment == "serve-cpu":
        return config.serving.cpu_threads
    return gpu_threads()


def gpu_threads():
    """How many cores a stage takes that runs on a GPU: all, unless GPUs are dealt out.

    On one machine they are where `--resources gpu=N` says how many there are; elsewhere the
    scheduler deals them out, with as many cores as the stage asks for.
    """
    if not workflow.local_exec:
        return THREADS_BESIDE_GPU
    return 1 if "gpu" in workflow.global_resources else ALL_THREADS


def moving_threads(config):
    """How many cores a stage takes that reads and hashes a checkpoint; one for a small one."""
    source = release_size(config).source
    return 1 if source is not None and source < SMALL_CHECKPOINT else 8


def quantizing_threads(config):
    """How many cores quantizing takes: on a CPU one, since calibration runs on one thread."""
    return gpu_threads() if config.quantization.device == "cuda" else 1


def heals_on_gpu(config):
    """Whether training a head takes a GPU: `auto` does where servers have some."""
    on_gpu = config.serving.environment == "serve-cuda"
    device = config.healing.training.device
    return device == "cuda" or (device == "auto" and on_gpu)


def healing_threads(config):
    """How many cores training a head takes."""
    return gpu_threads() if heals_on_gpu(config) else HEALING_THREADS


def on_gpus(is_on_gpu):
    """What a stage's command line begins with, so that it has a GPU of its own where it takes one."""
    return {"on_gpus": "python -m scion.engines.vllm.on_gpus 1" if is_on_gpu else ""}


def timed_threads(config):
    """As `server_threads`, for what is timed: on a CPU nothing may run beside it."""
    return ALL_THREADS if config.serving.environment == "serve-cpu" else server_threads(config)


def launch(config):
    """The launch that tasks and evaluations are served with."""
    return config.launch(config.serving.launch)


def server_options(config):
    """What every stage with a server is told besides, and makes no other result."""
    return {"python": serving_python(config), "log_folder": f"logs/{config.release}"}


def donor(config):
    """The stage that the head of a donor is read from; None where there is no donor."""
    return "fetch_donor" if config.donor else None


def calibration_files(config):
    """The calibration sets that lie here."""
    return list(map(local_file, calibration_sets(config)))


def plan(stage, ask, configs=CONFIGS):
    """Plan a stage for each release.

    Args:
        stage: Name of stage and rule.
        ask: A function of a release's configuration. It returns the arguments of `plan_one`, or
            None where the release does without the stage.
        configs: Of the releases.

    Returns:
        What the rule declares, by name.
    """
    planned = [plan_one(stage, each, **asked) for each in configs if (asked := ask(each))]
    # What several ask for is done for the first of them.
    jobs = {(job.planned.release, job.planned.digits): job for job in reversed(planned)}
    JOBS.update((job.planned.key, job) for job in jobs.values())

    def job(wildcards):
        try:
            # A number behind the digits tells pointers of one key apart: the store may have dropped
            # what the first names.
            return jobs[wildcards.release, wildcards.key.partition("-")[0]]
        except KeyError:
            end(f"{stage}: the configuration asks for no {wildcards.release} of {wildcards.key}")

    names = {name for each in planned for name in each.params}

    def progress(wildcards):
        log = Path("logs", wildcards.release, f"{stage}-{wildcards.key}.log")
        return str(progress_file(log))

    return SimpleNamespace(
        input=signed(lambda wildcards: job_input(job(wildcards), wildcards.key)),
        params={
            **{name: parameter(job, name) for name in sorted(names)},
            "progress": signed(progress),
        },
        threads=signed(lambda wildcards: job(wildcards).threads()),
        resources={name: resource(job, stage, name) for name in resource_names(stage, configs)},
        pointer=f"results/{{release}}/.pointers/{stage}-{{key}}.json",
        copies=f"results/{{release}}/.pointers/{stage}-{{key}}",
        log=f"logs/{{release}}/{stage}-{{key}}.log",
        benchmark=f"benchmarks/{{release}}/{stage}-{{key}}.tsv",
    )


def job_input(job, key):
    """What a job waits for: pointers of what it reads, plain files, and room for a source.

    Args:
        job: The job.
        key: What its pointer's name has of the key. Of a stage that is made again there are two
            jobs, that of the pointer that is there and that of the one to come.
    """
    planned = job.planned
    is_made = planned.is_made or (
        planned.before is not None and planned.before.stem == f"{planned.name}-{key}"
    )

    def pointer(read):
        # One that a job of this run writes would have Snakemake make what is made from it, too.
        return str(read.before if is_made and read.before else read.pointer)

    waits = EARLIER.get(planned, []) if not is_made and makes_all() else []
    return {
        **{name: list(map(pointer, read)) for name, read in job.reads.items()},
        **job.files,
        **({"earlier": ancient([str(each.pointer) for each in waits])} if waits else {}),
    }


def makes_all():
    """Whether the run makes all that its targets are made from: neither files, nor until a stage."""
    asked = workflow.dag_settings
    is_cut = asked.until or asked.omit_from
    return not is_cut and all(workflow.is_rule(str(target)) for target in asked.targets)


def plan_one(
    stage,
    config,
    *,
    reads=None,
    files=None,
    local=None,
    locked=None,
    environment,
    threads=None,
    beside=None,
    is_outdated=lambda manifest: False,
    **options,
):
    """Plan a stage of one release.

    Args:
        stage: Name of the stage.
        config: The release's.
        reads: By name of the input, the stage that it comes from; or a list of planned stages, of
            any releases, which are read together; None where this release has none, and the option
            on the stage's command line no value.
        files: By name of the input, plain files: a path or a list of paths.
        local: The files of a local checkpoint that the stage takes.
        locked: The repositories that it holds to their locks, if it knows of locks.
        environment: Identity of its environment.
        threads: A function of the configuration that says how many cores it takes.
        beside: What its command line says by name, and no part of the plan.
        is_outdated: Whether what a manifest describes is made again all the same.
        options: What else its command line says, by name; all of it counts.
    """
    own, files = PLANS.plans[config.release], dict(files or {})
    upstream = {
        name: [own.stages[read]] if isinstance(read, str) else list(read or [])
        for name, read in (reads or {}).items()
    }
    paths = {
        name: [value] if isinstance(value, str) else [path for path in value if path]
        for name, value in files.items()
    }
    if local is not None:
        # Nothing of a repository of the hub, whose commit says it all.
        options["planned"] = STORE.sources.name(stage, local, STORE.known) if local else []
    planned = or_end(
        own.add,
        stage,
        reads={
            name if len(read) == 1 else f"{name} {number}": each
            for name, read in upstream.items()
            for number, each in enumerate(read, start=1)
        },
        files=[Path(path) for name in paths for path in paths[name]],
        settings={**options, **locked_settings(locked or [])},
        environment=environment,
        is_outdated=is_outdated,
    )
    return SimpleNamespace(
        reads=upstream,
        files={name: ancient(list(filter(is_plain, value))) for name, value in paths.items()},
        params={
            **options,
            **paths,
            # How they look tells the stage whether they changed; their name is what counts.
            **({"planned": [options["planned"], appearance(stage, local)]} if local else {}),
            "environment": environment,
            **({} if locked is None else {"lock": locks_of_all(locked)}),
            "store": config.store,
            "plan": planned.expectation,
            **(beside or {}),
        },
        # Asked late: only then is it known what Snakemake was given.
        threads=lambda: threads(config) if threads else 1,
        config=config,
        planned=planned,
    )


def resource_names(stage, configs):
    """The resources that a rule states; GPUs only where a release has the stage take one."""
    named = ["mem_mb", "disk_mb", "runtime"]
    on_gpu = any(
        each.quantization.device == "cuda"
        or each.serving.environment == "serve-cuda"
        or (each.healing.enabled and each.healing.training.device == "cuda")
        for each in configs
    )
    if not on_gpu:
        return named
    # As late as in `release_size`.
    from scion.config.resources import ReleaseSize, stage_resources

    unknown = ReleaseSize(None, None)
    takes_one = any("gpu" in stage_resources(stage, each, unknown) for each in configs)
    return [*named, "gpu", "gpu_mem_mb"] if takes_one else named


SIZES = {}


def release_size(config):
    """How large a release is, looked up once."""
    # Half of what a plan imports, and only those who run or list jobs need it.
    from scion.config.resources import ReleaseSize

    if config.release not in SIZES:
        SIZES[config.release] = ReleaseSize.of(config)
    return SIZES[config.release]


def resource(job, stage, name):
    """A resource of a rule, by the size of its release."""

    def asked(wildcards, attempt):
        # As late as in `release_size`.
        from scion.config.resources import stage_resources

        config = job(wildcards).config
        # A stage of the family takes what the largest of its releases does.
        several = FAMILY is not None and config.release == FAMILY.name
        return max(
            stage_resources(stage, each, release_size(each), attempt=attempt).get(name, 0)
            for each in (CONFIGS if several else [config])
        )

    return signed(asked, WITH_ATTEMPT)


def signed(function, signature=inspect.signature(lambda wildcards: None)):
    """The function with its signature written on it.

    Snakemake asks for it before each call; to work it out is a seventh of the time in which a plan
    of hundreds of releases is made.
    """
    function.__signature__ = signature
    return function


def parameter(job, name):
    """A parameter of a rule, which Snakemake takes as it is: no brace in it begins a wildcard."""
    return signed(lambda wildcards: job(wildcards).params.get(name, []))


def is_plain(path):
    """Whether Snakemake would take a path for itself; there is no way to escape a brace in it."""
    return not contains_wildcard(path)


def local_checkpoint(location, files=local_files):
    """The files of a checkpoint that lies here; those of the hub are pinned by their commit."""
    place = parse_location(location)
    if isinstance(place, HubRepository) or not place.path.is_dir():
        return []
    return or_end(files, place.path)


def locks_of(location):
    """The locks that say what a repository of the hub holds; nothing of a folder."""
    place = parse_location(location)
    if isinstance(place, LocalFolder) or not LOCKS or not place.is_pinned:
        return []
    found = [str(lock) for lock, repositories in LOCKS.items() if location in repositories]
    if not found:
        told = ", ".join(map(str, LOCKS))
        end(f"{told}: nothing of {location}; write it: scion pin {CONFIG_FILES[0]}")
    return found


def locks_of_all(locations):
    """The locks that say what some repositories hold, each once."""
    return sorted({lock for location in locations for lock in locks_of(location)})


def locked_settings(locations):
    """What a plan has of locks: what they say of these repositories, and of no other."""
    entries = {
        location: {name: asdict(entry) for name, entry in LOCKS[Path(lock)][location].items()}
        for location in sorted(set(locations))
        for lock in locks_of(location)
    }
    return {"locked": digest_json(entries)} if entries else {}


def calibration_sets(config):
    """The calibration sets."""
    return [each.dataset for each in config.quantization.calibration.sets]


def publication(config):
    """The command that publishes what `results/` shows of a release."""
    key = config.attestations.public_key
    words = ["python", "-m", "scion.cli.main", "publish"]
    words += [f"results/{config.release}/release", config.card.repository]
    words += ["--key", key] if key else []
    words += ["--collection", FAMILY.title] if FAMILY else []
    return shlex.join(words)


def local_file(location):
    """A data file that lies here, or nothing for a data set of the hub."""
    return location if isinstance(parse_location(location), LocalFolder) else []


def input_scales(config):
    """The files of the release whose activation scales are taken, if any are."""
    scales = config.quantization.input_scales
    return local_checkpoint(scales, usable_files) if scales else []


def quantized(config):
    """The stage that makes the release's quantized checkpoint."""
    return "quantize_nvfp4" if config.spelling == DEFAULT_SPELLING.name else "respell"


def bf16(config):
    """The stage whose bf16 checkpoint the release is held beside: one with its tower, if that stays."""
    return "extract_text" if config.text_only else "fix_keys"


def whole(config):
    """The stage whose artifact is the release's checkpoint, all of it."""
    if quantizes_head(config):
        return HEAD_QUANTIZED
    return HEALED if config.healing.enabled else GRAFTED


def quantizes_head(config):
    """Whether the matrices of the release's MTP head are stored in FP8 or NVFP4."""
    return config.mtp.quantize != "none"


def asked_of_source(config):
    """The stages that ask the bf16 source what the release is asked, where it is judged."""
    if not config.verdict.enabled:
        return []
    return [
        "run_agent_tasks_source",
        *(["evaluate_ifeval_source"] if config.ifeval.enabled else []),
        *(["evaluate_bfcl_source"] if config.bfcl.enabled else []),
    ]


def source_launch(config):
    """How the bf16 source is served where it is asked what the release is asked."""
    return config.verdict.source_launch(launch(config))


def of_all(stage):
    """A stage of every release, in their order: named, or by a function of the configuration."""
    named = stage if callable(stage) else lambda config: stage
    return [PLANS.plans[each.release].stages[named(each)] for each in CONFIGS]


def member(config):
    """A release as the comparison sees it."""
    return FamilyMember(
        name=config.release,
        repository=config.card.repository,
        launch=config.launch(config.measurement.launches[0]),
    )


def evidence(config):
    """All that was made and measured of a release, but for the release itself.

    In the order of the rules, in which the card lists the steps.
    """
    stages = PLANS.plans[config.release].stages
    conversion = {"fetch_source", "fetch_donor", "fetch_base", "lint_source", "fix_keys"}
    conversion |= {"extract_text", "quantize_nvfp4", "respell", "verify_release"}
    conversion |= {GRAFTED, "sample_replies"} if config.healing.enabled else set()
    conversion |= {HEALED} if quantizes_head(config) else set()
    conversion |= set(asked_of_source(config))
    own = [
        stages[rule.name]
        for rule in workflow.rules
        if rule.name in stages and (rule.name in conversion or measured(rule.name, config))
    ]
    return own + ([PLANS.plans[FAMILY.name].stages["compare_family"]] if FAMILY else [])
