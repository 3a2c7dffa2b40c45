"""An MTP head that is put beside a quantized checkpoint: a donor's, or the source's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scion.architectures.families import in_head
from scion.architectures.inventory import (
    Inventory,
    declared_mtp_layers,
    inventory,
    with_mtp_layers,
)
from scion.artifacts.artifact import Artifact
from scion.checkpoint.folder_source import FolderSource
from scion.checkpoint.kinship import (
    SAMPLE,
    compare_samples,
    require_kin,
    sample_weights,
    tokens_of,
)
from scion.checkpoint.safetensors_file import copy_subset
from scion.checkpoint.shards import Checkpoint, index_headers, read_json
from scion.common.errors import ScionError
from scion.common.files import symlink_or_copy, write_json


def add_head(folder: Path, donor: Artifact) -> None:
    """Graft the head onto a checkpoint in a folder that is no artifact.

    Raises:
        ScionError: As `graft_mtp` does.
    """
    checkpoint = Checkpoint.open(folder)
    config = declare_head(checkpoint.config, donor, where=folder / "config.json")
    head = head_shards(donor)
    for shard in head:
        symlink_or_copy(donor.folder / shard, folder / shard)
    index_headers(folder, [*checkpoint.headers, *head])
    write_json(folder / "config.json", config)


def add_own_head(folder: Path, fixed: Artifact) -> None:
    """Put the source's own head beside a checkpoint in a folder that is no artifact.

    Args:
        folder: The checkpoint, without a head.
        fixed: The source with sound keys.
    """
    checkpoint, source = Checkpoint.open(folder), Checkpoint.open(fixed.folder)
    shards = list(checkpoint.headers)
    for number, (shard, header) in enumerate(source.headers.items(), start=1):
        if names := list(filter(in_head, header.tensors)):
            shards.append(f"model-mtp-{number:05}.safetensors")
            copy_subset(fixed.folder / shard, folder / shards[-1], names)
    layers = declared_mtp_layers(source.config, where=fixed.folder / "config.json")
    index_headers(folder, shards)
    write_json(folder / "config.json", with_mtp_layers(checkpoint.config, layers))


def declare_head(config: Mapping[str, Any], donor: Artifact, *, where: Path) -> dict[str, Any]:
    """A checkpoint's config.json with the donor's head declared in it.

    Args:
        config: Parsed config.json of the checkpoint.
        donor: The MTP tensors, as `fetch_donor` leaves them.
        where: The config.json, to name in errors.

    Raises:
        ScionError: The donor's tensors do not have the names, shapes and dtype that this
            config.json then implies.
    """
    declared = with_mtp_layers(config, _declared_layers(donor))
    _check_donor(donor, inventory(declared, where=where))
    return declared


def donor_kinship(source: Artifact, donor: Artifact, *, trusted: bool) -> dict[str, Any]:
    """How near the source's weights are to the donor's, as manifests have it.

    Args:
        source: The bf16 source, of sound keys.
        donor: The MTP head with a sample of its model's weights, as `fetch_donor` leaves them.
        trusted: Whether the configuration takes it, kin or not.

    Raises:
        ScionError: It is no kin, and not trusted.
    """
    sample: dict[str, tuple[float, ...]] = {
        label: tuple(numbers) for label, numbers in donor.read_json(SAMPLE).items()
    }
    own = sample_weights(FolderSource(source.folder), str(source.folder), tokens=tokens_of(sample))
    found = compare_samples(own, sample, trusted=trusted)
    require_kin(found, donor=donor.facts["location"])
    return found.record()


def head_shards(donor: Artifact) -> list[str]:
    """The files of a donor that hold its head."""
    return sorted({row["file"] for row in donor.tensors().values()})


def _declared_layers(donor: Artifact) -> int:
    where = donor.folder / "config.json"
    return declared_mtp_layers(read_json(where), where=where)


def _check_donor(donor: Artifact, expected: Inventory) -> None:
    """The donor may hold the head's experts stacked or one by one: so does the release then."""
    found = {name: (row["dtype"], tuple(row["shape"])) for name, row in donor.tensors().items()}
    missing = expected.mtp.keys() - expected.represented(found)
    of_head = {
        *missing,
        *(name for name in found if expected.represented([name]) <= expected.mtp.keys()),
    }
    wanted = {name: ("BF16", expected.storable[name]) for name in of_head}
    if found == wanted:
        return
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            config = read_json(donor.folder / "config.json")
            text = config.get("text_config", config)
            raise ScionError(
                "the donor's MTP head does not fit the target",
                where=f"{donor.facts['location']}: {name}",
                expected=_spell(wanted.get(name)),
                found=f"{_spell(found.get(name))} (donor hidden_size {text.get('hidden_size')})",
                hint="set `donor` to the base model that the source was fine-tuned from",
            )


def _spell(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "no such tensor" if tensor is None else f"{tensor[0]} {list(tensor[1])}"
