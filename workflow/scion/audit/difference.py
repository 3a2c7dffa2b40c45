"""What two checkpoints have otherwise: tensors renamed, removed, added, requantized, changed; keys.

Tensors are held together by name first, then by their bytes under whatever name. Where that is
asked for, digests are taken from a checkpoint's `tensors.json` that is of its shards by name, dtype
and shape; otherwise the data are read.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from scion.architectures.inventory import implied
from scion.architectures.sound_names import SoundNames
from scion.artifacts.release_layout import TENSORS
from scion.audit.stored import StoredModule, stored_tensors
from scion.audit.weights import Extent, RangedCheckpoint
from scion.checkpoint.shards import CONFIG, parse_object
from scion.common.digest import digest_chunks, in_parallel
from scion.common.errors import ScionError
from scion.common.progress import counted, progress

_BF16 = "unquantized"


@dataclass(frozen=True)
class Difference:
    """What B has otherwise than A.

    Attributes:
        a: What was read.
        b: The other.
        same: How many tensors have name, form and bytes in common.
        renamed: Name in B by name in A of tensors with the same form and bytes.
        changed: By name what differs of tensors that both have.
        requantized: By module how A stores it and how B does.
        removed: Names that B lacks.
        added: Names that A lacks.
        config: By key of config.json the values of A and of B, as text; sections key by key.
        read: Where the digests of A come from, and those of B.
    """

    a: str
    b: str
    same: int
    renamed: Mapping[str, str]
    changed: Mapping[str, str]
    requantized: Mapping[str, tuple[str, str]]
    removed: tuple[str, ...]
    added: tuple[str, ...]
    config: Mapping[str, tuple[str, str]]
    read: tuple[str, str]

    @property
    def same_weights(self) -> bool:
        """Whether both have the same tensors, by whatever names."""
        return not (self.changed or self.requantized or self.removed or self.added)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "same_weights": self.same_weights}


def difference(a: str, b: str, *, tables: bool = False) -> Difference:
    """Compare two checkpoints.

    Args:
        a: A folder or a repository of the hub.
        b: The other.
        tables: Believe the `tensors.json` of a checkpoint that has one; else every tensor is read.

    Raises:
        ScionError: One is no checkpoint, or can't be read.
    """
    first, second = RangedCheckpoint.open(a), RangedCheckpoint.open(b)
    known = [_known(each) if tables else {} for each in (first, second)]
    left, right = dict(first.extents), dict(second.extents)
    requantized = dict(_requantized(first, second, left, right))
    shared = {name for name in left if name in right and left[name].form == right[name].form}
    # A tensor may be another's under a new name if the other checkpoint has one of its form left.
    forms = [{e.form for n, e in extents.items() if n not in shared} for extents in (left, right)]
    apart = [
        (each, name)
        for each, extents in enumerate((left, right))
        for name, extent in extents.items()
        if name in shared or extent.form in forms[1 - each]
    ]
    digests = _digests(apart, (left, right), known)
    same = {name for name in shared if digests[0, name] == digests[1, name]}
    changed = {name: "other bytes" for name in left if name in shared and name not in same}
    changed |= {
        name: f"{_form(left[name])} became {_form(right[name])}"
        for name in left
        if name in right and left[name].form != right[name].form
    }
    removed = [name for name in left if name not in right]
    added = [name for name in right if name not in left]
    renamed = _renamed(removed, added, left, right, digests)
    taken = set(renamed.values())
    return Difference(
        a=first.source.name,
        b=second.source.name,
        same=len(same),
        renamed=renamed,
        changed=changed,
        requantized=requantized,
        removed=tuple(name for name in removed if name not in renamed),
        added=tuple(name for name in added if name not in taken),
        config=dict(_keys(first.config, second.config)),
        read=(TENSORS if known[0] else "data", TENSORS if known[1] else "data"),
    )


def _known(checkpoint: RangedCheckpoint) -> dict[str, str]:
    """SHA-256 by tensor name, as the checkpoint's own table has it; empty without a sound one."""
    source = checkpoint.source
    raw = source.read(TENSORS) if TENSORS in source.files else None
    if raw is None:
        return {}
    try:
        rows = parse_object(raw, where=f"{source.name}/{TENSORS}")
    except ScionError:
        return {}
    found = dict[str, str]()
    for name, extent in checkpoint.extents.items():
        row = rows.get(name)
        row = cast("dict[str, Any]", row) if isinstance(row, dict) else {}
        form = row.get("dtype"), row.get("shape")
        if form != (extent.tensor.dtype, list(extent.tensor.shape)) or not row.get("sha256"):
            return {}
        found[name] = str(row["sha256"])
    return found


