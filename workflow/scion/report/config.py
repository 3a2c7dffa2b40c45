"""Configuration of the model card."""

from pydantic import Field

from scion.common.section import Section

# https://huggingface.co/docs/huggingface_hub/package_reference/utilities (validate_repo_id)
_REPOSITORY = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}$"


class Card(Section):
    """What the model card says that can't be measured."""

    title: str = Field(
        default="Pico-Agent-NVFP4-TEXT-MTP",
        pattern=r"^[^\n]{1,200}$",
        description="heading and name of the release",
    )
    repository: str = Field(
        default="example/Pico-Agent-NVFP4-TEXT-MTP",
        pattern=_REPOSITORY,
        description="owner/name under which it is published",
    )
    summary: str = Field(
        default="The pipeline's embedded pair of tiny models, released as the real ones are.",
        description="one paragraph below the heading",
    )
    license: str = Field(
        default="apache-2.0",
        pattern=r"^[a-z0-9][a-z0-9.+-]{1,63}$",
        description="licence identifier of the Hugging Face hub",
    )
    parent: str = Field(
        default="example/pico-agent",
        pattern=_REPOSITORY,
        description="repository that the weights come from",
    )
    base: str | None = Field(
        default="example/pico-base",
        pattern=_REPOSITORY,
        description="repository that the MTP head comes from; null where mtp.origin is not donor",
    )
    tags: tuple[str, ...] = Field(
        default=("nvfp4", "modelopt", "mtp", "speculative-decoding", "text-only", "tool-calling"),
        description="tags of the hub",
    )
    hardware_target: str = Field(
        default="Any: a model this small shows the pipeline, not a GPU.",
        description="the cards that the release is meant for",
    )
    harness_only_note: str | None = Field(
        default="The model is tiny: scores of evaluations prove that the harness runs, and say "
        "nothing about a model.",
        description="said beside the scores where they prove the harness rather than the model",
    )
