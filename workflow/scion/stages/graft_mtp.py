"""Graft the donor's bf16 MTP head onto the quantized checkpoint.

The head is the donor's own shard, hard-linked, so its tensors are the donor's bit for bit; the
quantized shards are hard-linked too. Only the index is written; config.json, which declares the
head from here on; and tensors.json, which says from here on where each tensor comes from. A donor
that is no kin of the source is refused (`scion.checkpoint.kinship`).

Without a donor the release has the head that the source kept, or none. The stage then passes the
checkpoint on, and says where its tensors come from.
"""

import sys
from typing import Any

from scion.architectures.families import in_head
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.origins import Rows, tensor_origins
from scion.checkpoint.shards import CONFIG, INDEX, Checkpoint, index_headers
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.quantization.mtp_head import declare_head, donor_kinship, head_shards
from scion.stages.common_options import add_optional, run_stage, stage_parser


def graft_mtp(
    *,
    quantized: Artifact,
    text: Artifact,
    donor: Artifact | None,
    trusted_donor: str | None = None,
    output: Output,
    environment: str,
) -> Artifact:
    """Put a quantized checkpoint and a donor's MTP head together.

    Args:
        quantized: The NVFP4 checkpoint.
        text: The bf16 text model that was quantized, for the tensors' origins.
        donor: The MTP tensors, as `fetch_donor` leaves them; None for a release with the source's
            own head, or without one.
        trusted_donor: Location of a donor that is taken though it looks like no kin.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The donor's tensors do not have the names, shapes and dtype that the target's
            config.json implies; or its weights are those of another base.
    """
    trusted = donor is not None and trusted_donor == donor.facts["location"]

    def build(draft: Draft) -> None:
        if donor is None:
            draft.link_all(quantized)
        else:
            _graft(draft, quantized, donor)
        rows = draft.tensor_table()
        draft.origins |= _origins(rows, quantized, text, donor)
        draft.facts |= {
            **_head_facts(rows, donor),
            "kinship": donor_kinship(text, donor, trusted=trusted) if donor else None,
            "recipe": quantized.facts["recipe"],
            "scale_checksums": quantized.facts["scale_checksums"],
        }

    return remake(
        output,
        stage="graft_mtp",
        inputs={"quantized": quantized, "text": text, **({"donor": donor} if donor else {})},
        settings={"trusted": trusted},
        environment=environment,
        build=build,
    )


def _graft(draft: Draft, quantized: Artifact, donor: Artifact) -> None:
    checkpoint = Checkpoint.open(quantized.folder)
    where = quantized.folder / CONFIG
    if any(map(in_head, checkpoint.shard_of)):
        raise ScionError(
            "there are two MTP heads: the source kept its own, and a donor is given",
            where=quantized.folder,
            expected="one of them",
            found=f"{donor.facts['location']} beside it",
            hint="set mtp.origin: source and donor: null, or mtp.replaces_own: true",
        )
    config = declare_head(checkpoint.config, donor, where=where)
    head = head_shards(donor)
    draft.link_all(quantized, but={INDEX, CONFIG})
    for shard in head:
        draft.link(donor, shard)
    index_headers(draft.folder, [*checkpoint.headers, *head])
    write_json(draft.folder / CONFIG, config)


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
    rows: Rows, quantized: Artifact, text: Artifact, donor: Artifact | None
) -> dict[str, dict[str, str]]:
    origins = tensor_origins(rows, text=text.tensors(), donor=donor.tensors() if donor else {})
    unknown = [name for name in rows if name not in origins]
    if unknown:
        raise ScionError(
            "a tensor of the quantized checkpoint comes from none of the text model",
            where=f"{quantized.folder}: {unknown[0]}",
            expected="the tensors of the checkpoint that was quantized",
            found=f"{len(unknown)} others",
            hint="name the extract_text artifact that quantize_nvfp4 was given",
        )
    return origins


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(
        __doc__,
        inputs={
            "quantized": "pointer of quantize_nvfp4 or respell",
            "text": "pointer of extract_text",
        },
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
            text=output.store.open_pointer(args.text),
            donor=output.store.open_pointer(args.donor) if args.donor else None,
            trusted_donor=args.trusted_donor,
            output=output,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
