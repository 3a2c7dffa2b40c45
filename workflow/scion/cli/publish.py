"""The command line of `scion publish`: a release goes to the hub, whole or not at all."""

import argparse
from collections.abc import Callable
from pathlib import Path

_DESCRIPTION = """\
Publish the folder of a release in one commit. It is audited first, alone as by `scion audit`, and
not published if anything is refuted; what was audited is what is sent, byte by byte, and what the
hub holds afterwards is compared with it. Files that the repository has already are not sent again.

A repository that is not there yet is created private: a draft to look at. One that others can see
gets a pull request."""

_EPILOG = """\
examples:
  scion publish results/X/release owner/X --dry-run     what would happen, file by file
  scion publish results/X/release owner/X               a private draft, or a pull request
  scion publish results/X/release owner/X --public      the same, and then everybody may see it
  scion publish results/X/release owner/X --to-main     a commit where others see it at once

The token is the one of HF_TOKEN, or of `hf auth login`; it needs the right to write. HF_ENDPOINT
names another hub; HF_HUB_DISABLE_XET=1 sends large files by Git LFS.

A run that was cut is followed by the same command: nothing is public in half, large files that have
arrived are not sent twice, and a commit that was made is found.
"""


def add_publish(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]
) -> None:
    """Add the parser of `scion publish`, which calls `run` with what it has read."""
    parser = add_parser(
        "publish",
        help="send a release to the hub in one commit, audited before and compared after",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("release", type=Path, metavar="RELEASE", help="its folder")
    parser.add_argument("repository", metavar="OWNER/NAME", help="where it goes")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, and end")
    parser.add_argument(
        "--public", action="store_true", help="open a private repository once all is there"
    )
    parser.add_argument(
        "--to-main",
        action="store_true",
        help="commit to main of a public repository, instead of a pull request",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="remove what no release there has listed, so that the repository is the release",
    )
    parser.add_argument(
        "--undecided",
        action="store_true",
        help="publish a release that was measured too little for a verdict; a regression never is",
    )
    parser.add_argument(
        "--collection", metavar="TITLE", help="add the repository to this collection of its owner"
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="PEM",
        help="the publisher's public key: publish only what it has signed (model.sig)",
    )
    parser.set_defaults(run=run)


def publish(args: argparse.Namespace) -> None:
    """Run `scion publish`.

    Raises:
        ScionError: There is no release, its audit refutes it, or the hub refuses; it says what is
            published.
    """
    from scion.audit.attested import Signer
    from scion.audit.publication.audited import audited_release
    from scion.audit.publication.transaction import Publisher, PublishOptions
    from scion.checkpoint.hub.http import endpoint
    from scion.checkpoint.hub.location import SCHEME, HubRepository, parse_location
    from scion.common.text import printable

    # As people copy it from a page's address.
    name = args.repository.removeprefix(SCHEME).removeprefix(f"{endpoint()}/").rstrip("/")
    location = parse_location(f"{SCHEME}{name}")
    assert isinstance(location, HubRepository), "it begins with hf://"
    # Before a release is read for minutes: without a token nothing can come of it.
    publisher = Publisher(location)
    signer = Signer(args.key, None, None) if args.key else None
    release = audited_release(args.release, signer=signer, undecided=args.undecided)
    options = PublishOptions(
        to_main=args.to_main,
        public=args.public,
        replace=args.replace,
        collection=args.collection,
    )
    plan = publisher.plan(release, options)
    print(printable(f"audited: {args.release}, {len(release.digests)} files, root {release.root}"))
    print("\n".join(plan.lines()))
    if args.dry_run:
        print("dry run: nothing was sent")
        return
    print("\n".join(map(printable, publisher.publish(plan))))
