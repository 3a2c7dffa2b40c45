"""Configuration of the public benchmarks that the release is scored on."""

from typing import Literal

from pydantic import Field

from scion.common.section import Section
from scion.evaluation.record_file import RecordFile

IFEVAL_RECORD = RecordFile("evaluate_ifeval", "ifeval.json")
BFCL_RECORD = RecordFile("evaluate_bfcl", "bfcl.json")


def answers_file(record: RecordFile) -> str:
    """The file of JSON lines beside a record of these benchmarks, an answer each."""
    return f"{record.name.removesuffix('.json')}_answers.jsonl"


BfclCategory = Literal["simple_python", "multiple", "parallel", "irrelevance"]


class Ifeval(Section):
    """IFEval: instructions whose following a program can check."""

    enabled: bool = Field(default=True, description="false leaves this evaluation out")
    dataset: str = Field(
        default="resources/pico/ifeval.jsonl",
        description="JSONL in IFEval's form, or hf://datasets/google/IFEval@commit",
    )
    limit: int | None = Field(
        default=None, gt=0, description="number of prompts, taken from the start; null takes all"
    )
    enable_thinking: bool = Field(
        default=False, description="whether the model thinks first; thinking is not scored"
    )
    max_tokens: int = Field(
        default=64, gt=0, description="longest answer, thinking included; lm-eval's own is 1280"
    )


class Bfcl(Section):
    """Berkeley Function Calling Leaderboard: tool calls, compared with known answers."""

    enabled: bool = Field(default=True, description="false leaves this evaluation out")
    categories: tuple[BfclCategory, ...] = Field(
        default=("simple_python", "multiple", "parallel", "irrelevance"),
        min_length=1,
        description="categories of one turn; irrelevance offers tools that do not help",
    )
    limit: int | None = Field(
        default=4,
        gt=0,
        description="cases of each category, the first that fit the context; null takes all",
    )
    skip_longer_than_context: bool = Field(
        default=True,
        description="leave out, count and name cases that do not fit; false makes them an error",
    )
    enable_thinking: bool = Field(default=False, description="whether the model thinks first")
    max_tokens: int = Field(
        default=64, gt=0, description="longest answer, thinking and tool calls included"
    )
