"""Configuration of launches, servers, and what is measured on them."""

from typing import Literal

from pydantic import Field

from scion.common.section import Section


class Launch(Section):
    """One way to serve the release: the card explains it, and the same flags are measured."""

    name: str = Field(
        pattern=r"^[a-z0-9_]+$", description="name of the launch, as results and the card quote it"
    )
    title: str = Field(description="what the launch is for, as the card's heading")
    max_model_len: int = Field(gt=0, description="context in tokens")
    max_num_seqs: int | None = Field(
        default=None, gt=0, description="requests decoded in parallel; null: as the engine chooses"
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        default="auto", description="fp8 halves KV memory"
    )
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="share of GPU memory that vLLM may take"
    )
    speculative_tokens: int = Field(
        default=3, ge=0, description="MTP drafts a step; 0 serves without speculation"
    )
    gpu: str | None = Field(
        default=None,
        description="GPU that the launch is meant for, as `scion launch --list-gpus` names it",
    )


PICO_LAUNCH = Launch(name="pico", title="Pico launch", max_model_len=2048, max_num_seqs=2)


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
        description="address of a running server to use instead, such as http://host:8000/v1",
    )
    port: int | None = Field(
        default=None, gt=0, lt=65536, description="loopback port of the server; null: a free one"
    )
    start_seconds: int = Field(
        default=600, gt=0, description="longest wait until the server is ready"
    )
    kv_cache_gigabytes: int = Field(default=1, gt=0, description="KV cache of a CPU server (GiB)")
    cpu_threads: int = Field(
        default=1, gt=0, description="OpenMP threads of a CPU server; one is best for tiny models"
    )
    arguments: tuple[str, ...] = Field(
        default=(),
        description="what this machine's server needs besides the launch's flags, word by word",
    )


class Measurement(Section):
    """What measure_serving decodes."""

    launches: tuple[str, ...] = Field(
        default=("pico",), min_length=1, description="launches to time, the first one's text counts"
    )
    prompts: str = Field(
        default="resources/pico/prompts.jsonl",
        description="JSONL of chats: `messages`, `set`, and maybe `name`, `tools`",
    )
    decode_tokens: tuple[int, ...] = Field(
        default=(32, 64, 128),
        min_length=1,
        description="lengths of the short, medium and long decode",
    )
    repeats: int = Field(
        default=6, ge=5, description="timings of each decode; six give a 95 % interval of a median"
    )
    reply_tokens: int = Field(
        default=100, gt=0, description="longest reply where the model itself ends it"
    )
    parallel_requests: tuple[int, ...] = Field(
        default=(1, 2), description="requests at the same time"
    )
    speculative_tokens: tuple[int, ...] = Field(
        default=(0, 1, 3),
        min_length=1,
        description="MTP drafts a step, one server start each; 0 is the baseline",
    )


class Quality(Section):
    """Held-out text on which the models are compared, token by token."""

    chats: str = Field(
        default="resources/pico/heldout.jsonl", description="JSONL of chats: `messages`, `tools`"
    )
    texts: str | None = Field(
        default="resources/pico/heldout_texts.jsonl",
        description="JSONL of plain texts: `text`; null leaves them out",
    )
    samples: int = Field(
        default=16, gt=1, description="number of chats, and of texts at most, from the start"
    )
    max_tokens: int = Field(default=1000, gt=1, description="longer ones are cut to so many tokens")
    top_logprobs: int = Field(
        default=128,
        gt=1,
        description="most likely tokens asked for at each place; KL is a lower bound over them",
    )
    base: str | None = Field(
        default="resources/pico/pico-base",
        description="whole base model to compare with (the donor is fetched in part); null: none",
    )
