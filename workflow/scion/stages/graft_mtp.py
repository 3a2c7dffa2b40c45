"""Put the release together: the quantized language model, an MTP head, the vision tower.

A grafted head is the donor's own shard, hard-linked, so its tensors are the donor's bit for bit. A
head or tower that stays is the source's: taken from the checkpoint with sound keys, around the
quantizer. The quantized shards are hard-linked too. What is written is the index; config.json,
which declares the parts from here on; and tensors.json, which says from here on where each tensor
comes from. A donor that is no kin of the source is refused (`scion.checkpoint.kinship`).
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from scion.architectures.families import in_head
from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.origins import Rows, tensor_origins
from scion.artifacts.taken_tensors import take_tensors
from scion.checkpoint.own_head import OwnHead
from scion.checkpoint.release_files import (
    NAMING_CODE,
    PROCESSOR_FILES,
    code_references,
    without_code,
)
from scion.checkpoint.shards import CONFIG, INDEX, Checkpoint, index_headers, read_object
from scion.checkpoint.source_parts import NO_PARTS, Kept, SourceParts, require_parts
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.quantization.mtp_head import declare_head, donor_kinship, head_shards
from scion.quantization.respelling import excluding
from scion.stages.common_options import add_optional, run_stage, stage_parser


def graft_mtp(
    *,
    quantized: Artifact,
    fixed: Artifact,
    donor: Artifact | None,
    kept: Kept = NO_PARTS,
    trusted_donor: str | None = None,
    output: Output,
    environment: str,
) -> Artifact:
    """Put a quantized language model and the parts of its release together.

    Args:
        quantized: The NVFP4 checkpoint.
        fixed: The source with sound keys, whose language model was quantized.
        donor: The MTP tensors, as `fetch_donor` leaves them; None for a release with the source's
            own head, or without one.
        kept: What stays of the source beside its language model.
        trusted_donor: Location of a donor that is taken though it looks like no kin.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The source lacks what shall stay, or has a head and nothing says that it may go;
            the donor's tensors do not have the names, shapes and dtype that the source's
            config.json implies; or its weights are those of another base.
    """
    trusted = donor is not None and trusted_donor == donor.facts["location"]

    def build(draft: Draft) -> None:
        source = Checkpoint.open(fixed.folder)
        expected = inventory(source.config, where=fixed.folder / CONFIG)
        require_parts(kept, source.shard_of, expected, where=fixed.folder)
        parts = SourceParts.of(source.shard_of, expected).kept(kept)
        # Of an architecture without a tower none is kept, whatever is asked for.
        stays = replace(kept, tower="vision" in parts)
        code = _code_references(fixed, stays)
        if donor is not None and kept.head == "kept":
            raise _two_heads(fixed, donor)
        if donor is None and not parts:
            draft.link_all(quantized)
        else:
            shards = [
                shard
                for part, names in parts.items()
                for shard in take_tensors(draft, fixed, source, names, shard_name=_shard_of(part))
            ]
            _take_processors(draft, fixed, stays.files(fixed.files), code)
            patterns = [expected.family.vision_pattern] if "vision" in parts else []
            config = stays.config(source.config)
            _put_together(draft, quantized, donor, config, shards, patterns)
        draft.hash_files()
        rows = draft.tensor_table()
        draft.origins |= _origins(rows, quantized, fixed, donor)
        draft.facts |= {
            **_head_facts(rows, donor),
            "text_only": "vision" not in parts,
            "vision_tensors": len(parts.get("vision", ())),
            "source_shards": sorted(
                {rows[name]["file"] for part in parts.values() for name in part}
            ),
            "code_references_removed": code,
            "kinship": donor_kinship(fixed, donor, trusted=trusted) if donor else None,
            "recipe": quantized.facts["recipe"],
            "scale_checksums": quantized.facts["scale_checksums"],
        }

    return remake(
        output,
        stage="graft_mtp",
        inputs={"quantized": quantized, "fixed": fixed, **({"donor": donor} if donor else {})},
        settings={"trusted": trusted, "text_only": not kept.tower, "own_head": kept.head},
        environment=environment,
        build=build,
    )


def _two_heads(fixed: Artifact, donor: Artifact) -> ScionError:
    return ScionError(
        "there are two MTP heads: the source keeps its own, and a donor is given",
        where=fixed.folder,
        expected="one of them",
        found=f"{donor.facts['location']} beside it",
        hint="set mtp.origin: source and donor: null, or mtp.replaces_own: true",
    )


def _code_references(fixed: Artifact, kept: Kept) -> dict[str, list[str]]:
    """By config that the release has, the keys of the source's that name code to load."""
    gone = set(PROCESSOR_FILES) - set(kept.files(fixed.files))
    names = [name for name in NAMING_CODE if name in fixed.files and name not in gone]
    found = {name: code_references(read_object(fixed.folder / name)) for name in names}
    return {name: keys for name, keys in found.items() if keys}


