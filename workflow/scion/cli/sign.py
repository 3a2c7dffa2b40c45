"""The command line of `scion sign`: sign the folder of a release."""

import argparse
from collections.abc import Callable
from pathlib import Path

_DESCRIPTION = """\
Sign a sealed release by OpenSSF model signing: a Sigstore bundle over the SHA-256 of every file of
the folder, model.sig in it. With --key by a private key, offline; with --sigstore in the name of
whom Sigstore identifies in a browser, or of the job of CI that runs it, for which its servers have
to be within reach. The workflow signs by itself where attestations.public_key is configured; this
is for keys that are kept on another machine."""

_EPILOG = """\
a pair of keys:
  openssl ecparam -genkey -name prime256v1 -noout -out private.pem
  openssl ec -in private.pem -pubout -out public.pem

examples:
  scion sign downloads/X --key private.pem         its password, if any, in SCION_SIGNING_PASSWORD
  scion sign downloads/X --sigstore
  scion audit downloads/X --key public.pem         verify, and all else
  model_signing verify key downloads/X --signature downloads/X/model.sig --public_key public.pem

A release that is not what its manifests say is not signed. An earlier signature is replaced.
"""


def add_sign(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]
) -> None:
    """Add the parser of `scion sign`, which calls `run` with what it has read."""
    parser = add_parser(
        "sign",
        help="sign the folder of a release",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("release", type=Path, metavar="RELEASE", help="its folder")
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument("--key", type=Path, metavar="PEM", help="the private key")
    by.add_argument("--sigstore", action="store_true", help="by an identity, through Sigstore")
    parser.set_defaults(run=run)


def sign(args: argparse.Namespace) -> None:
    """Run `scion sign`.

    Raises:
        ScionError: There is no release, it is not what its manifests say, or it can't be signed.
    """
    from scion.artifacts.artifact import Artifact
    from scion.artifacts.file_tree import FolderTree
    from scion.artifacts.release_layout import SIGNATURE
    from scion.audit.attested import audit_attestations
    from scion.common.errors import ScionError
    from scion.report.attestation.signature import (
        require_as_sealed,
        sign_with_key,
        sign_with_sigstore,
    )

    folder = Artifact.open(args.release).folder
    require_as_sealed(folder, where=folder)
    attested = audit_attestations(FolderTree(folder))
    if attested is not None and attested.faults:
        fault, more = attested.faults[0], len(attested.faults) - 1
        raise ScionError(
            "an attestation is not what the manifests say, and the release was not signed",
            where=f"{folder}: {fault.subject}",
            expected=fault.expected,
            found=fault.found + (f", and {more} more" if more else ""),
            hint=f"scion audit {folder}",
        )
    signature = folder / SIGNATURE
    if args.sigstore:
        sign_with_sigstore(folder, signature)
    else:
        sign_with_key(folder, signature, args.key)
    print(f"signed: {signature}")
