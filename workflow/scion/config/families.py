"""A configuration of several releases: what they share, and what each adds to it.

    family:
      name: pico
      title: The pico family
      baseline: pico-base-nvfp4-ct
    serving: …                              what all releases have, unless they say otherwise
    releases:
      - config/releases/pico-base.yaml      the file of a single release, or
      - release: …                          its keys

A key of a release takes the place of the shared one; where both are mappings they are merged key by
key, as Snakemake merges config files.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from scion.common.errors import ScionError
from scion.config.release import Config, load_config, read_values

_Values = Mapping[str, Any]
RELEASES = "releases"
# What has to be the same, or the releases are not compared on one server and with one work.
_SHARED = ("store", "scratch", "family", "serving")
_WORK = {
    "measurement": ("prompts", "decode_tokens", "parallel_requests", "repeats", "reply_tokens"),
    "quality": ("chats", "texts", "samples"),
    "agent_tasks": ("cases",),
}


def read_configs(path: Path) -> list[Config]:
    """The releases of a YAML file, in its order; what it leaves out has the default's value.

    Raises:
        ScionError: As `load_configs`, or the file can't be read.
    """
    return load_configs(read_values(path), where=path)


def read_config(path: Path) -> Config:
    """The release of a YAML file that has one.

    Raises:
        ScionError: As `read_configs`, or the file has several.
    """
    configs = read_configs(path)
    if len(configs) > 1:
        raise ScionError(
            "the configuration has several releases, and one is wanted",
            where=path,
            expected="the file of a single release, such as those in config/releases/",
            found=f"{len(configs)}: {', '.join(config.release for config in configs)}",
            hint="name the file of one of them",
        )
    return configs[0]


def load_configs(values: _Values, *, where: object) -> list[Config]:
    """Check the values of a configuration of one release or several.

    Args:
        values: Parsed YAML.
        where: The file to name in errors.

    Raises:
        ScionError: A release is not valid, or two of them can't be made in one run.
    """
    if RELEASES not in values:
        config = load_config(values, where=where)
        if config.family is not None:
            raise _wrong(where, f"`{RELEASES}`, the list of its releases, beside `family`", None)
        return [config]
    shared = {key: value for key, value in values.items() if key != RELEASES}
    entries = _entries(values[RELEASES], where)
    configs = [load_config(_merged(shared, own), where=f"{where}: {name}") for name, own in entries]
    _refuse_twice([config.release for config in configs], [name for name, _ in entries], where)
    for (name, _), config in zip(entries, configs, strict=True):
        _require_shared(config, configs[0], where=f"{where}: {name}")
    _require_family(configs, where)
    return configs


def _entries(listed: Any, where: object) -> list[tuple[str, _Values]]:
    """Each release with the name that errors give it, and its own values."""
    if not isinstance(listed, list) or not listed:
        raise _wrong(where, "a list of config files, or of keys and values", listed)
    entries: list[tuple[str, _Values]] = []
    files: list[str] = []
    for number, entry in enumerate(cast("list[Any]", listed)):
        name = f"{RELEASES}.{number}"
        if isinstance(entry, str):
            files.append(str(Path(entry)))
            entries.append((f"{name} ({entry})", read_values(Path(entry))))
        elif isinstance(entry, dict):
            entries.append((name, cast("_Values", entry)))
        else:
            raise _wrong(f"{where}: {name}", "a config file, or keys and values", entry)
    if twice := next(_repeated(files), None):
        raise ScionError(
            "a family names a release twice",
            where=where,
            expected="each config file once",
            found=f"{twice}, {files.count(twice)} times",
            hint=f"remove all but one of them from `{RELEASES}`",
        )
    return entries


def _merged(shared: _Values, own: _Values) -> dict[str, Any]:
    result = dict(shared)
    for key, value in own.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merged(cast("_Values", below), cast("_Values", value))
        result[key] = value
    return result


def _refuse_twice(releases: Sequence[str], entries: Sequence[str], where: object) -> None:
    twice = next(_repeated(releases), None)
    if twice is not None:
        named = [entry for entry, name in zip(entries, releases, strict=True) if name == twice]
        raise ScionError(
            "two releases of a family have one name",
            where=where,
            expected="a `release` of its own for each",
            found=f"{twice}: {', '.join(named)}",
            hint="name the folders below results/ differently",
        )


def _repeated(names: Sequence[str]) -> Iterator[str]:
    return (name for place, name in enumerate(names) if name in names[:place])


def _require_shared(config: Config, first: Config, *, where: object) -> None:
    """Refuse a release that can't be made and compared with the first in one run."""
    pairs = [(key, getattr(config, key), getattr(first, key)) for key in _SHARED]
    pairs += [
        (
            f"{section}.{key}",
            getattr(getattr(config, section), key),
            getattr(getattr(first, section), key),
        )
        for section, keys in _WORK.items()
        for key in keys
    ]
    for key, own, wanted in pairs:
        if own != wanted:
            raise ScionError(
                "the releases of a family are made in one run, and measured by one server",
                where=where,
                expected=f"the same {key} for all: {str(wanted)[:200]}",
                found=str(own)[:200],
                hint=f"set {key} beside `{RELEASES}`, and in none of them",
            )


def _require_family(configs: Sequence[Config], where: object) -> None:
    family, names = configs[0].family, [config.release for config in configs]
    if family is None:
        raise _wrong(where, f"`family`, with name, title and baseline, beside `{RELEASES}`", None)
    if family.baseline not in names:
        raise _wrong(f"{where}: family.baseline", f"one of {', '.join(names)}", family.baseline)
    if family.name in names:
        raise _wrong(
            f"{where}: family.name", "another name than a release's: both are folders", family.name
        )


def _wrong(where: object, expected: str, found: object) -> ScionError:
    return ScionError(
        "the configuration of a family is not valid",
        where=where,
        expected=expected,
        found="nothing" if found is None else str(found)[:200],
        hint="docs/guides/families.md shows one",
    )
