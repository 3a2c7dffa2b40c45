"""The command line of `scion check`: whether a folder is what its manifests say."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

_DESCRIPTION = """\
Read every file of a release again and follow its provenance: what the folder says twice has to
agree. Every file is the one that its stage made (card, pictures, results, manifests, SHA256SUMS),
every stage is there and made from the ones before it, the shards are those of the quantized
checkpoint and of the donor, tensors.json is of their tensors, and each comes from the tensor of the
source or the donor that it says. Of another artifact, such as results/X/quantize_nvfp4, the files
are held against its manifest."""

_EPILOG = """\
examples:
  scion check downloads/X                 a release that was downloaded
  scion check results/X/release           one that was made here

The hub's .gitattributes and the .cache/huggingface of its client may lie there too; a snapshot in
the hub's cache is read through its links. Whoever writes all digests anew, in every place, can make
a release of their own: compare the root digest with one that you have from its publisher.

exit codes:
  0  everything is what the manifests say
  1  something is not, or there is nothing to check
"""
# Told one by one.
_SHOWN = 100


def add_check(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]
) -> None:
    """Add the parser of `scion check`, which calls `run` with what it has read."""
    parser = add_parser(
        "check",
        help="read a release or any artifact again and follow its provenance",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="a release, downloaded or made here"
    )
    parser.set_defaults(run=run)


def check(args: argparse.Namespace) -> None:
    """Run `scion check`.

    Raises:
        ScionError: Something does not hold, or there is no artifact.
    """
    from scion.artifacts.artifact import Artifact
    from scion.artifacts.manifest import MANIFEST
    from scion.artifacts.release_check import check_release
    from scion.artifacts.release_layout import SEALED
    from scion.common.errors import ScionError
    from scion.common.text import printable

    artifact = Artifact.open(args.folder)
    # Only releases hold their own manifest, whatever stage it names.
    if artifact.stage == SEALED or (artifact.folder / MANIFEST).exists():
        artifact, problems = check_release(args.folder)
    else:
        problems = artifact.check()
    if problems:
        raise ScionError(
            "the folder is not what its manifests say",
            where=args.folder,
            expected=f"{len(artifact.files)} files, each as the stage that made it recorded it",
            found="\n".join(_told(problems)),
            hint="download the release again, or make it again with the workflow",
        )
    print(f"{printable(args.folder)}: {len(artifact.files)} files are what the manifests say")
    if artifact.stage == SEALED:
        print(f"weights: {artifact.facts['weights']}")
    else:
        print(f"content: {artifact.content}")
    print(f"root:    {artifact.root}")


def _told(problems: Sequence[str]) -> list[str]:
    more = len(problems) - _SHOWN
    return [*problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
