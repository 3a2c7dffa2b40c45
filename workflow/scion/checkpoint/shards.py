"""A checkpoint folder, shards and index, as one mapping of tensors."""

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.checkpoint.safetensors_file import Header, Tensor, encode_header, packed, read_header
from scion.common.bounded_json import MAX_TEXT_BYTES, parse_json
from scion.common.errors import ScionError
from scion.common.files import read_regular, write_json

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_FETCH = "fetch the checkpoint again, or name a folder that holds one"


@dataclass(frozen=True)
class Piece:
    """A tensor to write, and the file range that holds its bytes."""

    tensor: Tensor
    path: Path
    offset: int


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a folder: every tensor of every shard, checked against the index.

    Attributes:
        folder: Where the shards are.
        headers: Header by shard name, in the order of the names.
        shard_of: Shard name by tensor name.
        config: The content of config.json.
    """

    folder: Path
    headers: dict[str, Header]
    shard_of: dict[str, str]
    config: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Read the index and all headers of a folder and check that they say the same.

        Raises:
            ScionError: No config.json or weights, a missing or damaged shard, an index that names
                tensors which no shard has or leaves out some that a shard has, a tensor that
                stands in two shards.
        """
        shards = _shards(folder)
        headers = {name: read_header(folder / name) for name in shards}
        shard_of: dict[str, str] = {}
        for shard, header in headers.items():
            for name in header.tensors:
                if name in shard_of:
                    raise _index_error(
                        folder, "a tensor stands in two shards", "one shard", shard_of[name], name
                    )
                shard_of[name] = shard
        if (folder / INDEX).exists():
            _check_index(folder, shard_of)
        return cls(folder, headers, shard_of, read_object(folder / CONFIG))

    def tensor(self, name: str) -> Tensor:
        """Dtype, shape and range of one tensor."""
        return self.headers[self.shard_of[name]].tensors[name]

    def piece(self, name: str) -> Piece:
        """One tensor and where its bytes lie, to be written elsewhere."""
        shard, tensor = self.shard_of[name], self.tensor(name)
        offset = self.headers[shard].data_start + tensor.begin
        return Piece(tensor, self.folder / shard, offset)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by tensor name."""
        return {name: self.tensor(name).shape for name in self.shard_of}


def read_json(path: Path, *, hint: str = _FETCH) -> Any:
    """Parse a JSON file; `hint` is what to do if that fails.

    Raises:
        ScionError: The file is missing, no regular file, too large, or not JSON.
    """
    try:
        return parse_json(read_regular(path, limit=MAX_TEXT_BYTES))
    except (OSError, ValueError) as error:
        raise unreadable(path, error, hint=hint) from error


def read_object(path: Path, *, hint: str = _FETCH) -> dict[str, Any]:
    """Parse a JSON file that must hold an object; `hint` is what to do if that fails.

    Raises:
        ScionError: The file is missing, is not JSON, or holds something else.
    """
    return _as_object(read_json(path, hint=hint), path, hint)


def parse_object(raw: bytes, *, where: object, hint: str = _FETCH) -> dict[str, Any]:
    """Parse JSON that must be an object; `where` is the file to name in errors.

    Raises:
        ScionError: It is not JSON, or something else than an object.
    """
    try:
        return _as_object(parse_json(raw), where, hint)
    except ValueError as error:
        raise unreadable(where, error, hint=hint) from error


def unreadable(where: object, error: Exception, *, hint: str) -> ScionError:
    """The error for a file that can't be read as JSON, or not at all."""
    return ScionError(
        f"{str(where).rsplit('/', 1)[-1]} can't be read",
        where=where,
        expected="a JSON file",
        found=(error.strerror or error) if isinstance(error, OSError) else error,
        hint=hint,
    )


