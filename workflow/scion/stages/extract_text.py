"""Strip the vision tower: its tensors, its part of config.json, its processor files.

Shards without vision tensors are hard-linked under their new number; the others are copied without
the tower's ranges, inside the kernel. With `text_only: false` the tower stays. Of an MTP head the
configuration says what becomes of it (`mtp`): the source's own stays as it is, bit for bit; or it
goes, and config.json no longer declares one, until `graft_mtp` puts the donor's in its place. What
configs say of code to load (`auto_map`) goes in any case: no code travels with a release.
"""

import sys
from typing import get_args

from scion.architectures.families import in_head
from scion.architectures.inventory import Inventory, inventory
from scion.architectures.text_only import text_config
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.own_head import OwnHead, own_head, require_own_head
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


def extract_text(
    *,
    fixed: Artifact,
    output: Output,
    text_only: bool,
    head: OwnHead,
    environment: str,
) -> Artifact:
    """Keep what the text model needs.

    Args:
        fixed: A checkpoint with sound keys.
        output: Where the artifact goes.
        text_only: False keeps the vision tower.
        head: What becomes of the source's own MTP head.
        environment: Identity of the locked environment.

    Returns:
        The artifact; its facts count removed tensors and bytes.

    Raises:
        ScionError: Tower or head shall stay, and is not there; or there is a head, and nothing
            says that it may go.
    """

    def build(draft: Draft) -> None:
        checkpoint = Checkpoint.open(fixed.folder)
        expected = inventory(checkpoint.config, where=fixed.folder / CONFIG)
        if not text_only:
            _require_tower(checkpoint, expected)
        found = own_head(checkpoint.shard_of, expected)
        require_own_head(head, found, expected, where=fixed.folder)
        vision = set(expected.vision) if text_only else set[str]()
        mtp = {name for name in checkpoint.shard_of if head != "kept" and in_head(name)}
        removed = (vision & set(checkpoint.shard_of)) | mtp
        rewritten = {checkpoint.shard_of[name] for name in removed}
        files = {*(PROCESSOR_FILES if text_only else ())}
        configs = {
            name: read_object(fixed.folder / name)
            for name in NAMING_CODE
            if name in fixed.files and name not in files
        }
        code = {name: keys for name in configs if (keys := code_references(configs[name]))}
        configs[CONFIG] = text_config(
            configs[CONFIG], text_only=text_only, keep_head=head == "kept"
        )
        draft.link_all(fixed, but={*files, *code, CONFIG, *checkpoint.headers, INDEX})
        _write_shards(draft, fixed, checkpoint, removed)
        for name in sorted({*code, CONFIG}):
            write_json(draft.folder / name, without_code(configs[name]))
        nothing = _not_applicable(expected)
        for part, reason in nothing.items():
            print(f"{part}: {reason}", file=sys.stderr)
        for name, keys in code.items():
            print(f"{name}: {', '.join(keys)} left out: no code travels along", file=sys.stderr)
        draft.facts |= {
            "text_only": text_only,
            "vision_tensors_removed": len(vision & removed),
            "vision_bytes_removed": sum(checkpoint.tensor(name).size for name in vision & removed),
            "mtp_tensors_removed": len(mtp),
            "mtp_tensors_kept": len(found) if head == "kept" else 0,
            "not_applicable": nothing,
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
        settings={"text_only": text_only, "head": head},
        environment=environment,
        build=build,
    )


def _not_applicable(expected: Inventory) -> dict[str, str]:
    """The parts that there is nothing to do about, each with the reason."""
    family = expected.family
    parts = {"vision tower": family.nested, "MTP head": family.head is not None}
    reason = f"the architecture, {family.title}, has none"
    return {part: reason for part, there in parts.items() if not there}


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
    parser.add_argument(
        "--head",
        choices=get_args(OwnHead),
        default="absent",
        help="what becomes of the source's own MTP head: it has none, the default, and one that it "
        "has is refused; it is kept; it is removed",
    )
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: extract_text(
            fixed=output.store.open_pointer(args.fixed),
            output=output,
            text_only=args.text_only == "true",
            head=args.head,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
