"""Prove that a release is what it says, from the bytes of its files and those of its parts.

Nothing is taken from the release's own index, and of its table only which tensors were trained:
the tensors that must be there follow from the *source's* inventory, and every digest is taken anew.
What is checked:

- inventory: each tensor of the language model is there, unchanged or as four NVFP4 tensors or three
  of FP8; the MTP head and the vision tower are there, or no tensor of one that the release has not;
  nothing else is;
- scheme: `scion lint` has no error to report, for the engines that are to serve the release: each
  builds every module as it is stored, both config files say the same, fused groups share their
  scales, and every global scale is finite and positive;
- unchanged tensors equal the source's, those of its own MTP head and vision tower among them if
  these were kept, and a grafted head's the donor's, bit for bit; the head's alone may be trained
  instead, which the table of heal_mtp says of each, with what training began with;
- the matrices of a quantized head are within one rounding of those that heal_mtp has left, with
  maximum scales, and their inputs have the scales of what training has seen;
- quantized weights decode to within one rounding of the source's, or, where a recipe chooses scales
  or moves weights, to what it may make of them (`scion.quantization.verify_nvfp4`); no row has
  vanished; scales of FP8 are those of the largest number of their group; and every number of what
  went around the quantizer, MTP head and vision tower, is finite.
"""

import sys

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.common.files import write_json
from scion.lint.config import Lint
from scion.lint.gate import LintSettings
from scion.stages.common_options import (
    add_optional,
    add_settings,
    read_settings,
    run_stage,
    stage_parser,
)

REPORT = "verification.json"


def verify_release(
    *,
    release: Artifact,
    fixed: Artifact,
    donor: Artifact | None,
    healed: Artifact | None = None,
    output: Output,
    settings: Lint,
    environment: str,
) -> Artifact:
    """Check a grafted release against the checkpoints it was made from.

    Args:
        release: The NVFP4 checkpoint, with its MTP head if it has one.
        fixed: The bf16 source with sound keys.
        donor: The MTP tensors; None where the head is the source's own, or there is none.
        healed: The release as heal_mtp has left it, where its head was quantized after that.
        output: Folder of the artifact to make; it holds the report, not the weights.
        settings: Engines to judge the release for, and rules to leave out.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The first check that fails.
    """

    def build(draft: Draft) -> None:
        # Here, because torch takes seconds to import, and the store may have the artifact.
        from scion.quantization.verify_checkpoint import verify_checkpoint

        report = verify_checkpoint(release, fixed, donor, settings, healed=healed)
        write_json(draft.folder / REPORT, report)
        by_module = "relative_weight_error_by_module"
        draft.facts |= {key: value for key, value in report.items() if key != by_module}

    inputs = {"release": release, "fixed": fixed}
    inputs |= {"donor": donor} if donor else {}
    inputs |= {"healed": healed} if healed else {}
    return remake(
        output,
        stage="verify_release",
        inputs=inputs,
        settings={"lint": settings.model_dump(mode="json")},
        environment=environment,
        build=build,
    )


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(
        __doc__,
        inputs={
            "release": "pointer of graft_mtp, heal_mtp or quantize_mtp",
            "fixed": "pointer of fix_keys",
        },
    )
    add_optional(parser, "donor", "POINTER", "pointer of fetch_donor")
    add_optional(parser, "healed", "POINTER", "pointer of heal_mtp, for a release of quantize_mtp")
    add_settings(parser, LintSettings)
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: verify_release(
            release=output.store.open_pointer(args.release),
            fixed=output.store.open_pointer(args.fixed),
            donor=output.store.open_pointer(args.donor) if args.donor else None,
            healed=output.store.open_pointer(args.healed) if args.healed else None,
            output=output,
            settings=read_settings(args.settings, LintSettings).lint,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
