"""What a launch of the card would do with the memory of GPUs, as `scion launch` predicts it."""

from pathlib import Path

from scion.checkpoint.shards import Checkpoint
from scion.engines.config import Launch
from scion.engines.gpus import GIB, GPUS, Gpu, find_gpu
from scion.engines.registry.engines import parse_engine
from scion.engines.vllm.memory import LaunchVerdict, Prediction, predict

_VERDICTS: tuple[LaunchVerdict, ...] = ("fits", "fits with warnings", "does not fit")


def predicted_memory(release: Path, launch: Launch, *, text_only: bool) -> str | None:
    """The prediction of `scion launch` in one sentence; None for a launch that names no GPU.

    Args:
        release: The checkpoint's folder.
        launch: The launch.
        text_only: Whether the server leaves the vision tower out.

    Raises:
        ScionError: A GPU or an architecture that is not known.
    """
    if launch.gpu is None:
        return None
    gpu = find_gpu(launch.gpu)
    prediction = _predict(Checkpoint.open(release), launch, gpu, text_only=text_only)
    held = prediction.capacity
    where = f"each of {prediction.gpus} " if prediction.gpus > 1 else ""
    remarks = "".join(
        f" {finding.severity.capitalize()}: {finding.text}." for finding in prediction.findings
    )
    return (
        f"Predicted for {prediction.engine} on {where}{gpu.title}, not measured: weights "
        f"{prediction.weights.loaded / GIB:.1f} GiB, cache {prediction.cache / GIB:.1f} GiB, "
        f"which is {held.tokens:,} tokens or {held.concurrency:.2f} requests of full context; "
        f"the launch {prediction.verdict}.{remarks}"
    )


def fitting_gpus(release: Path, launch: Launch, *, text_only: bool) -> str:
    """Which of the known GPUs a launch fits, in one sentence.

    Args:
        release: The checkpoint's folder.
        launch: The launch.
        text_only: Whether the server leaves the vision tower out.

    Raises:
        ScionError: An architecture that is not known.
    """
    checkpoint = Checkpoint.open(release)
    predicted = {
        gpu.title.removeprefix("NVIDIA "): _predict(checkpoint, launch, gpu, text_only=text_only)
        for gpu in GPUS
    }
    groups = {
        verdict: [title for title, found in predicted.items() if found.verdict == verdict]
        for verdict in _VERDICTS
    }
    count = f"{launch.tensor_parallel} GPUs of each: " if launch.tensor_parallel > 1 else ""
    told = "; ".join(
        f"{verdict} {', '.join(titles)}" for verdict, titles in groups.items() if titles
    )
    engine = next(iter(predicted.values())).engine
    return f"predicted for {engine}, {launch.max_model_len:,} tokens of context: {count}{told}"


def _predict(checkpoint: Checkpoint, launch: Launch, gpu: Gpu, *, text_only: bool) -> Prediction:
    return predict(
        {name: checkpoint.tensor(name) for name in checkpoint.shard_of},
        checkpoint.config,
        launch,
        total=gpu.total_bytes,
        engine=parse_engine("vllm")[-1],
        where=checkpoint.folder / "config.json",
        text_only=text_only,
        note=gpu.note,
    )
