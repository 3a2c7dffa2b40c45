"""The memory of GPUs that releases are served on, and how fast they multiply matrices.

Two numbers differ: what `nvidia-smi` lists, and the smaller total that CUDA reports, of which vLLM
takes its share (`--gpu-memory-utilization`). Where only the first is published, the second is
taken to be 1.5 % less, the largest difference among those that are known. Each number is from
somebody's machine; `source` says whose.
"""

from dataclasses import dataclass

from scion.common.errors import ScionError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
_UNPUBLISHED_SHARE = 0.985


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: As `--gpu` and a launch's `gpu` take it.
        title: As its maker calls it.
        listed_mib: What `nvidia-smi` lists; None where it lists nothing, as for unified memory.
        cuda_gib: The total that CUDA reports; None where nobody has published it.
        source: Where the numbers were seen.
        note: What its owner must know.
        bf16_tflops: Peak of dense bf16 products that are summed in float32, as its maker publishes
            it, in 10^12 operations a second; None where it is not known here.
        float32_tflops: The same of float32, without tensor cores.
    """

    name: str
    title: str
    listed_mib: int | None
    cuda_gib: float | None
    source: str
    note: str = ""
    bf16_tflops: float | None = None
    float32_tflops: float | None = None

    @property
    def total_bytes(self) -> int:
        """The memory that vLLM takes its share of; see the module for what is assumed."""
        if self.cuda_gib is not None:
            return round(self.cuda_gib * GIB)
        if self.listed_mib is None:
            raise AssertionError(f"{self.name} has neither number")
        return round(self.listed_mib * MIB * _UNPUBLISHED_SHARE)


GPUS = (
    Gpu(
        "rtx-pro-6000",
        "NVIDIA RTX PRO 6000 Blackwell",
        97_887,
        94.97,
        "https://github.com/antirez/ds4/issues/431",
        bf16_tflops=503.8,
        float32_tflops=125,
    ),
    Gpu(
        "rtx-5090",
        "NVIDIA GeForce RTX 5090",
        32_607,
        31.36,
        "https://github.com/TrajectoryCrafter/TrajectoryCrafter/issues/20; nvidia-smi as widely "
        "published",
        bf16_tflops=209.5,
        float32_tflops=104.8,
    ),
    Gpu(
        "rtx-pro-4500",
        "NVIDIA RTX PRO 4500 Blackwell",
        32_623,
        None,
        "nvidia-smi, in several public build logs",
    ),
    Gpu(
        "h100",
        "NVIDIA H100 80GB HBM3",
        81_559,
        79.11,
        "https://github.com/vllm-project/vllm/issues/27508; nvidia-smi as widely published",
        bf16_tflops=989.4,
        float32_tflops=66.9,
    ),
    Gpu(
        "h200",
        "NVIDIA H200",
        143_771,
        None,
        "nvidia-smi, as widely published",
        bf16_tflops=989.4,
        float32_tflops=66.9,
    ),
    Gpu(
        "b200",
        "NVIDIA B200",
        183_359,
        178.35,
        "https://github.com/pytorch/ao/pull/4002; nvidia-smi as widely published",
        bf16_tflops=2250,
        float32_tflops=75,
    ),
    Gpu(
        "gb10",
        "NVIDIA DGX Spark (GB10)",
        None,
        121.69,
        "https://github.com/MiaAI-Lab/GLM-5.3-Flash-EXL3-2x-DGX-Sparks/issues/47",
        note="unified memory: the system and its page cache use the same; about 102 GiB were "
        "free at start, so a utilization above 0.83 was refused there",
    ),
)


def find_gpu(name: str) -> Gpu:
    """The GPU of that name.

    Raises:
        ScionError: None is called so.
    """
    for gpu in GPUS:
        if gpu.name == name.lower():
            return gpu
    raise ScionError(
        "this GPU is not known",
        where="--gpu, or the launch's gpu",
        expected=f"one of {', '.join(gpu.name for gpu in GPUS)}",
        found=repr(name),
        hint="give its memory instead: scion launch FOLDER --memory-gib 47.5",
    )


def memory_text(count: int) -> str:
    """Bytes in GiB, as memory of GPUs is told; in MiB or KiB where GiB would say nothing."""
    units = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
    large = (unit for unit in units if abs(count) >= unit[0] / 10)
    unit, name = next(large, units[-1]) if count else units[0]
    return f"{count / unit:.2f} {name}"
