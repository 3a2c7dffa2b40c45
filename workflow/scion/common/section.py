"""The base of every part of the configuration."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: immutable, and a mistyped key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
