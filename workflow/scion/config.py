"""The configuration of a release, as one typed model: frozen, no unknown keys, units in the names.

`config/default.yaml` is generated from this model (`scion config`). Each section
stands in the package that owns it, in a `config.py`: a stage imports those that it reads, so that
neither another section's value nor its code changes what the stage has made.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from scion.common.errors import ScionError
from scion.common.files import read_regular
from scion.common.section import Section
from scion.engines.config import PICO_LAUNCH, Launch, Serving
from scion.evaluation.agent.config import AgentTasks
from scion.evaluation.harness.config import Bfcl, Ifeval
from scion.evaluation.quality.config import Quality
from scion.evaluation.serving.config import Measurement
from scion.lint.config import Lint
from scion.quantization.config import Quantization
from scion.quantization.variants_config import Comparison
from scion.report.config import Card

_MAX_BYTES = 1 << 18


class Config(Section):
    """One release."""

    release: str = Field(
        default="pico-agent-nvfp4-text-mtp",
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        description="name of the folder below results/",
    )
    store: tuple[str, ...] = Field(
        default=("results/.store",),
        min_length=1,
        description="where artifacts are kept: a folder, which releases, checkouts and users may "
        "share; then stores elsewhere to take from and to add to, such as s3://bucket/prefix; "
        "nothing is added to one with ?readonly behind it",
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
    launches: tuple[Launch, ...] = Field(
        default=(PICO_LAUNCH,),
        min_length=1,
        description="ways to serve the release, the recommended one first",
    )
    serving: Serving = Serving()
    measurement: Measurement = Measurement()
    agent_tasks: AgentTasks = AgentTasks()
    quality: Quality = Quality()
    ifeval: Ifeval = Ifeval()
    bfcl: Bfcl = Bfcl()
    comparison: Comparison = Comparison()
    card: Card = Card()

    @field_validator("store", mode="before")
    @classmethod
    def _list_stores(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"a list of locations is expected: write `store: [{value}]`")
        return value

    @model_validator(mode="after")
    def _name_known_launches(self) -> "Config":
        known = [launch.name for launch in self.launches]
        if len(set(known)) < len(known):
            raise ValueError(f"launches: two of them have one name: {', '.join(known)}")
        for key, names in (
            ("serving.launch", [self.serving.launch]),
            ("measurement.launches", self.measurement.launches),
        ):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"{key}: no launch {unknown[0]}; there are {', '.join(known)}")
        return self

    def launch(self, name: str) -> Launch:
        """The launch of that name, one of `launches`."""
        return next(launch for launch in self.launches if launch.name == name)


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
        values = yaml.safe_load(read_regular(path, limit=_MAX_BYTES).decode())
    except (OSError, ValueError, yaml.YAMLError) as error:
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
            lines += ["", f"{pad}# {(type(value).__doc__ or '').splitlines()[0]}", f"{pad}{name}:"]
            lines += _yaml_lines(value, indent=indent + 2)
            continue
        plain = section.model_dump(mode="json")[name]
        text = yaml.safe_dump({name: plain}, sort_keys=False, width=1000, allow_unicode=True)
        lines.append(f"{pad}# {info.description}")
        if isinstance(value, tuple) and value and isinstance(value[0], Section):
            lines += [
                f"{pad}#   {key}: {field.description}"
                for key, field in type(value[0]).model_fields.items()
            ]
        lines += [pad + line for line in text.rstrip().splitlines()]
    return lines
