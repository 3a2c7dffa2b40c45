"""The configuration of a release, as one typed model: frozen, no unknown keys, units in the names.

`config/default.yaml` is generated from this model (`scion config`), and every stage takes its own
section, so a value changes nothing but the stages that read it.
"""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scion.errors import ScionError


class Section(BaseModel):
    """A part of the configuration: immutable, and a mistyped key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Calibration(Section):
    """The samples that activation scales are taken from."""

    dataset: str = Field(
        default="resources/pico/calibration.jsonl",
        description="local JSONL file with a `messages` or `text` column, or "
        "hf://datasets/owner/name@commit",
    )
    subset: str | None = Field(
        default=None, description="configuration of a hub data set, such as LLM"
    )
    split: str = Field(default="train", description="split of a hub data set")
    samples: int = Field(default=20, gt=0, description="number of samples, taken from the start")
    max_tokens: int = Field(
        default=8192, gt=0, description="longer samples are cut to this many tokens"
    )


class Quantization(Section):
    """How weights become NVFP4."""

    recipe: Literal["nvfp4_default"] = Field(
        default="nvfp4_default",
        description="ModelOpt's NVFP4_DEFAULT_CFG: maximum calibration, W4A4",
    )
    calibration: Calibration = Calibration()
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where calibration runs; auto takes a GPU if there is one"
    )
    max_shard_megabytes: int = Field(
        default=5000,
        gt=0,
        description="a shard is closed before it would grow past this (10^6 bytes)",
    )


class Lint(Section):
    """What lint_source and verify_release hold a checkpoint against."""

    engines: tuple[str, ...] = Field(
        default=("vllm", "sglang"),
        description="engines to serve with, as `scion lint --engine` takes them",
    )
    tensor_parallel: tuple[int, ...] = Field(
        default=(1,), description="numbers of GPUs to split the release over"
    )
    ignore: tuple[str, ...] = Field(
        default=(), description="rules to leave out: codes or names of `scion lint --list`"
    )


class Launch(Section):
    """One way to serve the release."""

    name: str = Field(description="name of the launch, as results and the card quote it")
    title: str = Field(description="what the launch is for, as the card's heading")
    max_model_len: int = Field(gt=0, description="context in tokens")
    max_num_seqs: int | None = Field(default=None, gt=0, description="requests decoded in parallel")
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        default="auto", description="fp8 halves KV memory"
    )
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="share of GPU memory that vLLM may take"
    )
    speculative_tokens: int = Field(
        default=3, ge=0, description="MTP drafts a step; 0 serves without speculation"
    )


class Serving(Section):
    """Which server measures the release, and how it is started."""

    environment: Literal["serve-cpu", "serve-cuda"] = Field(
        default="serve-cpu", description="folder of envs/ whose vLLM serves"
    )
    server_url: str | None = Field(
        default=None,
        description="address of a running server to use instead, such as http://host:8000/v1",
    )
    port: int = Field(default=8011, gt=0, lt=65536, description="loopback port of the server")
    start_seconds: int = Field(
        default=600, gt=0, description="longest wait until the server is ready"
    )
    kv_cache_gigabytes: int = Field(default=1, gt=0, description="KV cache of a CPU server (GiB)")
    cpu_threads: int = Field(
        default=1, gt=0, description="OpenMP threads of a CPU server; one is best for tiny models"
    )
    max_model_len: int = Field(default=1024, gt=0, description="context in tokens while measuring")
    max_num_seqs: int = Field(default=2, gt=0, description="requests decoded in parallel")
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        default="auto", description="fp8 halves the KV cache's memory"
    )
    gpu_memory_utilization: float | None = Field(
        default=None, gt=0, le=1, description="share of GPU memory that vLLM may take"
    )


class Measurement(Section):
    """What measure_serving decodes."""

    prompts: str = Field(
        default="resources/pico/prompts.jsonl",
        description="JSONL of chats: `messages`, and maybe `name`, `tools`, `enable_thinking`",
    )
    decode_tokens: tuple[int, ...] = Field(
        default=(50, 150, 300), description="lengths of the short, medium and long decode"
    )
    reply_tokens: int = Field(
        default=200, gt=0, description="longest reply where the model itself ends it"
    )
    parallel_requests: tuple[int, ...] = Field(
        default=(1, 2), description="requests at the same time"
    )
    speculative_tokens: tuple[int, ...] = Field(
        default=(0, 1, 3), description="MTP drafts a step, one server start each; 0 is the baseline"
    )


class AgentTasks(Section):
    """The agent capability test."""

    speculative_tokens: int = Field(
        default=3, ge=0, description="MTP drafts a step while the tasks run"
    )
    required_passes: int = Field(
        default=5, ge=0, description="with fewer tasks passed the stage fails, and so the release"
    )


class Perplexity(Section):
    """Held-out text on which source and release are compared."""

    dataset: str = Field(
        default="resources/pico/heldout.jsonl", description="JSONL of chats: `messages`, `tools`"
    )
    samples: int = Field(default=64, gt=0, description="number of chats, taken from the start")
    max_tokens: int = Field(
        default=1000, gt=1, description="longer chats are cut to this many tokens"
    )


class Card(Section):
    """What the model card says that can't be measured."""

    title: str = Field(
        default="Pico-Agent-NVFP4-TEXT-MTP", description="heading and name of the release"
    )
    repository: str = Field(
        default="example/Pico-Agent-NVFP4-TEXT-MTP",
        description="owner/name under which it is published",
    )
    summary: str = Field(
        default="The pipeline's embedded pair of tiny models, released as the real ones are.",
        description="one paragraph below the heading",
    )
    license: str = Field(
        default="apache-2.0", description="licence identifier of the Hugging Face hub"
    )
    parent: str = Field(
        default="example/pico-agent", description="repository that the weights come from"
    )
    base: str = Field(
        default="example/pico-base", description="repository that the MTP head comes from"
    )
    tags: tuple[str, ...] = Field(
        default=("nvfp4", "modelopt", "mtp", "speculative-decoding", "text-only", "tool-calling"),
        description="tags of the hub",
    )
    hardware_target: str = Field(
        default="Any: a model this small shows the pipeline, not a GPU.",
        description="the cards that the release is meant for",
    )
    launches: tuple[Launch, ...] = Field(
        default=(
            Launch(
                name="pico",
                title="Pico launch",
                max_model_len=1024,
                max_num_seqs=2,
            ),
        ),
        description="launches that the card explains, the recommended one first",
    )


