"""What is wrong with the values of a section, in the words of its keys."""

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from scion.common.section import Section

_MOST_ERRORS = 20


def section_errors(error: ValidationError, section: type[Section]) -> list[str]:
    """One text for each wrong key, with the nearest known one where there is no such key.

    Args:
        error: What validation of the section raised.
        section: The section.
    """
    details = error.errors()
    places = [detail["loc"] for detail in details]
    told = [detail for detail in details if not _follows(detail, places)]
    return [_told(detail, section) for detail in told[:_MOST_ERRORS]]


def _follows(detail: ErrorDetails, places: Sequence[tuple[int | str, ...]]) -> bool:
    """Whether a list is only too short because items of it are wrong."""
    place = detail["loc"]
    inside = (other for other in places if other[: len(place)] == place and other != place)
    return detail["type"] == "too_short" and any(inside)


def _told(detail: ErrorDetails, section: type[Section]) -> str:
    place = ".".join(str(part)[:80] for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message += _meant(detail["loc"], section)
    found = detail["input"]
    # Of a section that is wrong as a whole the message says which key is.
    shown = "" if isinstance(found, dict | Section) else f" (found {str(found)[:80]})"
    return f"{place}: {message}{shown}" if place else f"{message}{shown}"


def _meant(place: tuple[int | str, ...], section: type[Section]) -> str:
    holder: type[Section] | None = section
    for part in place[:-1]:
        # Numbers are places in a list of sections, other names those of a mapping.
        field = holder.model_fields.get(part) if isinstance(part, str) and holder else None
        holder = _section_of(field.annotation) if field else holder
    near = difflib.get_close_matches(str(place[-1])[:80], holder.model_fields if holder else (), 1)
    return f", did you mean {near[0]}?" if near else ""


def _section_of(annotation: Any) -> type[Section] | None:
    """The section in a field's type, such as the launch of a tuple of launches."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = map(_section_of, get_args(annotation))
    return next((kind for kind in found if kind is not None), None)
