"""What the rules share: names of files, settings as stages take them. No rules here."""

import json
import os
import sys
from pathlib import Path

from scion.config import load_config
from scion.common.section import Section
from scion.common.digest import digest_file, digest_json
from scion.artifacts.environments import identity, prefix
from scion.common.errors import ScionError
from scion.checkpoint.hub.location import HubRepository, LocalFolder, parse_location
from scion.artifacts.code_digest import module_files
from scion.stages.fetch_source import wanted
from snakemake.exceptions import WorkflowError

PROJECT = Path(workflow.basedir)
# Those of the command line first, then the default.
CONFIG_FILES = [os.path.relpath(path) for path in workflow.configfiles]

# The jobs' `python` is the one that runs Snakemake, activated environment or not. Setting a prefix
# takes Snakemake's own strict mode away, and with it the exit code of a stage that is piped to tee.
shell.prefix(f'set -euo pipefail; export PATH="{Path(sys.executable).parent}:$PATH"; ')


def checked_config():
    """The configuration as a typed model; what is wrong with it ends the run."""
    try:
        return load_config(config, where=", ".join(CONFIG_FILES))
    except ScionError as error:
        raise WorkflowError(f"\nerror: {error}")


CONFIG = checked_config()
RELEASE = CONFIG.release


def manifest(artifact):
    """The manifest of an artifact: what rules depend on."""
    return f"results/{RELEASE}/{artifact}/manifest.json"


def stage_code(stage):
    """The source files of a stage, so that editing one runs it again."""
    return [os.path.relpath(path) for path in module_files(f"scion.stages.{stage}")]


def settings(**sections):
    """Sections of the configuration, or lists of them, as one line of JSON for `--settings`.

    The one option that is not one value: a section is nested and typed, so it travels as a whole,
    the stage validates it by the same pydantic model, and any changed value is a changed parameter
    of the rule, by which Snakemake runs it again. A new key needs no new option.
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
SERVING_PYTHON = str(prefix(SERVING_FOLDER) / "bin/python")


def local_checkpoint(location, names=wanted):
    """The files of a checkpoint that lies here; those of the hub are pinned by their commit."""
    place = parse_location(location)
    if isinstance(place, HubRepository) or not place.path.is_dir():
        return []
    files = (path.name for path in place.path.iterdir() if path.is_file())
    return [str(place.path / name) for name in names(files)]


def local_file(location):
    """A data file that lies here, or nothing for a data set of the hub."""
    return location if isinstance(parse_location(location), LocalFolder) else []


def require_pinned_sources():
    """Refuse to run before every repository is named with its commit."""
    base = [CONFIG.quality.base] if CONFIG.quality.base else []
    datasets = [*CALIBRATION_DATASETS, CONFIG.ifeval.dataset]
    for location in (CONFIG.source, CONFIG.donor, *datasets, *base):
        place = parse_location(location)
        if isinstance(place, HubRepository):
            try:
                place.require_pinned(CONFIG_FILES[0])
            except ScionError as error:
                raise WorkflowError(f"\nerror: {error}")
