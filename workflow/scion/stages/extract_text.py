"""Extract the language model: what is quantized, without vision tower and MTP head.

Their tensors go, and with them the tower's part of config.json and its processor files; config.json
declares no head. Shards without such tensors are hard-linked under their new number; the others are
copied without their ranges, inside the kernel. What a release keeps of them `graft_mtp` takes from
the same checkpoint as this, so releases that differ in that alone share what follows. What configs
say of code to load (`auto_map`) goes in any case: no code travels with a release.
"""

import sys

from scion.architectures.inventory import Inventory, inventory
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.taken_tensors import take_tensors
from scion.checkpoint.release_files import (
    NAMING_CODE,
    PROCESSOR_FILES,
    code_references,
    without_code,
)
from scion.checkpoint.shards import (
    CONFIG,
    INDEX,
    Checkpoint,
    index_headers,
    read_object,
    shard_name,
)
from scion.checkpoint.source_parts import LANGUAGE_MODEL, SourceParts
from scion.common.files import write_json
from scion.stages.common_options import run_stage, stage_parser


def extract_text(*, fixed: Artifact, output: Output, environment: str) -> Artifact:
    """Take the language model.

    Args:
        fixed: A checkpoint with sound keys.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Returns:
        The artifact; its facts count removed tensors and bytes.
    """

    def build(draft: Draft) -> None:
        checkpoint = Checkpoint.open(fixed.folder)
        expected = inventory(checkpoint.config, where=fixed.folder / CONFIG)
        parts = SourceParts.of(checkpoint.shard_of, expected)
        configs = {
            name: read_object(fixed.folder / name)
            for name in NAMING_CODE
            if name in fixed.files and name not in PROCESSOR_FILES
        }
        code = {name: keys for name in configs if (keys := code_references(configs[name]))}
        passed = {*PROCESSOR_FILES, *code, CONFIG, *checkpoint.headers, INDEX}
        draft.link_all(fixed, but=passed)
        names = checkpoint.shard_of.keys() - parts.beside
        shards = take_tensors(draft, fixed, checkpoint, names, shard_name=shard_name)
        index_headers(draft.folder, shards)
        configs[CONFIG] = LANGUAGE_MODEL.config(configs[CONFIG])
        for name in sorted({*code, CONFIG}):
            write_json(draft.folder / name, without_code(configs[name]))
        nothing = _not_applicable(expected)
        for part, reason in nothing.items():
            print(f"{part}: {reason}", file=sys.stderr)
        for name, keys in code.items():
            print(f"{name}: {', '.join(keys)} left out: no code travels along", file=sys.stderr)
        draft.facts |= {
            "vision_tensors_removed": len(parts.tower),
            "vision_bytes_removed": sum(checkpoint.tensor(name).size for name in parts.tower),
            "mtp_tensors_removed": len(parts.head),
            "not_applicable": nothing,
            "shards_rewritten": len({checkpoint.shard_of[name] for name in parts.beside}),
            "code_references_removed": code,
            "files_removed": sorted(name for name in fixed.files if name in PROCESSOR_FILES),
        }

    return remake(
        output,
        stage="extract_text",
        inputs={"fixed": fixed},
        settings={},
        environment=environment,
        build=build,
    )


def _not_applicable(expected: Inventory) -> dict[str, str]:
    """The parts that there is nothing to do about, each with the reason."""
    family = expected.family
    parts = {"vision tower": family.nested, "MTP head": family.head is not None}
    reason = f"the architecture, {family.title}, has none"
    return {part: reason for part, there in parts.items() if not there}


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={"fixed": "pointer of fix_keys"})
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: extract_text(
            fixed=output.store.open_pointer(args.fixed),
            output=output,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
