"""Whether the tensor tables of a release, its index and its shards tell of the same tensors.

`tensors.json` is held against the shards. The tables in `provenance/tensors/` are held one against
the next, so that each tensor is followed to the source, whose checkpoint may be elsewhere, and to
the donor if there is one; from them follows the origin that `tensors.json` has to say of each. What
neither quantizing nor a donor has made must be the source's own head or tower.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, cast

from scion.architectures.families import in_head
from scion.artifacts.artifact import tensor_rows
from scion.artifacts.file_check import FileCheck
from scion.artifacts.file_tree import FileTree, read_object
from scion.artifacts.origins import (
    Rows,
    packed_origins,
    same_bytes,
    tensor_origins,
    trained_origins,
)
from scion.artifacts.release_chain import quantized_stage
from scion.artifacts.release_layout import (
    GRAFTED,
    HEAD_QUANTIZED,
    HEALED,
    PROVENANCE,
    TENSORS,
    Manifest,
    table_file,
)
from scion.checkpoint.shards import INDEX, parse_weight_map
from scion.common.errors import ScionError
from scion.common.text import printable

# The checkpoints on the way to a release, of which it has the tables.
_SOURCE, _FIXED, _TEXT = "fetch_source", "fix_keys", "extract_text"
_QUANTIZED, _RESPELLED, _DONOR = "quantize_nvfp4", "respell", "fetch_donor"
_VERIFIED = "verify_release"
_ORIGIN = "origin"


def tensor_problems(
    tree: FileTree,
    files: Iterable[str],
    checked: FileCheck,
    manifests: Mapping[str, Manifest],
    *,
    damaged: Iterable[str],
) -> Iterator[str]:
    """A line for each thing in which they do not agree; it begins with the file.

    Args:
        tree: The files of the release.
        files: Those that the seal lists.
        checked: What was read of them.
        manifests: By stage, as `provenance/` has them.
        damaged: Files that are told already; nothing is said of them again.
    """
    listed_files = set(files)
    reader = _Reader(tree, set(damaged))
    table = reader.table(TENSORS) if TENSORS in listed_files else None
    if TENSORS not in listed_files:
        yield f"{TENSORS}: missing"
    stages = [stage for stage, made in manifests.items() if TENSORS in made["files"]]
    listed = {stage: table_file(stage) for stage in stages if table_file(stage) in listed_files}
    tables = {stage: reader.table(name) for stage, name in listed.items()}
    index = reader.index()
    yield from reader.problems
    if table is not None:
        yield from _altered(checked, table)
    rows = dict[str, Any]()
    for shard, digests in checked.tensors.items():
        for name, row in tensor_rows(checked.headers[shard], shard, digests).items():
            if name in rows:
                other = printable(rows[name]["file"])
                yield f"{shard}: {printable(name)} stands in {other} as well"
            rows[name] = row
    if len(checked.tensors) < sum(name.endswith(".safetensors") for name in listed_files):
        return
    if table is not None:
        yield from _differences(table, rows)
    if index is not None and index != {name: row["file"] for name, row in rows.items()}:
        yield f"{INDEX}: does not name the tensors of the shards"
    known = {stage: read for stage, read in tables.items() if read is not None}
    grafted = known.get(GRAFTED) if HEALED in manifests else rows
    healed = known.get(HEALED) if HEAD_QUANTIZED in manifests else rows
    if grafted is None or healed is None:
        # A table that is there and can't be read is told already.
        for stage, rows_before in ((GRAFTED, grafted), (HEALED, healed)):
            if rows_before is None and stage not in listed:
                yield f"{table_file(stage)}: missing"
        return
    yield from _chain(grafted, known)
    yield from _source_problems(grafted, known, manifests)
    yield from _verified_problems(rows, manifests)
    if HEALED in manifests:
        yield from _trained_problems(healed, grafted, manifests)
    if HEAD_QUANTIZED in manifests:
        yield from _head_problems(rows, healed, manifests)
    fixed, donor = tables.get(_FIXED), tables.get(_DONOR) if _DONOR in manifests else {}
    if table is not None and fixed is not None and donor is not None:
        origins = tensor_origins(grafted, source=fixed, donor=donor)
        origins = trained_origins(origins, healed, grafted)
        yield from _origin_problems(table, packed_origins(origins, rows, healed))


class _Reader:
    """Reads tables and index, and tells what can't be read.

    Attributes:
        problems: A line for each file that is no table, or no index.
    """

    def __init__(self, tree: FileTree, damaged: set[str]) -> None:
        self._tree, self._damaged = tree, damaged
        self.problems: list[str] = []

    def table(self, name: str) -> dict[str, Any] | None:
        """A tensor table; None for one that is damaged or of another form."""
        if name in self._damaged:
            return None
        try:
            table = read_object(self._tree, name)
        except ScionError as error:
            self.problems.append(f"{name}: {error.problem}: {printable(error.found)}")
            return None
        odd = next((tensor for tensor, row in table.items() if not _is_row(row)), None)
        if odd is not None:
            self.problems.append(f"{name}: {printable(odd)} has no dtype, shape and digest")
            return None
        return table

    def index(self) -> Mapping[str, str] | None:
        """The shard of each tensor by the index; None where there is none, or an unusable one."""
        if INDEX not in self._tree.files:
            return None
        try:
            return parse_weight_map(read_object(self._tree, INDEX), where=self._tree.place(INDEX))
        except ScionError as error:
            self.problems.append(f"{INDEX}: {error.problem}: {printable(error.found)}")
            return None


def _is_row(row: object) -> bool:
    """Whether a row has what tables are compared by."""
    if not isinstance(row, dict):
        return False
    shape = row.get("shape")
    return (
        isinstance(row.get("dtype"), str)
        and isinstance(row.get("file"), str)
        and isinstance(row.get("sha256"), str)
        and isinstance(shape, list)
        and all(isinstance(length, int) for length in shape)
    )


def _altered(checked: FileCheck, table: Rows) -> Iterator[str]:
    """The tensors of altered shards that are other than the table says."""
    for shard, digests in checked.altered.items():
        for name, sha256 in digests.items():
            if name not in table or table[name]["sha256"] != sha256:
                yield f"{shard}: {printable(name)} is not the tensor of {TENSORS}"


def _differences(table: Rows, rows: Rows) -> Iterator[str]:
    for name in {**table, **rows}:
        told = {key: value for key, value in table.get(name, {}).items() if key != _ORIGIN}
        if told != rows.get(name):
            yield f"{TENSORS}: {printable(name)} is not as its shard has it"


def _chain(rows: Rows, tables: Mapping[str, Rows]) -> Iterator[str]:
    """Tensors that one checkpoint has otherwise than the one that it was made from."""
    if _SOURCE in tables and _FIXED in tables:
        source, fixed = tables[_SOURCE], tables[_FIXED]
        yield from _unequal(_FIXED, fixed, _SOURCE, source)
        yield from _unequal(_SOURCE, source, _FIXED, fixed)
    if _FIXED in tables and _TEXT in tables:
        yield from _otherwise(_TEXT, tables[_TEXT], table_file(_FIXED), tables[_FIXED])
    if _QUANTIZED in tables and _RESPELLED in tables:
        # Names are others, and single numbers may be reciprocals.
        before, after = (_matrices(tables[stage]) for stage in (_QUANTIZED, _RESPELLED))
        yield from _unequal(_RESPELLED, after, _QUANTIZED, before)
        yield from _unequal(_QUANTIZED, before, _RESPELLED, after)
    for stage in (quantized_stage(tables), _DONOR):
        yield from _otherwise(stage, tables.get(stage, {}), "the shards", rows)


def _source_problems(
    rows: Rows, tables: Mapping[str, Rows], manifests: Mapping[str, Manifest]
) -> Iterator[str]:
    """Tensors that went around the quantizer, and are not the source's MTP head or vision tower.

    Either is there as a whole or not at all, in shards of its own, as the stages say.
    """
    wanted = {_FIXED, _TEXT, quantized_stage(tables), *({_DONOR} & manifests.keys())}
    if not wanted <= tables.keys() or GRAFTED not in manifests:
        return
    made = tables[quantized_stage(tables)].keys() | tables.get(_DONOR, {}).keys()
    fixed = tables[_FIXED]
    beside = {name: fixed[name] for name in fixed.keys() - tables[_TEXT].keys()}
    kept = rows.keys() - made
    for name in sorted(kept):
        if not same_bytes(rows[name], beside.get(name)):
            yield f"{printable(rows[name]['file'])}: {printable(name)} is of no stage before"
    for title, part in (
        ("MTP head", {name for name in beside if in_head(name)}),
        ("vision tower", {name for name in beside if not in_head(name)}),
    ):
        if kept & part and not part <= kept:
            yield f"{TENSORS}: has a part of the source's {title}, without {min(part - kept)}"
    yield from _count_problems(rows, kept, manifests)


def _count_problems(
    rows: Rows, kept: Collection[str], manifests: Mapping[str, Manifest]
) -> Iterator[str]:
    """Facts about what was put together that the tensors do not bear out."""
    tower = [name for name in kept if not in_head(name)]
    found = {
        "mtp_tensors": sum(map(in_head, rows)),
        "vision_tensors": len(tower),
        "text_only": not tower,
        "source_shards": sorted({rows[name]["file"] for name in kept}),
    }
    yield from _false_facts(GRAFTED, found, manifests)


def _verified_problems(rows: Rows, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Facts about what was verified that the shards do not bear out."""
    found = {"tensors": len(rows), "mtp_tensors": sum(map(in_head, rows))}
    yield from _false_facts(_VERIFIED, found, manifests)


