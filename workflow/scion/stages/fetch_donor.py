"""Fetch the donor's MTP head, and nothing else of it: config.json and the ranges of `mtp.*`.

Of a 55 GB checkpoint that moves the headers of the shards in question and 0.8 GB. The tensors
become one safetensors file, which `graft_mtp` links into the release as it is.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from scion.architectures.family import Head
from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.hub.client import RangeReader
from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.checkpoint.safetensors_file import (
    Header,
    Tensor,
    encode_header,
    header_length,
    packed,
    parse_header,
)
from scion.checkpoint.shards import CONFIG, INDEX, SINGLE, parse_object, parse_weight_map
from scion.common.digest import digest_json, read_chunks
from scion.common.errors import ScionError
from scion.stages.common_options import run_stage, stage_parser
from scion.stages.fetch_source import add_location, planned_source, usable_files

STAGE = "fetch_donor"
MTP_SHARD = "model-mtp.safetensors"


class Reader(Protocol):
    """Byte ranges of a checkpoint's files, wherever they are."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is none of that name."""
        ...

    def stream(self, name: str, start: int, size: int) -> Iterator[bytes]:
        """The bytes [start, start + size) of a file."""
        ...


class _Folder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def size(self, name: str) -> int | None:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def stream(self, name: str, start: int, size: int) -> Iterator[bytes]:
        return read_chunks(self.folder / name, offset=start, size=size)


class _Hub:
    def __init__(self, repository: HubRepository) -> None:
        self.reader = RangeReader(repository)

    def size(self, name: str) -> int | None:
        file = self.reader.files.get(name)
        return None if file is None else file.size

    def stream(self, name: str, start: int, size: int) -> Iterator[bytes]:
        return self.reader.stream(name, start, size)


def fetch_donor(
    *, location: str, output: Output, environment: str, planned: tuple[str, str] | None = None
) -> Artifact:
    """Take the MTP tensors of a checkpoint.

    Args:
        location: A local folder, or `hf://owner/name@<commit>`.
        output: Where the artifact goes: config.json and `model-mtp.safetensors`.
        environment: Identity of the locked environment.
        planned: What the plan of this run calls the files of a local folder, and how they looked.

    Raises:
        ScionError: The donor has no MTP head, its files can't be read, or they changed since the
            run was planned.
    """
    place = parse_location(location)
    settings: dict[str, object] = {"location": location}
    # A repository counts by its commit, a local folder by what is taken of it.
    local = None if isinstance(place, HubRepository) else _open(_Folder(place.path), location)
    sums = {} if local is None else local.digests()
    if local is not None:
        settings["head"] = digest_json({CONFIG: sha256(local.config).hexdigest(), **sums})

    def build(draft: Draft) -> None:
        head = _open(_Hub(place), location) if isinstance(place, HubRepository) else local
        assert head is not None
        (draft.folder / CONFIG).write_bytes(head.config)
        head.write(draft.folder / MTP_SHARD)
        draft.known_tensors |= sums
        size = sum(tensor.size for _, tensor in head.tensors)
        draft.facts |= {"location": location, "mtp_tensors": len(head.tensors), "mtp_bytes": size}

    artifact = remake(
        output,
        stage=STAGE,
        inputs={},
        settings=settings,
        environment=environment,
        build=build,
    )
    if not isinstance(place, HubRepository):
        files, content = usable_files(place.path), artifact.content
        # A part of them was read, and nothing of them is linked.
        output.store.sources.note(STAGE, files, planned=planned, content=content, read=False)
    return artifact


@dataclass(frozen=True)
class _DonorHead:
    """A head that was found to be whole, by names and shapes.

    Attributes:
        reader: Of the checkpoint that it stands in.
        config: Bytes of config.json.
        tensors: The tensors, sorted by name, each with its shard.
        starts: Where the data of each shard begin.
    """

    reader: Reader
    config: bytes
    tensors: list[tuple[str, Tensor]]
    starts: dict[str, int]

    def stream(self, shard: str, tensor: Tensor) -> Iterator[bytes]:
        """The raw bytes of one of the tensors."""
        return self.reader.stream(shard, self.starts[shard] + tensor.begin, tensor.size)

    def digests(self) -> dict[str, str]:
        """Hex SHA-256 of the raw bytes by tensor name; reads them."""
        sums: dict[str, str] = {}
        for shard, tensor in self.tensors:
            digest = sha256()
            for chunk in self.stream(shard, tensor):
                digest.update(chunk)
            sums[tensor.name] = digest.hexdigest()
        return sums

    def write(self, target: Path) -> None:
        """Write the tensors as one safetensors file."""
        tensors = [tensor for _, tensor in self.tensors]
        total = sum(tensor.size for tensor in tensors)
        with (
            target.open("wb") as file,
            tqdm(total=total, unit="B", unit_scale=True, desc="mtp", file=sys.stderr) as bar,
        ):
            file.write(encode_header(packed(tensors), {"format": "pt"}))
            for shard, tensor in self.tensors:
                for chunk in self.stream(shard, tensor):
                    file.write(chunk)
                    bar.update(len(chunk))


