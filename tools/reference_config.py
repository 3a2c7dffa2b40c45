"""The configuration as a Markdown page, from its models."""

import json
from collections.abc import Iterator
from typing import Any

from scion.config import Config

_HEAD = """\
# The configuration

Every key of a release's config file: what it is, what it may be, and its default. Generated from
the models in `workflow/scion/config/release.py` by `make reference`.
[config/default.yaml](../../config/default.yaml) is the same as a file, made by
`scion config --write`; a release's own file names only what differs from it, such as
[that of a 27B release](../../config/releases/carnice-v2-27b-nvfp4-text-mtp.yaml).
`scion config --check FILE` finds a mistyped key or a value of the wrong kind, all of them at once.
"""
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minItems": "at least {} of them",
    "pattern": "matches `{}`",
}
_KINDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}


def config_reference() -> str:
    """The page: the top level, then a section of it for each section of the configuration."""
    schema = Config.model_json_schema()
    defaults = Config().model_dump(mode="json")
    return "\n".join([_HEAD, *_section("", schema, defaults, schema["$defs"])]) + "\n"


def _section(
    name: str, schema: dict[str, Any], defaults: dict[str, Any], models: dict[str, Any]
) -> Iterator[str]:
    """A heading, the keys of the section, then the sections in it."""
    yield f"## {f'`{name}`' if name else 'Top level'}"
    yield ""
    if name:
        yield schema["description"].splitlines()[0]
        yield ""
    below: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    for key, value in schema["properties"].items():
        path = f"{name}.{key}" if name else key
        if (model := _model(value)) is not None:
            below.append((path, models[model], defaults[key]))
        elif (model := _model(value.get("anyOf", [{}])[0])) is not None:
            yield f"- `{key}`: {value['description']}. The keys below, or `null`, the default."
            below.append((path, models[model], {}))
        elif (model := _model(value.get("items", {}))) is not None:
            yield f"- `{key}`: {value['description']}. A list, of which each has the keys below."
            below.append((f"{path}[]", models[model], {}))
        else:
            yield _key(key, value, defaults, required=key in schema.get("required", ()))
    yield ""
    for path, model, values in below:
        yield from _section(path, model, values, models)


def _model(value: dict[str, Any]) -> str | None:
    """The name of the model that a value is, if it is one."""
    address = value.get("$ref")
    return address.rsplit("/", 1)[1] if address else None


def _key(key: str, value: dict[str, Any], defaults: dict[str, Any], *, required: bool) -> str:
    said = f"- `{key}`: {value['description']}. {_kind(value)}"
    if required:
        return f"{said}; required."
    default = defaults[key] if key in defaults else value.get("default")
    return f"{said}; default `{json.dumps(default, ensure_ascii=False)}`."


def _kind(value: dict[str, Any]) -> str:
    """What a value may be, in words."""
    words = _either(value)
    return words[:1].upper() + words[1:]


def _either(value: dict[str, Any]) -> str:
    return " or ".join(_plain(part) for part in value.get("anyOf", [value]))


def _plain(value: dict[str, Any]) -> str:
    if value.get("type") == "null":
        return "`null`"
    if "enum" in value:
        return "one of " + ", ".join(f"`{word}`" for word in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    words = (
        f"list of {_either(value['items'])}" if value["type"] == "array" else _KINDS[value["type"]]
    )
    bounds = [text.format(value[bound]) for bound, text in _BOUNDS.items() if bound in value]
    return ", ".join([words, *bounds])
