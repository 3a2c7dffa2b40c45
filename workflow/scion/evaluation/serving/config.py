"""Configuration of measure_serving."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from scion.common.section import Section
from scion.evaluation.record_file import RecordFile

RECORD = RecordFile("measure_serving", "serving.json")
MOST_DRAFTS = 8
"""The largest number of drafts that is predicted."""


class Measurement(Section):
    """What measure_serving decodes."""

    launches: tuple[str, ...] = Field(
        default=("pico",), min_length=1, description="launches to time, the first one's text counts"
    )
    prompts: str = Field(
        default="resources/pico/prompts.jsonl",
        description="JSONL of chats: `messages`, `set`, and maybe `name`, `tools`",
    )
    decode_tokens: tuple[Annotated[int, Field(gt=0, le=1 << 24)], ...] = Field(
        default=(32, 64, 128),
        min_length=1,
        description="lengths of the short, medium and long decode",
    )
    repeats: int = Field(
        default=6,
        ge=5,
        le=10_000,
        description="timings of each decode; six give a 95 % interval of a median",
    )
    reply_tokens: int = Field(
        default=100, gt=0, le=1 << 24, description="longest reply where the model itself ends it"
    )
    parallel_requests: tuple[Annotated[int, Field(gt=0, le=1 << 16)], ...] = Field(
        default=(1, 2), description="requests at the same time"
    )
    speculative_tokens: tuple[Annotated[int, Field(ge=0, le=32)] | Literal["best"], ...] = Field(
        default=(0, 1, 3),
        min_length=1,
        description="MTP drafts a step, one server start each; 0 is the baseline; best, beside two "
        f"others, is the number up to {MOST_DRAFTS} that those predict to be fastest, by their "
        "acceptance and the time of their steps; of the first launch alone",
    )

    @property
    def drafts(self) -> tuple[int, ...]:
        """The numbers of drafts that are listed."""
        return tuple(number for number in self.speculative_tokens if number != "best")

    @property
    def best_drafts(self) -> bool:
        """Whether the number that they predict to be fastest is measured as well."""
        return "best" in self.speculative_tokens

    @model_validator(mode="after")
    def _predict_from_two(self) -> "Measurement":
        if self.best_drafts and len(set(self.drafts)) < 2:
            raise ValueError(
                "speculative_tokens: best is predicted from two other numbers at least, such as "
                "[0, 1, 3, best]"
            )
        return self
