"""The base of every part of the configuration."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

MAX_NUMBER = 10**9
"""No setting counts so far: a number beyond it is a slip."""
MAX_CHARACTERS = 4000


class Section(BaseModel):
    """A part of the configuration: immutable, and a mistyped key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _sensible(cls, values: Any) -> Any:
        """Refuse what fits a type and makes no sense: yes for a number, control characters."""
        if isinstance(values, Mapping):
            for key, value in values.items():
                info = cls.model_fields.get(key) if isinstance(key, str) else None
                choices = (info.annotation, *get_args(info.annotation)) if info else (bool,)
                if isinstance(value, bool) and bool not in choices:
                    raise ValueError(f"{key}: true and false are no value of it")
                for part in value if isinstance(value, list | tuple) else (value,):
                    if fault := _fault(part):
                        raise ValueError(f"{key}: {fault}")
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _true_or_false(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what is only like a boolean: a text such as yes, or 1."""
        field = cls.model_fields.get(info.field_name or "")
        if field is not None and field.annotation is bool and not isinstance(value, bool):
            raise PydanticKnownError("bool_type")
        return value


def named_in(table: Mapping[str, Any]) -> BeforeValidator:
    """For a field that names a row of a table; the error is that of a choice, naming them all."""

    def known(name: Any) -> Any:
        if not isinstance(name, str) or name not in table:
            *others, last = map(repr, table)
            raise PydanticKnownError(
                "literal_error", {"expected": f"{', '.join(others)} or {last}"}
            )
        return name

    return BeforeValidator(known)


def _fault(value: Any) -> str:
    if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        return f"no setting is as large as {str(value)[:40]}; the most is {MAX_NUMBER}"
    if isinstance(value, str):
        if len(value) > MAX_CHARACTERS:
            return f"{len(value)} characters, more than the {MAX_CHARACTERS} that a text may have"
        if not value.replace("\n", "").isprintable():
            return "a character that can't be printed"
    return ""