def _false_facts(
    stage: str, found: Mapping[str, Any], manifests: Mapping[str, Manifest]
) -> Iterator[str]:
    told = manifests[stage]["facts"] if stage in manifests else found
    for key, value in found.items():
        if told.get(key) != value:
            yield f"{PROVENANCE}/{stage}.json: its fact {key} is not what the shards have"


def _trained_problems(
    rows: Rows, grafted: Rows, manifests: Mapping[str, Manifest]
) -> Iterator[str]:
    """What training a head has changed of the release, and may not; facts that tell otherwise."""
    trained = sum(not same_bytes(rows.get(name), row) for name, row in grafted.items())
    healing = manifests[HEALED]["facts"].get("healing")
    told = healing.get("healed") if isinstance(healing, dict) else None
    if told is not (trained > 0):
        yield f"{PROVENANCE}/{HEALED}.json: its fact healing is not what the shards have"
    verified = manifests.get(_VERIFIED)
    if verified is not None and verified["facts"].get("trained_tensors") != trained:
        yield f"{PROVENANCE}/{_VERIFIED}.json: its fact trained_tensors is not what the shards have"
    for name in sorted({*rows, *grafted}):
        row, before = rows.get(name), grafted.get(name)
        form = None if row is None else (row["dtype"], row["shape"])
        if before is None or form != (before["dtype"], before["shape"]):
            yield f"{TENSORS}: {printable(name)} has another form than before the head was trained"
        elif not in_head(name) and not same_bytes(row, before):
            yield f"{TENSORS}: {printable(name)} is not of the head, and is another than before"


