"""Strip the vision tower: its tensors, its part of config.json, its processor files.

Shards without vision tensors are hard-linked under their new number; the others are copied without
the tower's ranges, inside the kernel. A source's own MTP tensors go too, and config.json no longer
declares them: `graft_mtp` puts the donor's in their place. With `text_only: false` the tower stays.
What configs say of code to load (`auto_map`) goes in any case: no code travels with a release.
"""

import sys

from scion.architectures.inventory import Inventory, inventory
from scion.architectures.text_only import text_config
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.release_files import (
    NAMING_CODE,
    PROCESSOR_FILES,
    code_references,
    without_code,
)
from scion.checkpoint.safetensors_file import copy_subset
from scion.checkpoint.shards import (
    CONFIG,
    INDEX,
    Checkpoint,
    index_headers,
    read_object,
    shard_name,
)
from scion.common.digest import in_parallel
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.common.progress import progress
from scion.common.text import printable
from scion.stages.common_options import run_stage, stage_parser


def extract_text(*, fixed: Artifact, output: Output, text_only: bool, environment: str) -> Artifact:
    """Keep what the text model needs.

    Args:
        fixed: A checkpoint with sound keys.
        output: Where the artifact goes.
        text_only: False keeps the vision tower.
        environment: Identity of the locked environment.

    Returns:
        The artifact; its facts count removed tensors and bytes.

    Raises:
        ScionError: The tower shall stay, and is not there.
    """

    def build(draft: Draft) -> None:
        checkpoint = Checkpoint.open(fixed.folder)
        expected = inventory(checkpoint.config, where=fixed.folder / CONFIG)
        if not text_only:
            _require_tower(checkpoint, expected)
        vision = set(expected.vision) if text_only else set[str]()
        head = {
            name
            for name in checkpoint.shard_of
            if not expected.mtp.keys().isdisjoint(expected.represented([name]))
        }
        removed = (vision & set(checkpoint.shard_of)) | head
        rewritten = {checkpoint.shard_of[name] for name in removed}
        files = {*(PROCESSOR_FILES if text_only else ())}
        configs = {
            name: read_object(fixed.folder / name)
            for name in NAMING_CODE
            if name in fixed.files and name not in files
        }
        code = {name: keys for name in configs if (keys := code_references(configs[name]))}
        configs[CONFIG] = text_config(configs[CONFIG], text_only=text_only)
        draft.link_all(fixed, but={*files, *code, CONFIG, *checkpoint.headers, INDEX})
        _write_shards(draft, fixed, checkpoint, removed)
        for name in sorted({*code, CONFIG}):
            write_json(draft.folder / name, without_code(configs[name]))
        for name, keys in code.items():
            print(f"{name}: {', '.join(keys)} left out: no code travels along", file=sys.stderr)
        draft.facts |= {
            "text_only": text_only,
            "vision_tensors_removed": len(vision & removed),
            "vision_bytes_removed": sum(checkpoint.tensor(name).size for name in vision & removed),
            "mtp_tensors_removed": len(head),
            "shards_rewritten": len(rewritten),
            "code_references_removed": code,
            "files_removed": sorted(name for name in fixed.files if name in PROCESSOR_FILES)
            if text_only
            else [],
        }

    return remake(
        output,
        stage="extract_text",
        inputs={"fixed": fixed},
        settings={"text_only": text_only},
        environment=environment,
        build=build,
    )


def _require_tower(checkpoint: Checkpoint, expected: Inventory) -> None:
    if expected.vision and expected.vision.keys().isdisjoint(checkpoint.shard_of):
        raise ScionError(
            "the source has no vision tower to keep",
            where=checkpoint.folder,
            expected=f"{len(expected.vision)} tensors such as {next(iter(expected.vision))}",
            found="none of them, and a vision_config",
            hint="set text_only: true, or name a source that has its tower",
        )


def _write_shards(draft: Draft, fixed: Artifact, checkpoint: Checkpoint, removed: set[str]) -> None:
    kept = {
        shard: [name for name in header.tensors if name not in removed]
        for shard, header in checkpoint.headers.items()
    }
    kept = {shard: names for shard, names in kept.items() if names}
    new_names = {shard: shard_name(number, len(kept)) for number, shard in enumerate(kept, start=1)}
    whole = {shard for shard in kept if len(kept[shard]) == len(checkpoint.headers[shard].tensors)}
    for shard in sorted(whole):
        draft.link(fixed, shard, new_names[shard])

    parts = sorted(kept.keys() - whole)
    with progress("shards", len(parts)) as told:

        def copy_kept(shard: str) -> None:
            print(f"copying {len(kept[shard])} tensors of {printable(shard)}", file=sys.stderr)
            copy_subset(fixed.folder / shard, draft.folder / new_names[shard], kept[shard])
            told.advance()

        in_parallel(copy_kept, parts)
    index_headers(draft.folder, new_names.values())


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={"fixed": "pointer of fix_keys"})
    parser.add_argument("--text-only", choices=("true", "false"), required=True, help="strip it?")
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: extract_text(
            fixed=output.store.open_pointer(args.fixed),
            output=output,
            text_only=args.text_only == "true",
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
