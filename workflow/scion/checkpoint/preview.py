"""What is known of a checkpoint before any of its weights is read or moved: its small files.

A folder is looked at wherever it is named; a repository takes a listing and a few kilobytes.
"""

from dataclasses import dataclass

from scion.architectures.config_keys import Keys
from scion.architectures.inventory import Inventory, inventory, language_keys
from scion.checkpoint.folder_source import FolderSource
from scion.checkpoint.hub.location import HubRepository, LocalFolder, parse_location
from scion.checkpoint.shards import CONFIG, parse_object
from scion.checkpoint.source import Source
from scion.common.errors import ScionError

_README = "README.md"
_MAX_FRONT_MATTER = 1 << 16


@dataclass(frozen=True)
class Preview:
    """A checkpoint that the workflow can take, as far as its small files tell.

    Attributes:
        location: Where it is.
        source: Its files.
        expected: The tensors that its config.json implies.
        text: The language model's keys of its config.json.
        license: What its README.md declares; None where it says nothing.
    """

    location: str
    source: Source
    expected: Inventory
    text: Keys
    license: str | None


def preview(location: str) -> Preview:
    """Look at a checkpoint's config.json and README.md.

    Raises:
        ScionError: It is not there, or not pinned; the hub refuses; a link leaves the folder; its
            architecture is not one that releases are made of.
    """
    source = open_pinned(location)
    expected, text = _supported(source)
    return Preview(location, source, expected, text, _license(source))


def open_pinned(location: str) -> Source:
    """A local folder, or a repository of the hub at its commit.

    Raises:
        ScionError: It is not there, or not pinned; the hub refuses; a link leaves the folder.
    """
    place = parse_location(location)
    if isinstance(place, HubRepository):
        place.require_pinned()
        # The hub's client takes half a second to import, which a folder should not cost.
        from scion.checkpoint.hub.source import HubSource

        return HubSource(place)
    return FolderSource(local_folder(place).path)


def local_folder(place: LocalFolder) -> LocalFolder:
    """Return what was given.

    Raises:
        ScionError: There is no such folder.
    """
    if not place.path.is_dir():
        raise ScionError(
            "the checkpoint's folder is not there",
            where=place.path,
            expected="a folder with config.json and safetensors files",
            found="a file" if place.path.exists() else "nothing",
            hint="correct the location in the config; paths count from the project's folder",
        )
    return place


def supported_family(source: Source) -> str:
    """Title of the family that a checkpoint's config.json names.

    Raises:
        ScionError: There is no config.json, or the workflow can't make a release of it.
    """
    return _supported(source)[0].family.title


def _supported(source: Source) -> tuple[Inventory, Keys]:
    """What a checkpoint's config.json implies, and the language model's keys of it."""
    raw = source.read(CONFIG) if CONFIG in source.files else None
    if raw is None:
        raise ScionError(
            "not a checkpoint",
            where=source.name,
            expected=f"{CONFIG} at its top",
            found=", ".join(sorted(source.files)[:12]) or "no file",
            hint="name the folder or repository that holds config.json and *.safetensors",
        )
    where = f"{source.name}/{CONFIG}"
    config = parse_object(raw, where=where)
    implied = inventory(config, where=where)
    return implied, language_keys(config, implied.family, where=where)


def _license(source: Source) -> str | None:
    """The licence in the front matter of README.md, as the hub reads it."""
    raw = source.read(_README) if _README in source.files else None
    text = (raw or b"")[:_MAX_FRONT_MATTER].decode(errors="replace")
    if not text.startswith("---\n"):
        return None
    lines = text.split("\n")[1:]
    front = lines[: lines.index("---")] if "---" in lines else []
    # A line of its own, so that nothing of a stranger's YAML need be parsed but one scalar.
    for line in front:
        key, _, value = line.partition(":")
        if key == "license":
            name = value.strip().strip("'\"")
            return name or None
    return None
