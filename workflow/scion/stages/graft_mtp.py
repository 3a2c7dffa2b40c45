"""Graft the donor's bf16 MTP head onto the quantized checkpoint.

The head is the donor's own shard, hard-linked, so its tensors are the donor's bit for bit; the
quantized shards are hard-linked too. Only the index is written; config.json, which declares the
head from here on; and tensors.json, which says from here on where each tensor comes from.
"""

import sys

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.origins import Rows, tensor_origins
from scion.checkpoint.shards import INDEX, Checkpoint, index_headers
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.quantization.mtp_head import declare_head, head_shards
from scion.stages.common_options import run_stage, stage_parser


def graft_mtp(
    *, quantized: Artifact, text: Artifact, donor: Artifact, output: Output, environment: str
) -> Artifact:
    """Put a quantized checkpoint and a donor's MTP head together.

    Args:
        quantized: The NVFP4 checkpoint.
        text: The bf16 text model that was quantized, for the tensors' origins.
        donor: The MTP tensors, as `fetch_donor` leaves them.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The donor's tensors do not have the names, shapes and dtype that the target's
            config.json implies.
    """

    def build(draft: Draft) -> None:
        checkpoint = Checkpoint.open(quantized.folder)
        where = quantized.folder / "config.json"
        config = declare_head(checkpoint.config, donor, where=where)
        draft.link_all(quantized, but={INDEX, "config.json"})
        rows = donor.tensors().values()
        head = head_shards(donor)
        for shard in head:
            draft.link(donor, shard)
        index_headers(draft.folder, [*checkpoint.headers, *head])
        write_json(draft.folder / "config.json", config)
        draft.origins |= _origins(draft.tensor_table(), quantized, text, donor)
        draft.facts |= {
            "mtp_tensors": len(rows),
            "mtp_bytes": sum(row["range"][1] - row["range"][0] for row in rows),
            "donor": donor.facts["location"],
            "recipe": quantized.facts["recipe"],
            "scale_checksums": quantized.facts["scale_checksums"],
        }

    return remake(
        output,
        stage="graft_mtp",
        inputs={"quantized": quantized, "text": text, "donor": donor},
        settings={},
        environment=environment,
        build=build,
    )


def _origins(
    rows: Rows, quantized: Artifact, text: Artifact, donor: Artifact
) -> dict[str, dict[str, str]]:
    origins = tensor_origins(rows, text=text.tensors(), donor=donor.tensors())
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
            "donor": "pointer of fetch_donor",
        },
    )
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: graft_mtp(
            quantized=output.store.open_pointer(args.quantized),
            text=output.store.open_pointer(args.text),
            donor=output.store.open_pointer(args.donor),
            output=output,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
