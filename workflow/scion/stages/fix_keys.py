"""Repair a checkpoint whose tensor names carry a repeated prefix, without moving a tensor byte.

Some exports repeat a module prefix in every key (transformers #45216, #45310); engines then find
none of their weights, and transformers says so only in a warning. The sound names follow from
config.json (`scion.architectures.sound_names`). The result is proven: the set of keys is the
expected set, shapes are the expected shapes, and each tensor's digest is what it was. A sound
checkpoint passes through by hard link.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from scion.architectures.inventory import Inventory, inventory
from scion.architectures.sound_names import prefix_rules, sound_names
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.safetensors_file import copy_renamed
from scion.checkpoint.shards import INDEX, Checkpoint, index_headers
from scion.common.digest import in_parallel
from scion.common.errors import ScionError
from scion.common.progress import progress
from scion.common.text import printable
from scion.stages.common_options import run_stage, stage_parser


def fix_keys(*, source: Artifact, output: Output, environment: str) -> Artifact:
    """Give every tensor of a checkpoint the name that config.json implies.

    Args:
        source: The fetched checkpoint.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Returns:
        The artifact; its facts name each rewritten prefix with its count, and whether the MTP head
        is missing.

    Raises:
        ScionError: The keys are not the expected ones, even without repeated prefixes.
    """

    def build(draft: Draft) -> None:
        checkpoint = Checkpoint.open(source.folder)
        where = source.folder / "config.json"
        expected = inventory(checkpoint.config, where=where)
        names = sound_names(checkpoint.shard_of, expected, where=source.folder)
        _check_shapes(checkpoint, names, expected)
        renamed = {old for old, new in names.items() if old != new}
        touched = {checkpoint.shard_of[name] for name in renamed}
        draft.link_all(source, but={*touched, *({INDEX} if touched else ())})
        if touched:
            rename_shards(checkpoint, names, touched, draft.folder)
            index_headers(draft.folder, checkpoint.headers)
        draft.hash_files()
        _prove_unchanged(source, draft, names)
        draft.facts |= {
            "renamed_tensors": len(renamed),
            "tensors": len(names),
            "prefixes": _prefixes(names),
            "mtp_missing": bool(expected.mtp)
            and expected.mtp.keys().isdisjoint(expected.represented(names.values())),
        }

    return remake(
        output,
        stage="fix_keys",
        inputs={"source": source},
        settings={},
        environment=environment,
        build=build,
    )


def rename_shards(
    checkpoint: Checkpoint, names: Mapping[str, str], shards: Iterable[str], folder: Path
) -> None:
    """Copy shards into `folder` with the tensors' new names, one thread a core."""
    renamed = sorted(shards)
    with progress("shards", len(renamed)) as told:

        def rename(shard: str) -> None:
            print(f"renaming keys of {printable(shard)}", file=sys.stderr)
            copy_renamed(checkpoint.folder / shard, folder / shard, names)
            told.advance()

        in_parallel(rename, renamed)


def _check_shapes(checkpoint: Checkpoint, names: Mapping[str, str], expected: Inventory) -> None:
    for key, name in names.items():
        wanted = expected.storable[name]
        if checkpoint.tensor(key).shape != wanted:
            raise ScionError(
                "a tensor's shape is not the one that config.json implies",
                where=f"{checkpoint.folder / checkpoint.shard_of[key]}: {key}",
                expected=f"{list(wanted)} for {name}",
                found=list(checkpoint.tensor(key).shape),
                hint="config.json belongs to another model: fetch both at one revision",
            )


def _prove_unchanged(source: Artifact, draft: Draft, names: Mapping[str, str]) -> None:
    before = {names[name]: row["sha256"] for name, row in source.tensors().items()}
    after = {name: row["sha256"] for name, row in draft.tensor_table().items()}
    if before != after:
        changed = sorted(name for name in before if before[name] != after.get(name))
        raise ScionError(
            "tensor bytes are not what fetch_source recorded",
            where=f"{source.folder}: {changed[0]}",
            expected=before[changed[0]],
            found=after.get(changed[0]),
            hint="the artifact in the store was edited: see scion store verify, and run again",
        )


def _prefixes(names: Mapping[str, str]) -> list[dict[str, object]]:
    """Each rewritten prefix with the number of tensors that carry it."""
    return [
        {"found": found, "sound": sound, "tensors": count}
        for (found, sound), count in sorted(prefix_rules(names).items())
    ]


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={"source": "pointer of fetch_source"})
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: fix_keys(
            source=output.store.open_pointer(args.source),
            output=output,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
