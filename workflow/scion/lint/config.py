"""Configuration of lint."""

from typing import Annotated

from pydantic import Field, field_validator

from scion.common.errors import ScionError
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

    @field_validator("engines")
    @classmethod
    def _name_known_engines(cls, engines: tuple[str, ...]) -> tuple[str, ...]:
        if engines == cls.model_fields["engines"].default:
            return engines
        # Late, as the rules below: every plan reads a configuration, few name others.
        from scion.engines.registry.engines import parse_engines

        try:
            parse_engines(engines)
        except ScionError as error:
            raise _unknown(error, error.found) from error
        return engines

    @field_validator("ignore")
    @classmethod
    def _name_known_rules(cls, ignore: tuple[str, ...]) -> tuple[str, ...]:
        if not ignore:
            return ignore
        from scion.lint.all_rules import RULES
        from scion.lint.rule import select_rules

        try:
            select_rules(RULES, ignore=ignore)
        except ScionError as error:
            raise _unknown(error, error.where) from error
        return ignore


def _unknown(error: ScionError, name: str) -> ValueError:
    return ValueError(f"{name}: {error.problem}, expected {error.expected}")