def _requantized(
    first: RangedCheckpoint,
    second: RangedCheckpoint,
    left: dict[str, Extent],
    right: dict[str, Extent],
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Modules that the two store by other algorithms; their tensors are taken out of both."""
    expected = implied(first.config, where=f"{first.source.name}/{CONFIG}")
    if expected is None:
        return
    sound = SoundNames(expected.storable, expected.family)
    a, b = stored_tensors(first, sound), stored_tensors(second, sound)
    for name in dict.fromkeys((*a.modules, *b.modules)):
        kinds = [_kind(each.modules.get(name), each.plain, name) for each in (a, b)]
        if None in kinds or kinds[0] == kinds[1]:
            continue
        for each, extents in ((a, left), (b, right)):
            module = each.modules.get(name)
            gone = module.parts.values() if module else (each.plain[f"{name}.weight"],)
            for extent in gone:
                extents.pop(extent.tensor.name)
        yield name, (str(kinds[0]), str(kinds[1]))


def _kind(module: StoredModule | None, plain: Mapping[str, Extent], name: str) -> str | None:
    if module is not None:
        return module.algorithm
    return _BF16 if f"{name}.weight" in plain else None


def _digests(
    wanted: list[tuple[int, str]],
    extents: tuple[Mapping[str, Extent], Mapping[str, Extent]],
    known: list[dict[str, str]],
) -> dict[tuple[int, str], str]:
    """SHA-256 by checkpoint and name; what is not known is read."""
    found = {(each, name): known[each][name] for each, name in wanted if name in known[each]}
    unread = [key for key in wanted if key not in found]
    unread.sort(key=lambda key: -extents[key[0]][key[1]].tensor.size)
    total = sum(extents[each][name].tensor.size for each, name in unread)
    stop = threading.Event()
    with progress("hashing", total, unit="B") as told:

        def digest(key: tuple[int, str]) -> str:
            extent = extents[key[0]][key[1]]
            return digest_chunks(counted(extent.stream(0, extent.tensor.size), told, stop))

        found |= dict(zip(unread, in_parallel(digest, unread, stop=stop), strict=True))
    return found


def _renamed(
    removed: list[str],
    added: list[str],
    left: Mapping[str, Extent],
    right: Mapping[str, Extent],
    digests: Mapping[tuple[int, str], str],
) -> dict[str, str]:
    """New name by old one, of tensors that are the same by form and bytes."""
    free: dict[tuple[object, str], list[str]] = {}
    for name in added:
        if (1, name) in digests:
            free.setdefault((right[name].form, digests[1, name]), []).append(name)
    renamed = dict[str, str]()
    for name in removed:
        candidates = free.get((left[name].form, digests.get((0, name), "")), [])
        if candidates:
            # The one with the longest end in common: zeros are many.
            best = max(candidates, key=lambda other: _common_end(name, other))
            candidates.remove(best)
            renamed[name] = best
    return renamed


def _common_end(name: str, other: str) -> int:
    count = 0
    for a, b in zip(reversed(name.split(".")), reversed(other.split(".")), strict=False):
        if a != b:
            break
        count += 1
    return count


def _form(extent: Extent) -> str:
    dtype, shape = extent.form
    return f"{dtype} {list(shape)}"


def _keys(
    a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[str, str]]]:
    for key in sorted({*a, *b}):
        mine, theirs = a.get(key), b.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            sections = cast("dict[str, Any]", mine), cast("dict[str, Any]", theirs)
            yield from _keys(*sections, f"{prefix}{key}.")
        elif mine != theirs or (key in a) is not (key in b):
            told = [repr(each[key])[:200] if key in each else "none" for each in (a, b)]
            yield f"{prefix}{key}", (told[0], told[1])
