"""Sign the release: OpenSSF model signing over the sealed folder, its manifest included.

The artifact holds `model.sig` alone, which the workflow puts beside the files in
`results/<release>/release`. The public key is an input, so that another key signs anew. The private
one is the file that SCION_SIGNING_KEY names: neither it nor its path is recorded anywhere. Who
keeps it on another machine leaves `attestations.public_key` out, and signs with `scion sign`.
"""

import sys
from pathlib import Path

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.release_layout import SIGNATURE, SIGNED
from scion.artifacts.results import export
from scion.report.attestation.signature import (
    key_verifier,
    named_private_key,
    require_as_sealed,
    sign_with_key,
    verify,
)
from scion.stages.common_options import add_file, run_stage, stage_parser


def sign_release(
    *, release: Artifact, public_key: Path, private_key: Path, output: Output, environment: str
) -> Artifact:
    """Sign a sealed release.

    Args:
        release: As `seal_release` has left it.
        public_key: PEM file of the public key, which the signature is verified with at once.
        private_key: PEM file of its other half.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Raises:
        ScionError: A key can't be used, they are no pair, or a file of the release was changed.
    """
    verifier = key_verifier(public_key)

    def build(draft: Draft) -> None:
        folder, signature = draft.work / "release", draft.folder / SIGNATURE
        draft.work.mkdir(parents=True, exist_ok=True)
        # What an attempt that failed has left may have been changed since.
        output.store.known.remove(folder)
        export(release, folder, output.store.known)
        require_as_sealed(folder, where=release.folder)
        sign_with_key(folder, signature, private_key)
        verify(folder, signature, verifier)

    return remake(
        output,
        stage=SIGNED,
        inputs={"release": release, "public_key": public_key},
        settings={},
        environment=environment,
        build=build,
        quotes_manifests=True,
    )


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={"release": "pointer of seal_release"})
    add_file(parser, "public-key", "PEM file of the public key")
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: sign_release(
            release=output.store.open_pointer(args.release),
            public_key=args.public_key,
            private_key=named_private_key(args.public_key),
            output=output,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
