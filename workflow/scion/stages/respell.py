"""Write a quantized checkpoint in another spelling: nothing is calibrated, no packed byte changes.

`quantize_nvfp4` writes ModelOpt's spelling; engines read compressed-tensors' as well. The tensors
get other names, global scales become reciprocals, and config.json declares the scheme in the other
words (`scion.quantization.respelling`). It is proven: the bytes of every other tensor, packed
weights and block scales included, have the digests that they had. Where the file system can share
blocks between files they are not copied either.
"""

import argparse
import sys

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.formats.spellings import SPELLINGS
from scion.quantization.respelling import Respelling, respelling
from scion.stages.common_options import run_stage, stage_parser


def respell(*, quantized: Artifact, spelling: str, output: Output, environment: str) -> Artifact:
    """Make the same checkpoint in another spelling.

    Args:
        quantized: The artifact of `quantize_nvfp4`.
        spelling: One of `scion.formats.spellings.SPELLINGS`.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Returns:
        The artifact; its facts are those of `quantized`, and `spelling` and `inexact_scales`: how
        many scales can't be taken back to their last bit.

    Raises:
        ScionError: The checkpoint is in this spelling already, or not as its own has it.
    """

    def build(draft: Draft) -> None:
        checkpoint = Checkpoint.open(quantized.folder)
        made = respelling(checkpoint, SPELLINGS[spelling])
        draft.link_all(quantized, but=made.written)
        made.write(draft.folder, index=True)
        draft.hash_files()
        _prove_unchanged(quantized, draft, made)
        draft.facts |= quantized.facts
        draft.facts |= {"spelling": spelling, "inexact_scales": len(made.inexact)}

    return remake(
        output,
        stage="respell",
        inputs={"quantized": quantized},
        settings={"spelling": spelling},
        environment=environment,
        build=build,
    )


def _prove_unchanged(quantized: Artifact, draft: Draft, made: Respelling) -> None:
    rows, names = draft.tensor_table(), made.names()
    for old, row in quantized.tensors().items():
        if old not in made.numbers and rows[names[old]]["sha256"] != row["sha256"]:
            raise ScionError(
                "tensor bytes are not what quantize_nvfp4 recorded",
                where=f"{quantized.folder}: {old}",
                expected=row["sha256"],
                found=rows[names[old]]["sha256"],
                hint="the artifact in the store was edited: see scion store verify, and run again",
            )


def main() -> int:
    """Parse arguments and run the stage."""
    parser = _parser()
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: respell(
            quantized=output.store.open_pointer(args.quantized),
            spelling=args.spelling,
            output=output,
            environment=args.environment,
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = stage_parser(__doc__, inputs={"quantized": "pointer of quantize_nvfp4"})
    parser.add_argument(
        "--spelling", required=True, choices=list(SPELLINGS), help="the spelling to write"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
