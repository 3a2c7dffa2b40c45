"""What each rule takes of a machine, by the release's own size.

Snakemake hands these to whatever runs the jobs: a cluster's scheduler asks for so much, and a run
on one machine keeps to what `--resources` names. They are ceilings, not forecasts: memory and disk
are those of `scion estimate`, minutes a multiple of what a slow disk or network needs. Of a source
that can't be looked at yet 60 GB are assumed, as a model of 30 billion parameters has in bf16.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.checkpoint.places import hub_answers
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.config.release import Config
from scion.quantization.estimate.estimate import Machine, ResourceEstimate, estimate
from scion.quantization.estimate.memory import total
from scion.quantization.estimate.source_headers import source_headers

Resources = dict[str, int]
"""`mem_mb`, `disk_mb` (10^6 bytes) and `runtime` (minutes); where GPUs are used `gpu`, how many,
and `gpu_mem_mb`, of each."""

_MB = 1_000_000
# Python with what stages import; a server's processes without its weights.
_STAGE_MB, _SERVER_MB = 2_000, 12_000
# Bytes a second of a slow network, and of a slow disk.
_NETWORK, _DISK = 20_000_000, 100_000_000
_LEAST_MINUTES = 10
# Stages whose time depends on how much is asked, and how fast the engine is.
_SERVER_MINUTES = 240
# Logits and attention of a head that trains.
_HEALING_MB = 4_000
# The matrices of a head in bf16, and as they are packed.
_PACKING_MB = 3_000
_SAFETY = 4
_GROWING = ("mem_mb", "runtime")
_ALL_GPU_MEMORY = 1 << 50
_ASSUMED = 60_000_000_000
# The largest heads have some gigabytes.
_HEAD: Resources = {"mem_mb": _STAGE_MB, "disk_mb": 5_000, "runtime": 30}


@dataclass(frozen=True)
class ReleaseSize:
    """How large a release's checkpoints are.

    Attributes:
        source: Bytes of the source's weights; None while nobody can tell.
        quantization: What quantizing takes; None likewise.
        rewritten: Bytes of the language model that lie in shards beside other parts, so that
            extract_text writes them anew.
    """

    source: int | None
    quantization: ResourceEstimate | None
    rewritten: int = 0

    @classmethod
    def of(cls, config: Config) -> "ReleaseSize":
        """Read it off the headers of the source: in its folder, or on the hub if that answers.

        A repository that is not pinned is not looked at: its content could change.
        """
        place = parse_location(config.source)
        if isinstance(place, HubRepository) and not (place.is_pinned and hub_answers()):
            return cls(None, None)
        try:
            headers = source_headers(config.source)
            return cls(headers.bytes, _quantization(config, headers.text), headers.rewritten)
        except (ScionError, OSError):
            # What is wrong with the source is told by the stages that read it.
            return cls(None, None)


def _quantization(config: Config, checkpoint: Checkpoint) -> ResourceEstimate:
    """With hidden states in host memory, the most that a run takes of it."""
    lengths = [
        [each.max_tokens]
        for each in config.quantization.calibration.sets
        for _ in range(each.samples)
    ]
    on_gpu = config.quantization.device == "cuda"
    machine = Machine("any", 0 if on_gpu else None, _ALL_GPU_MEMORY)
    return estimate(checkpoint, config.quantization, lengths, machine)


def stage_resources(
    stage: str, config: Config, size: ReleaseSize, *, attempt: int = 1
) -> Resources:
    """What a rule asks for.

    Args:
        stage: The stage.
        config: The release's, or for a family's stages any release's.
        size: How large it is.
        attempt: Which try it is. A scheduler that ended one for its memory or its time would end
            the next just so: each asks for as much more as the first did.
    """
    asked = _ROWS.get(stage, _small)(config, size)
    return asked | {name: attempt * asked[name] for name in _GROWING}


def has_server(stage: str) -> bool:
    """Whether a stage asks servers."""
    return _ROWS.get(stage) is _served


def _small(config: Config, size: ReleaseSize) -> Resources:
    return {"mem_mb": _STAGE_MB, "disk_mb": 100, "runtime": _LEAST_MINUTES}


def _moved(rate: int) -> Callable[[Config, ReleaseSize], Resources]:
    """A stage that moves the source's bytes, at most so slowly (bytes a second)."""

    def row(config: Config, size: ReleaseSize) -> Resources:
        moved = _ASSUMED if size.source is None else size.source
        minutes = _LEAST_MINUTES + _SAFETY * moved // rate // 60
        return {"mem_mb": _STAGE_MB, "disk_mb": moved // _MB + 100, "runtime": minutes}

    return row


def _quantized(config: Config, size: ReleaseSize) -> Resources:
    asked = _moved(_DISK)(config, size)
    gpus = {"gpu": 1} if config.quantization.device == "cuda" else {}
    taken = size.quantization
    if taken is None:
        return asked | gpus | {"mem_mb": 16_000, "runtime": _SERVER_MINUTES}
    asked |= {"mem_mb": total(taken.host) // _MB + _STAGE_MB, "disk_mb": total(taken.disk) // _MB}
    # Samples pass through all layers; without a GPU that is what takes long.
    work = sum(operation.count for operation in taken.operations) // 50_000_000_000 // 60
    asked["runtime"] += _SAFETY * round(work / (100 if gpus else 1))
    return asked | (gpus | {"gpu_mem_mb": total(taken.device) // _MB} if gpus else {})


def _healed(config: Config, size: ReleaseSize) -> Resources:
    """Training a head: one layer of the body at a time, the head with its optimizer, two tables.

    Of a head there are weights, those it began with, gradients, two moments and what a step of the
    optimizer needs beside them, in float32: a third of what the source has in bf16 is more than
    that of any head that is known, with the tables of embeddings and vocabulary.
    """
    weights = (_ASSUMED if size.source is None else size.source) // _MB
    needed = _HEALING_MB + weights // 3
    # Hidden states, and the training's state twice while it is written anew.
    asked = {"disk_mb": 100 + weights * 3 // 4, "runtime": _SERVER_MINUTES}
    if config.healing.training.device == "cuda":
        return asked | {"mem_mb": _STAGE_MB + weights // 3, "gpu": 1, "gpu_mem_mb": needed}
    return asked | {"mem_mb": _STAGE_MB + needed}


def _served(config: Config, size: ReleaseSize) -> Resources:
    """A stage with servers of the release, or of the checkpoints that it is compared with."""
    if config.serving.server_url is not None:
        return {"mem_mb": _STAGE_MB, "disk_mb": 1_000, "runtime": _SERVER_MINUTES}
    weights = (_ASSUMED if size.source is None else size.source) // _MB
    asked = {"disk_mb": 1_000, "runtime": _SERVER_MINUTES}
    if config.serving.environment == "serve-cpu":
        cache = config.serving.kv_cache_gigabytes * 1_074
        return asked | {"mem_mb": _SERVER_MB + 2 * weights + cache}
    names = (config.serving.launch, *config.measurement.launches)
    launches = [config.launch(name) for name in names]
    gpus = max(launch.tensor_parallel for launch in launches)
    return asked | {"mem_mb": _SERVER_MB + weights, "gpu": gpus, "gpu_mem_mb": weights // gpus}


_ROWS: Mapping[str, Callable[[Config, ReleaseSize], Resources]] = {
    **dict.fromkeys(("fetch_source", "fetch_base"), _moved(_NETWORK)),
    "fetch_donor": lambda config, size: _HEAD,
    **dict.fromkeys(
        (
            *("fix_keys", "extract_text", "respell", "graft_mtp", "verify_release"),
            *("seal_release", "sign_release"),
        ),
        _moved(_DISK),
    ),
    "quantize_nvfp4": _quantized,
    "heal_mtp": _healed,
    "quantize_mtp": lambda config, size: {**_HEAD, "mem_mb": _STAGE_MB + _PACKING_MB},
    **dict.fromkeys(
        (
            *("sample_replies", "measure_serving", "run_agent_tasks", "evaluate_quality"),
            *("evaluate_ifeval", "evaluate_bfcl", "evaluate_images"),
            *("run_agent_tasks_source", "evaluate_ifeval_source", "evaluate_bfcl_source"),
            *("compare_recipes", "compare_family"),
        ),
        _served,
    ),
}
