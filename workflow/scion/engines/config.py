"""Configuration of launches, and of the server that measures."""

from typing import Literal

from pydantic import Field, field_validator

from scion.common.section import Section


class Launch(Section):
    """One way to serve the release: the card explains it, and the same flags are measured."""

    name: str = Field(
        pattern=r"^[a-z0-9_]{1,64}$",
        description="name of the launch, as results and the card quote it",
    )
    title: str = Field(description="what the launch is for, as the card's heading")
    max_model_len: int = Field(gt=0, le=1 << 24, description="context in tokens")
    max_num_seqs: int | None = Field(
        default=None,
        gt=0,
        le=1 << 16,
        description="requests decoded in parallel; null: as the engine chooses",
    )
    tensor_parallel: int = Field(
        default=1, gt=0, le=64, description="GPUs that share every layer of the model"
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        default="auto", description="fp8 halves KV memory"
    )
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="share of GPU memory that vLLM may take"
    )
    speculative_tokens: int = Field(
        default=3, ge=0, le=32, description="MTP drafts a step; 0 serves without speculation"
    )
    gpu: str | None = Field(
        default=None,
        description="GPU that the launch is meant for, as `scion launch --list-gpus` names it",
    )


PICO_LAUNCH = Launch(name="pico", title="Pico launch", max_model_len=2048, max_num_seqs=2)


# Options of vLLM that are written from a launch, the checkpoint or the address, and where they are
# set instead.
_LAUNCHED = {
    "--max-model-len": "max_model_len of the launch",
    "--max-num-seqs": "max_num_seqs of the launch",
    "--tensor-parallel-size": "tensor_parallel of the launch",
    "-tp": "tensor_parallel of the launch",
    "--kv-cache-dtype": "kv_cache_dtype of the launch",
    "--gpu-memory-utilization": "gpu_memory_utilization of the launch",
    "--speculative-config": "speculative_tokens of the launch",
    "-sc": "speculative_tokens of the launch",
    "--port": "serving.port",
    "--host": "the loopback address, always,",
    "--model": "the release",
    "--served-model-name": "the release",
    "--quantization": "the release's config.json",
    "-q": "the release's config.json",
    "--language-model-only": "text_only",
}


class Serving(Section):
    """Which server measures the release, and how it is started."""

    launch: str = Field(
        default="pico", description="launch that tasks and evaluations are served with"
    )
    environment: Literal["serve-cpu", "serve-cuda"] = Field(
        default="serve-cpu", description="folder of envs/ whose vLLM serves"
    )
    server_url: str | None = Field(
        default=None,
        # Without user and password: it stands in manifests, on the card and in attestations.
        pattern=r"^https?://[^\s/@]+(/\S*)?$",
        description="address of a running server to use instead, such as http://host:8000/v1; its "
        "replies are compared with the release, which runs on this machine's CPU for that",
    )
    server_model: str | None = Field(
        default=None, description="name of the release at that server; null: its only model"
    )
    port: int | None = Field(
        default=None, gt=0, lt=65536, description="loopback port of the server; null: a free one"
    )
    start_seconds: int = Field(
        default=600, gt=0, le=86_400, description="longest wait until the server is ready"
    )
    kv_cache_gigabytes: int = Field(
        default=1, gt=0, le=1 << 12, description="KV cache of a CPU server (GiB)"
    )
    cpu_threads: int = Field(
        default=1,
        gt=0,
        le=1 << 12,
        description="OpenMP threads of a CPU server; one is best for tiny models",
    )
    arguments: tuple[str, ...] = Field(
        default=(),
        description="what this machine's server needs besides the launch's flags, word by word",
    )

    def stretches_context(self) -> bool:
        """Whether the server may take more tokens than config.json says, by words of its own."""
        given = (argument.replace("_", "-") for argument in self.arguments)
        return self.server_url is not None or any(a.startswith("--hf-overrides") for a in given)

    @field_validator("arguments")
    @classmethod
    def _leave_the_launch(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """What a launch says, the card tells and the memory check counts, so it stands there."""
        for argument in arguments:
            if field := _LAUNCHED.get(argument.partition("=")[0].replace("_", "-")):
                raise ValueError(f"{argument}: {field} says that, for the card as well")
        return arguments