def _open(reader: Reader, location: str) -> _DonorHead:
    """Find the head of a checkpoint; nothing but config, index and headers is read."""
    raw = _small(reader, CONFIG, location)
    expected = inventory(
        parse_object(raw, where=f"{location}/{CONFIG}"), where=f"{location}/{CONFIG}"
    )
    head = expected.family.head
    if head is None:
        raise _headless(location, expected.family.title)
    shard_of = _shards_of_head(reader, head, location)
    if not expected.mtp or shard_of.keys() != expected.mtp.keys():
        raise _no_head(location, head, sorted(expected.mtp), sorted(shard_of))
    headers = {shard: _header(reader, shard, location) for shard in set(shard_of.values())}
    tensors: list[tuple[str, Tensor]] = []
    for name, shard in sorted(shard_of.items()):
        tensor = headers[shard].tensors.get(name)
        if tensor is None:
            raise _no_head(location, head, [f"{name} in {shard}"], ["no such tensor there"])
        tensors.append((shard, tensor))
    starts = {shard: header.data_start for shard, header in headers.items()}
    return _DonorHead(reader, raw, tensors, starts)


def _small(reader: Reader, name: str, location: str) -> bytes:
    size = reader.size(name)
    if size is None:
        raise ScionError(
            "the donor lacks a file",
            where=location,
            expected=name,
            found="no such file",
            hint="set `donor` in the config to a checkpoint of the base model",
        )
    return b"".join(reader.stream(name, 0, size))


def _shards_of_head(reader: Reader, head: Head, location: str) -> dict[str, str]:
    """Shard by name of each MTP tensor."""
    if reader.size(INDEX) is None:
        return {
            name: SINGLE
            for name in _header(reader, SINGLE, location).tensors
            if name.startswith(head.prefix)
        }
    where = f"{location}/{INDEX}"
    content = parse_object(_small(reader, INDEX, location), where=where)
    weight_map = parse_weight_map(content, where=where)
    return {name: shard for name, shard in weight_map.items() if name.startswith(head.prefix)}


def _header(reader: Reader, shard: str, location: str) -> Header:
    where = f"{location}/{shard}"
    size = reader.size(shard)
    if size is None:
        raise ScionError(
            "the donor lacks a shard",
            where=location,
            expected=shard,
            found="no such file",
            hint="fetch the donor's missing file, or name another revision",
        )
    prefix = b"".join(reader.stream(shard, 0, min(8, size)))
    length = header_length(prefix, file_size=size, where=where)
    raw = b"".join(reader.stream(shard, 8, length))
    return parse_header(raw, file_size=size, where=where)


def _headless(location: str, title: str) -> ScionError:
    return ScionError(
        "the donor's architecture has no MTP head",
        where=location,
        expected="a family with a head in workflow/scion/architectures/families.py",
        found=title,
        hint="set `donor` in the config to the base model that the source was fine-tuned from",
    )


def _no_head(location: str, head: Head, expected: list[str], found: list[str]) -> ScionError:
    return ScionError(
        "the donor has no whole MTP head",
        where=location,
        expected=f"{len(expected)} tensors: {', '.join(expected[:3])}, …"
        if expected
        else f"a config.json with {head.layers_key} of 1 or more",
        found=f"{len(found)} tensors{': ' if found else ''}{', '.join(found[:3])}",
        hint="set `donor` in the config to the base model, whose checkpoint has "
        f"{head.prefix}* tensors",
    )


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={})
    add_location(parser)
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: fetch_donor(
            location=args.location,
            output=output,
            environment=args.environment,
            planned=planned_source(args),
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
