"""What a launch of the card would do with the memory of the GPU that it is meant for."""

from pathlib import Path

from scion.checkpoint.shards import Checkpoint
from scion.engines.config import Launch
from scion.engines.gpus import GIB, find_gpu
from scion.engines.registry.engines import parse_engine
from scion.engines.vllm.memory import predict


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
    gpu, checkpoint = find_gpu(launch.gpu), Checkpoint.open(release)
    prediction = predict(
        {name: checkpoint.tensor(name) for name in checkpoint.shard_of},
        checkpoint.config,
        launch,
        total=gpu.total_bytes,
        engine=parse_engine("vllm")[-1],
        where=release / "config.json",
        text_only=text_only,
        note=gpu.note,
    )
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
