"""Configuration of evaluate_quality."""

from pydantic import Field

from scion.common.section import Section
from scion.evaluation.record_file import RecordFile

RECORD = RecordFile("evaluate_quality", "quality.json")


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
        default=16,
        gt=1,
        le=1_000_000,
        description="number of chats, and of texts at most, from the start",
    )
    max_tokens: int = Field(
        default=1000, gt=1, le=1 << 24, description="longer ones are cut to so many tokens"
    )
    top_logprobs: int = Field(
        default=128,
        gt=1,
        le=1_000_000,
        description="most likely tokens asked for at each place; KL is a lower bound over them",
    )
    base: str | None = Field(
        default="resources/pico/pico-base",
        description="whole base model to compare with (the donor is fetched in part); null: none",
    )
