"""A release in another spelling: the same packed bytes and block scales under other names.

Nothing is calibrated and nothing packed: headers are written anew, global scales become their
reciprocals or are taken back from them, and the scheme is declared in the other words. Which
modules are quantized, and how, is read off the tensors, of whatever architecture; what belongs to
no module of a known form is refused by name. Needs no torch.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scion.architectures.inventory import implied
from scion.checkpoint.relabelled import copy_relabelled
from scion.checkpoint.safetensors_file import Tensor
from scion.checkpoint.shards import CONFIG, INDEX, Checkpoint, index_headers
from scion.common.digest import in_parallel
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.common.progress import progress
from scion.formats.modelopt import FP8, Declared
from scion.formats.spellings import SPELLINGS, Spelling, declared_spelling

_PLAIN = ("BF16", "F16", "F32", "F64", "I64")


@dataclass(frozen=True)
class Respelling:
    """What becomes of a release.

    Attributes:
        checkpoint: The release.
        source: Its spelling.
        target: The other one.
        algorithms: That of each quantized module.
        declared: What it declares besides.
        labels: By name, the tensors that get another name or shape, with these.
        numbers: By name, what the scales hold in the other spelling that hold something else there.
        inexact: Those of them from which the scale can't be taken back to its last bit.
    """

    checkpoint: Checkpoint
    source: Spelling
    target: Spelling
    algorithms: Mapping[str, str]
    declared: Declared
    labels: Mapping[str, Tensor]
    numbers: Mapping[str, float]
    inexact: tuple[str, ...]

    @property
    def shards(self) -> list[str]:
        """The shards that are written; all others stay the same files."""
        return sorted({self.checkpoint.shard_of[name] for name in self.labels})

    @property
    def written(self) -> set[str]:
        """The names of files that the release has, and that are not passed on as they are."""
        return {*self.shards, INDEX, CONFIG, *self.source.sidecars, *self.target.sidecars}

    def names(self) -> dict[str, str]:
        """The new name of each tensor by its old one."""
        shard_of = self.checkpoint.shard_of
        return {name: self.labels[name].name if name in self.labels else name for name in shard_of}

    def write(self, folder: Path, *, index: bool) -> None:
        """Write what is new into a folder that has the shards which stay.

        Args:
            folder: Where to.
            index: Whether there is to be an index of the shards.
        """
        checkpoint, shards = self.checkpoint, self.shards
        with progress("shards", len(shards)) as told:

            def write(shard: str) -> None:
                numbers = {n: x for n, x in self.numbers.items() if checkpoint.shard_of[n] == shard}
                copy_relabelled(checkpoint.folder / shard, folder / shard, self.labels, numbers)
                told.advance()

            in_parallel(write, shards)
        if index:
            index_headers(folder, checkpoint.headers)
        scheme = self.target.declaration(
            self.declared.exclude, producer=self.declared.producer, algorithms=self.algorithms
        )
        write_json(folder / CONFIG, {**checkpoint.config, "quantization_config": scheme})
        for name, content in self.target.sidecars.items():
            write_json(folder / name, content(scheme))


def respelling(checkpoint: Checkpoint, target: Spelling) -> Respelling:
    """Find out what becomes of a release in another spelling; nothing is written.

    Args:
        checkpoint: The release.
        target: The other spelling.

    Raises:
        ScionError: It declares no quantization that has spellings, or is in this one; a module or
            tensor has another form than its spelling gives it; a scale is no positive number.
    """
    source = declared_spelling(checkpoint.config)
    where = checkpoint.folder / CONFIG
    if source is None:
        raise _unknown(checkpoint)
    if source == target:
        raise ScionError(
            f"the release is in the spelling {target.name} already",
            where=f"{where}: quantization_config.quant_method",
            expected=", ".join(name for name in SPELLINGS if name != target.name),
            found=source.quant_method,
            hint="there is nothing to do",
        )
    declared = declared_besides(checkpoint, source)
    algorithms = stored_algorithms(checkpoint, source)
    olds, news = source.all_tensors(algorithms), target.all_tensors(algorithms)
    labels, numbers, inexact = dict[str, Tensor](), dict[str, float](), list[str]()
    for meaning, old in olds.items():
        new, tensor = news[meaning], checkpoint.tensor(old.name)
        shape = tensor.shape if math.prod(tensor.shape) > 1 else target.scalar
        if (new.name, shape) != (tensor.name, tensor.shape):
            labels[old.name] = replace(tensor, name=new.name, shape=shape)
        if old.reciprocal != new.reciprocal:
            stored = _number(checkpoint, old.name)
            numbers[old.name] = new.stored(old.meant(stored))
            back = old.stored(new.meant(numbers[old.name]))
            inexact += [old.name] if back != stored else []
    return Respelling(
        checkpoint, source, target, algorithms, declared, labels, numbers, tuple(inexact)
    )


def declared_besides(checkpoint: Checkpoint, spelling: Spelling) -> Declared:
    """What a release declares beside the algorithms of its modules.

    Args:
        checkpoint: The release.
        spelling: The one that it declares.

    Raises:
        ScionError: The declaration is malformed, or of a format that has no other spelling.
    """
    where, scheme = checkpoint.folder / CONFIG, checkpoint.config["quantization_config"]
    plain = dict.fromkeys(
        name.removesuffix(".weight")
        for name in checkpoint.shard_of
        if name.endswith(".weight") and checkpoint.tensor(name).dtype in _PLAIN
    )
    _refuse_malformed(scheme, where)
    return spelling.reading(scheme, plain, where=where)


def _refuse_malformed(scheme: Mapping[str, Any], where: Path) -> None:
    """Raise ScionError where what a declaration is read by is of another JSON type."""
    ignore, producer = scheme.get("ignore") or [], scheme.get("producer") or {}
    tables = [scheme.get(key) or {} for key in ("config_groups", "quantized_layers")]
    objects = [
        producer,
        *tables,
        *(row for t in tables if isinstance(t, dict) for row in t.values()),
    ]
    lists = isinstance(ignore, list) and all(isinstance(entry, str) for entry in ignore)
    if lists and all(isinstance(each, dict) for each in objects):
        return
    raise ScionError(
        "the declaration of the quantization is malformed",
        where=f"{where}: quantization_config",
        expected="ignore: a list of names; config_groups, quantized_layers: objects of objects",
        found="something else",
        hint=f"scion lint {where.parent} says what engines make of it",
    )


def excluding(
    checkpoint: Checkpoint,
    exclude: list[str],
    *,
    quantized: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What a release declares once it excludes these modules, in its own spelling.

    Args:
        checkpoint: A release that `Respelling` or `quantize_nvfp4` has written.
        exclude: As `scion.formats.modelopt.declared_exclusions` names them.
        quantized: The algorithm of each module that is quantized besides those that are already.

    Returns:
        The `quantization_config` of config.json; and the content of each further file that declares
        the scheme, by name.

    Raises:
        ScionError: It declares no quantization of a known spelling.
    """
    spelling = declared_spelling(checkpoint.config)
    if spelling is None:
        raise _unknown(checkpoint)
    scheme = spelling.declaration(
        exclude,
        producer=checkpoint.config["quantization_config"]["producer"],
        algorithms={**stored_algorithms(checkpoint, spelling), **quantized},
    )
    return scheme, {name: content(scheme) for name, content in spelling.sidecars.items()}


