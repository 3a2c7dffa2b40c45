"""Configuration of evaluate_images."""

from pydantic import Field, field_validator

from scion.common.section import Section
from scion.evaluation.record_file import RecordFile

RECORD = RecordFile("evaluate_images", "images.json")


class Images(Section):
    """Questions about pictures, of a release that keeps its vision tower (text_only: false)."""

    enabled: bool = Field(
        default=False, description="ask the release and its bf16 source about pictures"
    )
    questions: str = Field(
        default="resources/prompts/pictures.jsonl",
        description="JSONL of chats with a picture in a data URL, words of a right answer "
        "(`right`) and of wrong ones (`wrong`)",
    )
    limit: int | None = Field(
        default=150, gt=1, description="number of questions, from the start; null: all of them"
    )
    max_tokens: int = Field(default=32, gt=0, le=1 << 16, description="longest answer")
    context_tokens: int = Field(
        default=2048,
        gt=0,
        le=1 << 24,
        description="context of the bf16 source's server, at most the launch's: picture, question "
        "and answer have room, and its KV cache stays small",
    )

    @field_validator("questions")
    @classmethod
    def _lie_here(cls, questions: str) -> str:
        """Pictures are part of the file, so it is no data set of the hub, which would be rows."""
        if questions.startswith("hf://"):
            raise ValueError(f"{questions} is on the hub; a file of this machine is expected")
        return questions
