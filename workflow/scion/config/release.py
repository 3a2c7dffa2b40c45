"""The configuration of a release, as one typed model: frozen, no unknown keys, units in the names.

`config/default.yaml` is generated from this model (`scion config`). Each section
stands in the package that owns it, in a `config.py`: a stage imports those that it reads, so that
neither another section's value nor its code changes what the stage has made.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from scion.architectures.families import offline_families
from scion.artifacts.config import Scratch
from scion.artifacts.environments import VARIABLE, not_installed
from scion.checkpoint.config import Mtp
from scion.checkpoint.hub.location import HubRepository, LocalFolder, parse_location
from scion.checkpoint.parts_check import check_parts
from scion.checkpoint.places import Rows, check_places, of_key
from scion.checkpoint.preview import Preview
from scion.common.errors import ScionError
from scion.common.section import Section, named_in
from scion.common.section_errors import section_errors
from scion.common.strict_yaml import read_yaml
from scion.engines.config import PICO_LAUNCH, Launch, Serving
from scion.engines.vllm.cache_layout import require_context
from scion.evaluation.agent.config import AgentTasks
from scion.evaluation.family.config import ReleaseFamily
from scion.evaluation.harness.config import Bfcl, Ifeval
from scion.evaluation.images.config import Images
from scion.evaluation.quality.config import Quality
from scion.evaluation.serving.config import Measurement
from scion.evaluation.verdict.config import Thresholds
from scion.formats.modelopt import NVFP4
from scion.formats.spellings import DEFAULT_SPELLING, SPELLINGS
from scion.formats.stored_modules import head_algorithm
from scion.healing.config import Healing
from scion.lint.config import Lint
from scion.quantization.config import Quantization
from scion.quantization.head_groups import refuse_experts
from scion.quantization.variants_config import Comparison
from scion.report.attestation.config import TAG, Attestations, require_public_key
from scion.report.config import Card

SpellingName = Annotated[str, named_in(SPELLINGS)]
_ENGINES = Lint.model_fields["engines"].default
_PICO = "resources/pico/"
# What a card says of the embedded pair, and nothing else can be.
_OF_CARD = ("title", "repository", "summary", "parent", "base", "hardware_target")


class Config(Section):
    """One release."""

    release: str = Field(
        default="pico-agent-nvfp4-text-mtp",
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        max_length=96,
        description="name of the folder below results/",
    )
    store: tuple[str, ...] = Field(
        default=("results/.store",),
        min_length=1,
        description="where artifacts are kept: a folder, which releases, checkouts and users may "
        "share; then stores elsewhere to take from and to add to, such as s3://bucket/prefix; "
        "nothing is added to one with ?readonly behind it",
    )
    scratch: Scratch = Scratch()
    source: str = Field(
        default="resources/pico/pico-agent",
        description="bf16 checkpoint: a local folder, or hf://owner/name@<40-digit commit>",
    )
    donor: str | None = Field(
        default="resources/pico/pico-base",
        description="checkpoint that the MTP tensors come from; null where mtp.origin is not donor",
    )
    mtp: Mtp = Mtp()
    text_only: bool = Field(default=True, description="strip the vision tower")
    spelling: SpellingName = Field(
        default=DEFAULT_SPELLING.name,
        description="how the release names and declares its quantized tensors: modelopt, which all "
        "engines read, or compressed-tensors, which vLLM and SGLang read; the numbers are the same",
    )
    lint: Lint = Lint()
    quantization: Quantization = Quantization()
    healing: Healing = Healing()
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
    images: Images = Images()
    verdict: Thresholds = Thresholds()
    comparison: Comparison = Comparison()
    family: ReleaseFamily | None = Field(
        default=None,
        description="the family that the release is made and compared with: see "
        "docs/guides/families.md; null: it is alone",
    )
    card: Card = Card()
    attestations: Attestations = Attestations()

    @property
    def tagged_card(self) -> Card:
        """The card's section, with the tag of releases that say how they are made again."""
        tags = self.card.tags
        if not self.attestations.enabled or TAG in tags:
            return self.card
        return self.card.model_copy(update={"tags": (*tags, TAG)})

    @field_validator("store", mode="before")
    @classmethod
    def _list_stores(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"a list of locations is expected: write `store: [{value}]`")
        return value

    @field_validator("store")
    @classmethod
    def _name_stores(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(location.strip() for location in value):
            raise ValueError("a location is empty; the default is results/.store")
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

    @model_validator(mode="after")
    def _ask_what_sees(self) -> "Config":
        if self.images.enabled and self.text_only:
            raise ValueError(
                "images.enabled: a text-only release has no vision tower; set text_only: false"
            )
        return self

    @model_validator(mode="after")
    def _judge_beside_source(self) -> "Config":
        if self.verdict.enabled and self.serving.server_url is not None:
            raise ValueError(
                "verdict.enabled: release and source are served in turn, and serving.server_url "
                "names one server; set it to null"
            )
        return self

    @model_validator(mode="after")
    def _spell_for_engines(self) -> "Config":
        kinds = self.quantization.algorithms
        head = head_algorithm(self.mtp.quantize, self.quantization.four_bits)
        usual = (DEFAULT_SPELLING.name, (NVFP4,), None, _ENGINES)
        if (self.spelling, kinds, head, self.lint.engines) == usual:
            return self
        # Late: every plan reads a configuration, and most are of what all these engines read.
        from scion.engines.registry.spellings import unread

        spelling = SPELLINGS[self.spelling]
        if refusals := unread(spelling, kinds, self.lint.engines, head=head):
            raise ValueError(f"spelling {self.spelling}: {'; '.join(refusals)}")
        return self

    @model_validator(mode="after")
    def _name_places(self) -> "Config":
        for key, location in self.checkpoints():
            place = _place(key, location)
            if isinstance(place, HubRepository) and place.kind != "model":
                raise ValueError(f"{key}: {location} is a data set, and no checkpoint")
        for key, location in self.data():
            place = _place(key, location)
            if isinstance(place, HubRepository) and place.kind != "dataset":
                raise ValueError(f"{key}: {location} is a model; a data set is hf://datasets/…")
        return self

    @model_validator(mode="after")
    def _name_one_head(self) -> "Config":
        faults = self.mtp.faults(self.donor)
        if self.mtp.origin == "donor" and self.card.base is None:
            faults.append("card.base: null, and mtp.origin is donor: name the head's repository")
        if self.mtp.origin != "donor" and self.card.base is not None:
            faults.append(
                f"card.base: {self.card.base} is named, and mtp.origin is {self.mtp.origin}: no "
                "head comes from it; set `base: null`"
            )
        if self.mtp.origin == "none" and self.healing.enabled:
            faults.append(
                "healing.enabled: mtp.origin is none: there is no head to train; set "
                "`healing: {enabled: false}`"
            )
        if self.mtp.quantize != "none" and not self.healing.enabled:
            faults.append(
                f"mtp.quantize: {self.mtp.quantize}, and healing.enabled is false: the scales of "
                "the head's inputs come from training it; set `healing: {enabled: true}`, or "
                "`quantize: none`"
            )
        faults += self._drafts() if self.mtp.origin == "none" else []
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _drafts(self) -> Iterator[str]:
        """Where a release without a head is to draft."""
        for number, launch in enumerate(self.launches):
            if launch.speculative_tokens:
                yield (
                    f"launches.{number}.speculative_tokens: {launch.speculative_tokens}, and "
                    "mtp.origin is none: without a head nothing drafts; set 0"
                )
        if any(self.measurement.drafts):
            yield (
                "measurement.speculative_tokens: drafts are asked for, and mtp.origin is none; "
                "set [0]"
            )
        if self.comparison.acceptance_prompts is not None:
            yield "comparison.acceptance_prompts: mtp.origin is none: nothing drafts; set null"

    @model_validator(mode="after")
    def _name_its_own(self) -> "Config":
        if self.source.startswith(_PICO):
            return self
        if left := [key for key, value in self._named() if value]:
            raise ValueError(
                f"{', '.join(left)}: those of the embedded pair; a release of {self.source} names "
                "its own"
            )
        return self

    def _named(self) -> Iterator[tuple[str, bool]]:
        """What a release says and is measured with, and whether it is the embedded pair's own."""
        yield "release", self.release == Config.model_fields["release"].default
        yield "launches", self.launches == (PICO_LAUNCH,)
        embedded = Card()
        for key in _OF_CARD:
            value = getattr(self.card, key)
            its_own = value is not None and value.startswith("example/")
            yield f"card.{key}", value == getattr(embedded, key) or its_own
        note = self.card.harness_only_note
        yield "card.harness_only_note", note == embedded.harness_only_note
        yield "donor", (self.donor or "").startswith(_PICO)
        # Where scores are said to prove nothing of the model, any data will do.
        if note is None:
            for key, location in (("quality.base", self.quality.base), *self.data()):
                yield key, (location or "").startswith(_PICO)

    def checkpoints(self) -> list[tuple[str, str]]:
        """Key and location of every checkpoint that is fetched."""
        places = {"source": self.source, "donor": self.donor, "quality.base": self.quality.base}
        return [(key, location) for key, location in places.items() if location is not None]

    def data(self) -> list[tuple[str, str]]:
        """Key and location of all data that the model is calibrated, measured and scored with."""
        quantization = self.quantization
        sets = quantization.calibration.sets if quantization.calibrated else ()
        data = [
            (f"quantization.calibration.sets.{number}.dataset", each.dataset)
            for number, each in enumerate(sets)
        ]
        replies = self.healing.replies
        if self.healing.enabled:
            data += [("healing.replies.prompts", replies.prompts)]
            if replies.dialogues is not None:
                data += [("healing.replies.dialogues", replies.dialogues)]
            if replies.off_domain is not None:
                data += [("healing.replies.off_domain", replies.off_domain)]
        data += [("measurement.prompts", self.measurement.prompts)]
        data += [("quality.chats", self.quality.chats)]
        data += [("quality.texts", self.quality.texts)] if self.quality.texts else []
        data += [("ifeval.dataset", self.ifeval.dataset)] if self.ifeval.enabled else []
        data += [("images.questions", self.images.questions)] if self.images.enabled else []
        return data

    def rows(self) -> dict[str, Rows]:
        """By the key of data, how many rows are taken; a file with fewer stops its stage."""
        calibration = "quantization.calibration.sets"
        rows = {
            f"{calibration}.{number}.dataset": (f"{calibration}.{number}.samples", each.samples)
            for number, each in enumerate(self.quantization.calibration.sets)
        }
        # Of texts it is the most that are taken.
        rows["quality.chats"] = ("quality.samples", self.quality.samples)
        if self.healing.replies.limit is not None:
            rows["healing.replies.prompts"] = (
                "healing.replies.limit",
                self.healing.replies.limit,
            )
        if self.ifeval.limit is not None:
            rows["ifeval.dataset"] = ("ifeval.limit", self.ifeval.limit)
        if self.images.limit is not None:
            rows["images.questions"] = ("images.limit", self.images.limit)
        return rows

    def launch(self, name: str) -> Launch:
        """The launch of that name, one of `launches`."""
        return next(launch for launch in self.launches if launch.name == name)


def _place(key: str, text: str) -> LocalFolder | HubRepository:
    if not text:
        raise ValueError(f"{key}: no location")
    try:
        return parse_location(text)
    except ScionError as error:
        raise ValueError(f"{key}: {error.found}, expected {error.expected}") from error


def load_config(values: Any, *, where: object) -> Config:
    """Check configuration values, all errors at once.

    Args:
        values: Parsed YAML.
        where: The file to name in errors.

    Raises:
        ScionError: An unknown or mistyped key or a value of the wrong kind; lists each.
    """
    try:
        return Config.model_validate(values)
    except (ValidationError, RecursionError) as error:
        told = section_errors(error, Config) if isinstance(error, ValidationError) else []
        raise ScionError(
            "the configuration is not valid",
            where=where,
            expected="keys and values as config/default.yaml explains them",
            found="; ".join(told) or "values nested too deeply",
            hint="compare the named keys with config/default.yaml",
        ) from error


def read_values(path: Path) -> dict[str, Any]:
    """The values of a YAML file, not yet checked.

    Raises:
        ScionError: It can't be read, or holds no mapping.
    """
    try:
        values = read_yaml(path)
        if not isinstance(values, dict | None):
            raise ValueError(f"a {type(values).__name__} instead of keys and values")
    except (OSError, ValueError) as error:
        raise ScionError(
            "the configuration can't be read",
            where=path,
            expected="a YAML file of keys and values in UTF-8, each key once",
            found=(error.strerror or error) if isinstance(error, OSError) else error,
            hint="start from a copy of a file in config/releases/",
        ) from error
    return values or {}


def check_sources(config: Config, *, where: object, hub: bool) -> list[str]:
    """As `scion.checkpoint.places.check_places`, of all that a configuration names."""

    def judge(seen: Mapping[str, Preview]) -> None:
        check_parts(seen, config.mtp, tower=not config.text_only)
        if "source" in seen and config.healing.enabled:
            _require_healable(seen["source"])
        if "source" in seen and config.mtp.quantize != "none":
            source = seen["source"]
            refuse_experts(source.expected, where=f"mtp.quantize: {source.location}")
        if "source" in seen and not config.serving.stretches_context():
            for number, launch in enumerate(config.launches):
                with of_key(f"launches.{number}.max_model_len"):
                    require_context(launch, seen["source"].text, hint="lower it to {longest}")

    if config.attestations.public_key is not None:
        require_public_key(config.attestations.public_key)
    return check_places(
        config.checkpoints(),
        config.data(),
        license=config.card.license,
        where=where,
        hub=hub,
        rows=config.rows(),
        judge=judge,
    )


def _require_healable(source: Preview) -> None:
    """Refuse to train a head of a family that nothing here runs."""
    families = offline_families()
    if source.expected.family not in families:
        raise ScionError(
            "an MTP head of this architecture can't be trained here",
            where=f"healing.enabled: {source.location}",
            expected=", ".join(family.title for family in families),
            found=source.expected.family.title,
            hint="set `healing: {enabled: false}`",
        )


def lacking_environment(config: Config) -> ScionError | None:
    """The error of a run on this machine that starts a server, if its environment is not here.

    Returns:
        The error; None where no server is started, or where nothing says what is installed:
        outside of a project's folder.
    """
    folder = f"envs/{config.serving.environment}"
    known = VARIABLE in os.environ or Path(folder).is_dir()
    if config.serving.server_url is not None or not known:
        return None
    return not_installed(folder)


def default_yaml() -> str:
    """The text of config/default.yaml: every key with its default and what it means."""
    lines = [
        "# Generated from workflow/scion/config/release.py by `scion config --write`; don't edit.",
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