def stored_algorithms(checkpoint: Checkpoint, spelling: Spelling) -> dict[str, str]:
    """The algorithm of each module, by its tensors; in layer order where the family is known.

    Args:
        checkpoint: The release.
        spelling: How it names tensors.

    Raises:
        ScionError: A tensor is of no form that the spelling has.
    """
    found = dict(_quantized(checkpoint, spelling))
    known = {spelled.name for spelled in spelling.all_tensors(found).values()}
    for name in checkpoint.shard_of:
        tensor = checkpoint.tensor(name)
        if name not in known and (tensor.dtype not in _PLAIN or "scale" in name.rpartition(".")[2]):
            raise ScionError(
                "a tensor belongs to no quantized module of a known form",
                where=f"{checkpoint.folder / checkpoint.shard_of[name]}: {name}",
                expected=f"tensors of {', '.join(spelling.tensors)} as {spelling.name} spells them",
                found=f"{tensor.dtype} {list(tensor.shape)}",
                hint=f"scion lint {checkpoint.folder} says more of it",
            )
    if not found:
        raise _unknown(checkpoint)
    expected = implied(checkpoint.config, where=checkpoint.folder / CONFIG)
    order = {module: place for place, module in enumerate(expected.linear if expected else ())}
    ordered = sorted(found, key=lambda module: order.get(module, len(order)))
    return {module: found[module] for module in ordered}


def _quantized(checkpoint: Checkpoint, spelling: Spelling) -> Iterator[tuple[str, str]]:
    """Each module all of whose tensors have the form of an algorithm, and that."""
    for name in checkpoint.shard_of:
        module, _, last = name.rpartition(".")
        for algorithm, row in spelling.tensors.items():
            # The first that fits: NVFP4 has all that NVFP4 of weights alone has.
            if last == row["weight"].name and _fits(checkpoint, spelling, module, algorithm):
                yield module, algorithm
                break


def _fits(checkpoint: Checkpoint, spelling: Spelling, module: str, algorithm: str) -> bool:
    weight = spelling.tensor(module, algorithm, "weight").name
    stored = checkpoint.tensor(weight)
    if len(stored.shape) != 2:
        return False
    rows, columns = stored.shape
    layout = spelling.layout(algorithm, (rows, columns if algorithm == FP8 else 2 * columns))
    tensors = {suffix: f"{module}.{suffix}" for suffix in layout}
    return all(name in checkpoint.shard_of for name in tensors.values()) and all(
        _same_form(checkpoint.tensor(tensors[suffix]), *form) for suffix, form in layout.items()
    )


def _same_form(tensor: Tensor, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is as a layout has it; a single number may be of either shape."""
    single = math.prod(shape) == 1 and math.prod(tensor.shape) == 1
    return tensor.dtype == dtype and (tensor.shape == shape or single)


def _number(checkpoint: Checkpoint, name: str) -> float:
    """The number that a float32 tensor of one element holds.

    Raises:
        ScionError: It, or its reciprocal, is no positive finite number.
    """
    piece = checkpoint.piece(name)
    with piece.path.open("rb") as file:
        file.seek(piece.offset)
        (number,) = struct.unpack("<f", file.read(4))
    # Beyond these a reciprocal is no normal float32.
    if not 2.0**-126 <= number <= 2.0**126:
        raise ScionError(
            "a scale has no reciprocal",
            where=f"{piece.path}: {name}",
            expected="a positive number from 2^-126 to 2^126",
            found=number,
            hint=f"the release is broken: scion lint --deep {checkpoint.folder}",
        )
    return number


def _unknown(checkpoint: Checkpoint) -> ScionError:
    declared = checkpoint.config.get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, dict) else None
    return ScionError(
        "the checkpoint is no quantized release that has another spelling",
        where=f"{checkpoint.folder / CONFIG}: quantization_config",
        expected="quant_method "
        + " or ".join(row.quant_method for row in SPELLINGS.values())
        + ", and quantized modules",
        found=f"quant_method {method!r}" if declared else "no quantization_config",
        hint="name the folder of an NVFP4 release, as the workflow or ModelOpt makes them",
    )
