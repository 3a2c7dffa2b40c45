"""Fetch the donor's MTP head, and nothing else of it: config.json and the ranges of `mtp.*`.

Of a 55 GB checkpoint that moves the headers of the shards in question and 0.8 GB. The tensors
become one safetensors file, which `graft_mtp` links into the release as it is.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from scion.architectures.family import Head
from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact, Draft, remake
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
from scion.checkpoint.shards import INDEX, SINGLE, index_of, read_object
from scion.common.digest import read_chunks
from scion.common.errors import ScionError
from scion.stages.common_options import run_stage, stage_parser
from scion.stages.fetch_source import add_location

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


def fetch_donor(*, location: str, output: Path, environment: str) -> Artifact:
    """Take the MTP tensors of a checkpoint.

    Args:
        location: A local folder, or `hf://owner/name@<commit>`.
        output: Folder of the artifact to make: config.json and `model-mtp.safetensors`.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The donor has no MTP head, or its files can't be read.
    """
    place = parse_location(location)

    def build(draft: Draft) -> None:
        reader = _Hub(place) if isinstance(place, HubRepository) else _Folder(place.path)
        _copy_small(reader, "config.json", draft.folder, location)
        config = read_object(draft.folder / "config.json")
        expected = inventory(config, where=f"{location}/config.json")
        head = expected.family.head
        if head is None:
            raise _headless(location, expected.family.title)
        shard_of = _shards_of_head(reader, head, draft.folder, location)
        if not expected.mtp or shard_of.keys() != expected.mtp.keys():
            raise _no_head(location, head, sorted(expected.mtp), sorted(shard_of))
        headers = {shard: _header(reader, shard, location) for shard in set(shard_of.values())}
        moved = _write(reader, headers, head, shard_of, draft.folder / MTP_SHARD, location)
        draft.facts |= {"location": location, "mtp_tensors": len(shard_of), "mtp_bytes": moved}

    return remake(
        output,
        stage="fetch_donor",
        inputs={},
        settings={"location": location},
        environment=environment,
        build=build,
        volatile=not isinstance(place, HubRepository),
    )


def _copy_small(reader: Reader, name: str, folder: Path, location: str) -> None:
    size = reader.size(name)
    if size is None:
        raise ScionError(
            "the donor lacks a file",
            where=location,
            expected=name,
            found="no such file",
            hint="set `donor` in the config to a checkpoint of the base model",
        )
    (folder / name).write_bytes(b"".join(reader.stream(name, 0, size)))


def _shards_of_head(reader: Reader, head: Head, folder: Path, location: str) -> dict[str, str]:
    """Shard by name of each MTP tensor."""
    if reader.size(INDEX) is None:
        return {
            name: SINGLE
            for name in _header(reader, SINGLE, location).tensors
            if name.startswith(head.prefix)
        }
    _copy_small(reader, INDEX, folder, location)
    weight_map = index_of(folder) or {}
    (folder / INDEX).unlink()
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


def _write(
    reader: Reader,
    headers: dict[str, Header],
    head: Head,
    shard_of: dict[str, str],
    target: Path,
    location: str,
) -> int:
    """Write the tensors, sorted by name, as one safetensors file; returns their bytes."""
    tensors: list[Tensor] = []
    for name, shard in sorted(shard_of.items()):
        tensor = headers[shard].tensors.get(name)
        if tensor is None:
            raise _no_head(location, head, [f"{name} in {shard}"], ["no such tensor there"])
        tensors.append(tensor)
    total = sum(tensor.size for tensor in tensors)
    with (
        target.open("wb") as file,
        tqdm(total=total, unit="B", unit_scale=True, desc="mtp", file=sys.stderr) as bar,
    ):
        file.write(encode_header(packed(tensors), {"format": "pt"}))
        for tensor in tensors:
            shard = shard_of[tensor.name]
            start = headers[shard].data_start + tensor.begin
            for chunk in reader.stream(shard, start, tensor.size):
                file.write(chunk)
                bar.update(len(chunk))
    return total


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
        lambda: fetch_donor(
            location=args.location, output=args.output.parent, environment=args.environment
        )
    )


if __name__ == "__main__":
    sys.exit(main())
