"""Configuration of measure_serving."""

from typing import Annotated

from pydantic import Field

from scion.common.section import Section
from scion.evaluation.record_file import RecordFile

RECORD = RecordFile("measure_serving", "serving.json")


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
    speculative_tokens: tuple[Annotated[int, Field(ge=0, le=32)], ...] = Field(
        default=(0, 1, 3),
        min_length=1,
        description="MTP drafts a step, one server start each; 0 is the baseline",
    )
