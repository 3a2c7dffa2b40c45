"""The command line of `scion audit`: what source and donor prove of a release."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

_DESCRIPTION = """\
Prove a release, tensor by tensor, by the checkpoints that it was made from, without believing
whoever published it. Alone, every file is held against the seal, every manifest against the next,
attestations against manifests, and the checkpoint is linted. With --source, every tensor that stays
is compared bit by bit with the source's, under the name that it has there; every quantized weight
is derived again, codes, block scales and global scale; nothing may be missing but tower and head,
and nothing be there without an origin; config.json and the tokenizer have to be the source's. With
--donor, the MTP head has to be the donor's. With --key, the folder has to be the one that the key's
owner has signed, numbers on the card and samples' scales included. A release that another tool
made, without a manifest, is audited from config.json."""

_EPILOG = """\
outcomes:
  proved    it follows bit by bit from what was given
  bounded   samples chose block scales: codes follow from the stored scales bit by bit, and errors
            lie within what the recipe leaves; which scales samples choose is not derived
  unproved  nothing that was given tells: activation scales, a trained head's training, weights
            that GPTQ has moved, for an edit would look the same
            (--deep quantizes the source again, with the recorded samples: then both are proved,
            if it is run where they are and on the kind of device that made the release)
  refuted   what was given contradicts it; each exception is named

examples:
  scion audit downloads/X                                     alone
  scion audit downloads/X --source hf://owner/base@COMMIT     by ranges; no checkpoint is stored
  scion audit results/X/release --source S --donor D --format json > audit.json

Sources and donors are folders or repositories of the hub; of a donor only the head is read. Memory
stays below a gigabyte whatever their size, but for --deep, which takes what quantizing takes, and
room for source and release in the folder for temporary files (TMPDIR).

exit codes:
  0  nothing contradicts the release
  1  something does, or a part is proved less far than --require asks
  2  there is no release, source or donor, or it can't be read
"""

_REFUTED, _UNUSABLE = 1, 2


def add_audit(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]
) -> None:
    """Add the parser of `scion audit`, which calls `run` with what it has read."""
    parser = add_parser(
        "audit",
        help="prove a release by its source and donor, tensor by tensor",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("release", metavar="RELEASE", help="its folder, or hf://owner/name")
    parser.add_argument("--source", metavar="S", help="the bf16 checkpoint that it was made from")
    parser.add_argument("--donor", metavar="D", help="the checkpoint that its MTP head comes from")
    parser.add_argument(
        "--deep",
        action="store_true",
        help="lint reads every tensor as well, and the source is quantized again, if the recorded "
        "calibration samples are here; folders only",
    )
    parser.add_argument(
        "--root",
        metavar="DIGEST",
        help="the seal's root as its publisher names it: hold it to that",
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="PEM",
        help="the public key of its publisher: verify the signature of the folder (model.sig)",
    )
    parser.add_argument(
        "--identity",
        metavar="WHO",
        help="who signed it through Sigstore instead: an e-mail address, the URI of a job of CI",
    )
    parser.add_argument(
        "--issuer", metavar="URL", help="the OpenID Connect provider that vouches for --identity"
    )
    parser.add_argument(
        "--require",
        choices=("proved", "bounded"),
        help="exit with 1 if a part is proved less far than that",
    )
    parser.add_argument(
        "--format", choices=("text", "json", "sarif"), default="text", help="of the report"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the report there; the end is printed"
    )
    parser.set_defaults(run=run)


def audit_release(args: argparse.Namespace) -> int:
    """Run `scion audit`; the exit code."""
    from scion.common.errors import ScionError, of_system
    from scion.common.extras import extras_told
    from scion.common.files import atomic_file

    try:
        with extras_told():
            from scion.audit.attested import Signer
            from scion.audit.audit import audit
            from scion.audit.report import closing, sarif, text
            from scion.audit.verdict import ProofLevel
        named = (args.key, args.identity, args.issuer) != (None, None, None)
        found = audit(
            args.release,
            source=args.source,
            donor=args.donor,
            root=args.root,
            signer=Signer(args.key, args.identity, args.issuer) if named else None,
            deep=args.deep,
        )
        if args.format == "text":
            output = text(found)
        else:
            content = sarif(found) if args.format == "sarif" else found.record()
            # In ASCII: a hostile checkpoint can hold names that are no valid text.
            output = json.dumps(content, indent=2) + "\n"
        if args.output is None:
            sys.stdout.write(output)
        else:
            with atomic_file(args.output) as file:
                file.write(output.encode())
            print(closing(found))
    except (ScionError, OSError) as error:
        told = of_system(error) if isinstance(error, OSError) else error
        print(f"error: {told}", file=sys.stderr)
        return _UNUSABLE
    enough = args.require is None or found.reaches(ProofLevel(args.require))
    return 0 if enough and not found.refuted else _REFUTED
