"""Text of the templates in `workflow/templates`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from scion.common.errors import ScionError


def render(template: Path, values: Mapping[str, Any], sections: Iterable[Path] = ()) -> str:
    """The text of a template, which may include those of `sections` by their file's name.

    Raises:
        ScionError: The template is faulty, or asks for a value that is not there.
    """
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({path.name: path.read_text() for path in sections}),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        return environment.from_string(template.read_text()).render(**values)
    except jinja2.TemplateError as error:
        raise ScionError(
            "a template can't be rendered",
            where=f"{getattr(error, 'name', None) or template}, line "
            f"{getattr(error, 'lineno', None) or 'unknown'}",
            expected="only values that the stages record",
            found=error,
            hint="compare the template with the stage of its name in workflow/scion/stages/",
        ) from error