def _head_problems(rows: Rows, healed: Rows, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """What quantizing a head has changed of the release, and may not; facts that tell otherwise."""
    changed = [name for name in rows if not same_bytes(rows[name], healed.get(name))]
    modules = {name.rpartition(".")[0] for name in changed}
    for name in sorted(changed):
        weight = healed.get(f"{name.rpartition('.')[0]}.weight")
        # What is packed has another form, and norms are no matrices.
        other = name not in healed or rows[name]["dtype"] != healed[name]["dtype"]
        if not (in_head(name) and weight and len(weight["shape"]) == 2 and other):
            yield f"{TENSORS}: {printable(name)} is no packed matrix of the head, and is another"
    for name in sorted(healed.keys() - rows.keys()):
        if name.removesuffix(".weight") not in modules:
            yield f"{TENSORS}: has no {printable(name)}, which {HEALED} has"
    told = manifests[HEAD_QUANTIZED]["facts"].get("quantized_head")
    named = told.get("modules") if isinstance(told, dict) else None
    if not isinstance(named, list) or set(map(str, cast("list[Any]", named))) != modules:
        yield (
            f"{PROVENANCE}/{HEAD_QUANTIZED}.json: its fact quantized_head is not what the shards "
            "have"
        )
    yield from _false_facts(_VERIFIED, {"quantized_head_modules": len(modules)}, manifests)


def _matrices(table: Rows) -> Rows:
    return {name: row for name, row in table.items() if math.prod(row["shape"]) > 1}


def _unequal(stage: str, table: Rows, other: str, given: Rows) -> Iterator[str]:
    """Tensors whose bytes the other table has not, or not as often; names may be others."""
    left = Counter(map(_bytes, given.values()))
    for name, row in table.items():
        if not left[_bytes(row)]:
            yield f"{table_file(stage)}: {printable(name)} is no tensor of {table_file(other)}"
        left[_bytes(row)] -= 1


def _bytes(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["dtype"], tuple(row["shape"]), row["sha256"]


def _otherwise(stage: str, table: Rows, other: str, given: Rows) -> Iterator[str]:
    """Tensors that are not the same under the same name in another table."""
    for name, row in table.items():
        if not same_bytes(row, given.get(name)):
            yield f"{table_file(stage)}: {printable(name)} is not that of {other}"


def _origin_problems(table: Rows, origins: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for name, row in table.items():
        if name not in origins:
            yield f"{TENSORS}: {printable(name)} comes from no tensor of source or donor"
        elif row.get(_ORIGIN) != origins[name]:
            wanted = f"{origins[name]['from']}, {printable(origins[name]['sha256'])}"
            yield f"{TENSORS}: {printable(name)} has another origin than {wanted}"