def _as_object(value: Any, where: object, hint: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ScionError(
            f"{str(where).rsplit('/', 1)[-1]} holds no JSON object",
            where=where,
            expected="an object: {…}",
            found=reprlib.repr(value),
            hint=hint,
        )
    return value


def index_of(folder: Path) -> dict[str, str] | None:
    """The index's weight map (shard name by tensor name), or None where there is no index."""
    path = folder / INDEX
    return parse_weight_map(read_json(path), where=path) if path.exists() else None


def parse_weight_map(content: Any, *, where: object) -> dict[str, str]:
    """The weight map of an index's content; `where` is the file to name in errors.

    Raises:
        ScionError: There is none, or it names something else than files of the same folder.
    """
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if (
        not isinstance(weight_map, dict)
        or not all(isinstance(shard, str) for shard in weight_map.values())
        or not all(
            Path(shard).name == shard and shard.endswith(".safetensors")
            for shard in set(weight_map.values())
        )
    ):
        raise ScionError(
            "the index has no usable weight_map",
            where=where,
            expected="weight_map: a *.safetensors of the same folder for each tensor",
            found=reprlib.repr(content),
            hint="fetch the index again",
        )
    return weight_map


def write_index(folder: Path, shard_of: Mapping[str, str], total_size: int) -> None:
    """Write the index; `total_size` is the bytes of all tensors."""
    content = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(shard_of.items()))}
    write_json(folder / INDEX, content)


def index_headers(folder: Path, shards: Iterable[str]) -> None:
    """Write the index that the headers of `shards` imply."""
    headers = {shard: read_header(folder / shard) for shard in shards}
    shard_of = {name: shard for shard, header in headers.items() for name in header.tensors}
    sizes = (tensor.size for header in headers.values() for tensor in header.tensors.values())
    write_index(folder, shard_of, sum(sizes))


def plan_shards(tensors: Iterable[Tensor], *, max_bytes: int) -> dict[str, list[Tensor]]:
    """Lay tensors, in order, out over numbered shards.

    Args:
        tensors: Their `begin` and `end` are set anew.
        max_bytes: A shard is closed before its tensor data would grow past this. A single larger
            tensor gets a shard of its own.

    Returns:
        By shard name, its tensors as they lie in it. Single numbers come first: who reads the file
        by ranges gets all scales right behind the header.
    """
    groups: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.size > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.size
    names = [shard_name(number, len(groups)) for number in range(1, len(groups) + 1)]
    ordered = [sorted(group, key=lambda tensor: bool(tensor.shape)) for group in groups]
    return {name: packed(group) for name, group in zip(names, ordered, strict=True)}


def shard_header(tensors: Iterable[Tensor]) -> bytes:
    """The header of a shard that `plan_shards` laid out."""
    return encode_header(tensors, {"format": "pt"})


def shard_name(number: int, count: int) -> str:
    """The family's name of shard `number` (from 1) of `count`."""
    return f"model-{number:05}-of-{count:05}.safetensors"


def _shards(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ScionError(
            "there is no such folder",
            where=folder,
            expected=f"a folder with {CONFIG} and *.safetensors",
            found="a file" if folder.exists() else "nothing",
            hint="name the checkpoint's folder; the workflow makes results/<release>/release",
        )
    weight_map = index_of(folder)
    shards = [SINGLE] if weight_map is None else sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        present = sorted(path.name for path in folder.glob("*.safetensors"))
        raise ScionError(
            "the checkpoint lacks a shard" if weight_map or present else "no checkpoint is here",
            where=folder,
            expected=", ".join(missing),
            found=", ".join(present) or "no safetensors file",
            hint="fetch the missing file, or name a folder that holds the whole checkpoint",
        )
    return shards


def _check_index(folder: Path, shard_of: Mapping[str, str]) -> None:
    weight_map = index_of(folder) or {}
    for name, shard in weight_map.items():
        if shard_of.get(name) != shard:
            raise _index_error(
                folder,
                "the index names a tensor that its shard does not have",
                f"in {shard}",
                shard_of.get(name, "in no shard"),
                name,
            )
    for name, shard in shard_of.items():
        if name not in weight_map:
            raise _index_error(
                folder,
                "a shard holds a tensor that the index leaves out",
                f"an entry that names {shard}",
                "none: engines would skip the tensor",
                name,
            )


def _index_error(folder: Path, problem: str, expected: str, found: str, tensor: str) -> ScionError:
    return ScionError(
        problem,
        where=f"{folder / INDEX}: {tensor}",
        expected=expected,
        found=found,
        hint="index and shards are of different versions: fetch both again at one revision",
    )
