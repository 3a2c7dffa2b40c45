"""Where each tensor of a release comes from, as tensors.json says it.

The bytes of a source's tensor are never changed before it is quantized: `fix_keys` renames,
`extract_text` leaves out. So the digest that a tensor has in the checkpoint with sound keys is the
one that it has in the source, under whatever name. One function makes the origins, for the stage
that writes them and for the check that reads them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from scion.architectures.stacks import stack_name

Rows = Mapping[str, Mapping[str, Any]]
"""Rows of a tensor table by tensor name."""

Kind = Literal["source", "donor", "quantized", "trained"]

_BYTES = ("dtype", "shape", "sha256")


def tensor_origins(rows: Rows, *, source: Rows, donor: Rows) -> dict[str, dict[str, str]]:
    """By tensor its `origin`: `from` where, and `sha256` of the bytes there.

    - `source`: the source's tensor, bit for bit.
    - `donor`: a tensor of the donor's MTP head, bit for bit.
    - `quantized`: what quantizing a module made of it; the digest is of the source's weight, or of
      the stack of experts that the weight is part of.

    Args:
        rows: The release's tensors.
        source: Those of the source, with sound keys.
        donor: Those of the donor's MTP head.

    Returns:
        A tensor that is none of these is not among them.
    """
    return dict(_origins(rows, source, donor))


def trained_origins(
    origins: Mapping[str, dict[str, str]], rows: Rows, before: Rows
) -> dict[str, dict[str, str]]:
    """The origins of a release some of whose tensors were trained.

    Those are `trained`; the digest is of the tensor that training began with.

    Args:
        origins: Of the release before, as `tensor_origins` gives them.
        rows: The release's tensors.
        before: Those of the release before.
    """
    return {
        name: origin
        if same_bytes(rows.get(name), before.get(name))
        else _origin("trained", before[name])
        for name, origin in origins.items()
    }


def packed_origins(
    origins: Mapping[str, dict[str, str]], rows: Rows, before: Rows
) -> dict[str, dict[str, str]]:
    """The origins of a release some of whose matrices were quantized later than the others.

    Their tensors are `quantized`; the digest is of the weight before, trained or not.

    Args:
        origins: Of the release before.
        rows: The release's tensors.
        before: Those of the release before.

    Returns:
        A tensor that is neither the same as before nor of a weight there is not among them.
    """
    return dict(_packed_origins(origins, rows, before))


def same_bytes(row: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two rows are of tensors with the same bytes, dtype and shape."""
    if row is None or other is None:
        return False
    return all(row.get(key) == other.get(key) for key in _BYTES)


def _packed_origins(
    origins: Mapping[str, dict[str, str]], rows: Rows, before: Rows
) -> Iterator[tuple[str, dict[str, str]]]:
    for name, row in rows.items():
        weight = f"{name.rpartition('.')[0]}.weight"
        if same_bytes(row, before.get(name)):
            if name in origins:
                yield name, origins[name]
        elif weight in before:
            yield name, _origin("quantized", before[weight])


def _origins(rows: Rows, source: Rows, donor: Rows) -> Iterator[tuple[str, dict[str, str]]]:
    for name, row in rows.items():
        weight = f"{name.rpartition('.')[0]}.weight"
        if weight not in source:
            weight = stack_name(weight) or weight
        if same_bytes(row, donor.get(name)):
            yield name, _origin("donor", donor[name])
        elif same_bytes(row, source.get(name)):
            yield name, _origin("source", source[name])
        # A bias that is another one is none that quantizing has made.
        elif weight in source and (name.endswith(".weight") or name not in source):
            yield name, _origin("quantized", source[weight])


def _origin(kind: Kind, row: Mapping[str, Any]) -> dict[str, str]:
    return {"from": kind, "sha256": row["sha256"]}