class Config(Section):
    """One release."""

    release: str = Field(
        default="pico-agent-nvfp4-text-mtp",
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        description="name of the folder below results/",
    )
    source: str = Field(
        default="resources/pico/pico-agent",
        description="bf16 checkpoint: a local folder, or hf://owner/name@<40-digit commit>",
    )
    donor: str = Field(
        default="resources/pico/pico-base", description="checkpoint that the MTP tensors come from"
    )
    text_only: bool = Field(default=True, description="strip the vision tower")
    lint: Lint = Lint()
    quantization: Quantization = Quantization()
    serving: Serving = Serving()
    measurement: Measurement = Measurement()
    agent_tasks: AgentTasks = AgentTasks()
    perplexity: Perplexity = Perplexity()
    card: Card = Card()


def load_config(values: dict[str, Any], *, where: object) -> Config:
    """Check configuration values, all errors at once.

    Args:
        values: Parsed YAML.
        where: The file to name in errors.

    Raises:
        ScionError: An unknown or mistyped key or a value of the wrong kind; lists each.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']} "
            f"(found {str(item['input'])[:80]})"
            for item in error.errors()
        ]
        raise ScionError(
            "the configuration is not valid",
            where=where,
            expected="keys and values as config/default.yaml explains them",
            found="; ".join(lines),
            hint="compare the named keys with config/default.yaml",
        ) from error


def read_config(path: Path) -> Config:
    """Read and check a YAML file; what it leaves out has the default's value."""
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ScionError(
            "the configuration can't be read",
            where=path,
            expected="a YAML file",
            found=error,
            hint="start from a copy of config/default.yaml",
        ) from error
    return load_config(values or {}, where=path)


def default_yaml() -> str:
    """The text of config/default.yaml: every key with its default and what it means."""
    lines = [
        "# Generated from workflow/scion/config.py by `scion config --write`; don't edit.",
        "# A release's own file (config/releases/) names only what differs from this.",
    ]
    return "\n".join(lines + _yaml_lines(Config(), indent=0)) + "\n"


def _yaml_lines(section: Section, *, indent: int) -> list[str]:
    lines: list[str] = []
    pad = " " * indent
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            lines += ["", f"{pad}# {type(value).__doc__}", f"{pad}{name}:"]
            lines += _yaml_lines(value, indent=indent + 2)
            continue
        plain = section.model_dump(mode="json")[name]
        text = yaml.safe_dump({name: plain}, sort_keys=False, width=1000, allow_unicode=True)
        lines.append(f"{pad}# {info.description}")
        lines += [pad + line for line in text.rstrip().splitlines()]
    return lines