def _take_processors(
    draft: Draft, fixed: Artifact, names: Iterable[str], code: Mapping[str, list[str]]
) -> None:
    """Take over files of the source as they are, or without what names code in them."""
    for name in names:
        if name in code:
            write_json(draft.folder / name, without_code(read_object(fixed.folder / name)))
        else:
            draft.link(fixed, name)


def _put_together(
    draft: Draft,
    quantized: Artifact,
    donor: Artifact | None,
    config: Mapping[str, Any],
    shards: Sequence[str],
    patterns: Sequence[str],
) -> None:
    """Link the quantized checkpoint and a donor's head; write index and declarations.

    Args:
        draft: The artifact in the making.
        quantized: The NVFP4 checkpoint.
        donor: The MTP tensors, if there are any.
        config: config.json without a donor's head and without the quantization.
        shards: Those in the draft that are the source's.
        patterns: What the declaration excludes besides.
    """
    checkpoint = Checkpoint.open(quantized.folder)
    scheme, sidecars = checkpoint.config["quantization_config"], dict[str, Any]()
    if patterns:
        scheme, sidecars = excluding(checkpoint, [*quantized.facts["excluded"], *patterns])
    draft.link_all(quantized, but={INDEX, CONFIG, *sidecars})
    grafted = list[str]()
    if donor is not None:
        config = declare_head(config, donor, where=quantized.folder / CONFIG)
        grafted = head_shards(donor)
        for shard in grafted:
            draft.link(donor, shard)
    index_headers(draft.folder, [*checkpoint.headers, *grafted, *shards])
    write_json(draft.folder / CONFIG, {**config, "quantization_config": scheme})
    for name, content in sidecars.items():
        write_json(draft.folder / name, content)


def _shard_of(part: str) -> Callable[[int, int], str]:
    """What shards of a part are called: as a donor's head is, where there is one alone."""

    def name(number: int, count: int) -> str:
        numbers = f"-{number:05}-of-{count:05}" if count > 1 else ""
        return f"model-{part}{numbers}.safetensors"

    return name


def _head_facts(rows: Rows, donor: Artifact | None) -> dict[str, Any]:
    """Where the head comes from, and how large it is."""
    head = [rows[name] for name in rows if in_head(name)]
    own = "source" if head else "none"
    return {
        "mtp_origin": own if donor is None else "donor",
        "mtp_tensors": len(head),
        "mtp_bytes": sum(row["range"][1] - row["range"][0] for row in head),
        "donor": None if donor is None else donor.facts["location"],
    }


def _origins(
    rows: Rows, quantized: Artifact, fixed: Artifact, donor: Artifact | None
) -> dict[str, dict[str, str]]:
    origins = tensor_origins(rows, source=fixed.tensors(), donor=donor.tensors() if donor else {})
    unknown = [name for name in rows if name not in origins]
    if unknown:
        raise ScionError(
            "a tensor of the quantized checkpoint comes from none of the source",
            where=f"{quantized.folder}: {unknown[0]}",
            expected="what was made of the source's tensors",
            found=f"{len(unknown)} others",
            hint="name the fix_keys artifact that the quantized text model was extracted from",
        )
    return origins


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(
        __doc__,
        inputs={
            "quantized": "pointer of quantize_nvfp4 or respell",
            "fixed": "pointer of fix_keys",
        },
    )
    parser.add_argument(
        "--text-only",
        choices=("true", "false"),
        required=True,
        help="false: the vision tower of the source stays",
    )
    parser.add_argument(
        "--own-head",
        choices=get_args(OwnHead),
        default="absent",
        help="what becomes of the source's own MTP head: it has none, the default, and one that it "
        "has is refused; it is kept; it is removed",
    )
    add_optional(parser, "donor", "POINTER", "pointer of fetch_donor")
    parser.add_argument(
        "--trusted-donor",
        nargs="?",
        metavar="LOCATION",
        help="location of a donor that is taken though it looks like no kin",
    )
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: graft_mtp(
            quantized=output.store.open_pointer(args.quantized),
            fixed=output.store.open_pointer(args.fixed),
            donor=output.store.open_pointer(args.donor) if args.donor else None,
            kept=Kept(tower=args.text_only == "false", head=args.own_head),
            trusted_donor=args.trusted_donor,
            output=output,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
