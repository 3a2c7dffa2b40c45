"""Configuration of lint."""

from typing import Annotated

from pydantic import Field

from scion.common.section import Section


class Lint(Section):
    """What lint_source and verify_release hold a checkpoint against."""

    engines: tuple[str, ...] = Field(
        default=("vllm==0.32.0", "vllm", "sglang"),
        min_length=1,
        description="engines to serve with, as `scion lint --engine` takes them: the locked "
        "release that measures, and the newest known ones",
    )
    tensor_parallel: tuple[Annotated[int, Field(gt=0, le=1 << 10)], ...] = Field(
        default=(1,), min_length=1, description="numbers of GPUs to split the release over"
    )
    ignore: tuple[str, ...] = Field(
        default=(), description="rules to leave out: codes or names of `scion lint --list`"
    )
