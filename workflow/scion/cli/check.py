"""The command line of `scion check`: whether a release is what its manifests say."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scion.artifacts.file_tree import FileTree
    from scion.checkpoint.hub.location import HubRepository

_DESCRIPTION = """\
Read every file of a release again and follow its provenance: what the release says twice has to
agree. Every file is the one that its stage made (card, pictures, results, manifests, SHA256SUMS),
every stage is there and made from the ones before it, the shards are those of the quantized
checkpoint and of the donor, tensors.json is of their tensors, and each comes from the tensor of the
source or the donor that it says. Of another artifact, such as results/X/quantize_nvfp4, the files
are held against its manifest."""

_EPILOG = """\
examples:
  scion check downloads/X                 a release that was downloaded
  scion check results/X/release           one that was made here
  scion check hf://owner/name             one on the hub, as it is now
  scion check hf://owner/name@COMMIT      the same at a commit

Of a repository on the hub every byte is moved and hashed, and none is kept on disk; without a
commit it is read at the one that its default branch has, which the first line names.

What the hub and its clients put beside the files is named and not read: .gitattributes,
.cache/huggingface, .git; a snapshot in the hub's cache is read through its links. Whoever writes
all digests anew, in every place, can make a release of their own: compare the root digest with one
that you have from its publisher.

exit codes:
  0  everything is what the manifests say
  1  something is not, there is nothing to check, or the hub can't be read
"""
# Told one by one.
_SHOWN = 100
_NAMED = 12


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
        "release",
        metavar="RELEASE",
        help="its folder, downloaded or made here, or hf://owner/name[@revision]",
    )
    parser.set_defaults(run=run)


def check(args: argparse.Namespace) -> None:
    """Run `scion check`.

    Raises:
        ScionError: Something does not hold, or there is no artifact.
    """
    from scion.artifacts.release_layout import SEALED
    from scion.checkpoint.hub.location import HubRepository, parse_location
    from scion.common.errors import ScionError
    from scion.common.text import printable, size

    location = parse_location(args.release)
    on_hub = isinstance(location, HubRepository)
    tree, manifest, problems = _on_hub(location) if on_hub else _in_folder(location.path)
    files = manifest["files"]
    if problems:
        again = "download the release again, or make it again with the workflow"
        raise ScionError(
            f"the {'repository' if on_hub else 'folder'} is not what its manifests say",
            where=tree.name,
            expected=f"{len(files)} files, each as the stage that made it recorded it",
            found="\n".join(_told(problems)),
            hint="tell whoever publishes it, and do not serve it" if on_hub else again,
        )
    read = size(sum(entry["size"] for entry in files.values()))
    print(f"{printable(tree.name)}: {len(files)} files are what the manifests say, {read}")
    if tree.added:
        print(f"beside them, not read: {printable(', '.join(sorted(tree.added)))}")
    if manifest["stage"] == SEALED:
        print(f"weights: {manifest['facts']['weights']}")
    else:
        print(f"content: {manifest['content']}")
    print(f"root:    {manifest['root']}")


_Checked = tuple["FileTree", Mapping[str, Any], Sequence[str]]


def _in_folder(folder: Path) -> _Checked:
    """The files of a release or of another artifact, its manifest, and what does not hold."""
    from scion.artifacts.artifact import Artifact
    from scion.artifacts.file_check import check_files
    from scion.artifacts.file_tree import FolderTree
    from scion.artifacts.manifest import MANIFEST
    from scion.artifacts.release_check import check_release
    from scion.artifacts.release_layout import SEALED

    artifact = Artifact.open(folder)
    tree = FolderTree(artifact.folder)
    # Only releases hold their own manifest, whatever stage it names.
    if artifact.stage == SEALED or (artifact.folder / MANIFEST).exists():
        return tree, *check_release(tree)
    _refuse_dropped(artifact.folder.resolve())
    return tree, artifact.manifest, check_files(tree, artifact.files, besides=MANIFEST).problems


def _refuse_dropped(folder: Path) -> None:
    """Say of an artifact whose weights a run has dropped that there is nothing wrong with it."""
    from scion.artifacts.store.store import Store
    from scion.artifacts.store.survey import HEX
    from scion.common.errors import ScionError

    if not HEX.fullmatch(folder.name):
        return
    if dropped := Store(folder.parents[1]).dropped.of(f"sha256:{folder.name}"):
        raise ScionError(
            "the weights of this artifact were dropped from the store, as `scratch` asks for",
            where=folder,
            expected=", ".join(dropped),
            found="its other files",
            hint="a run of the workflow that reads them has them made again; scion store verify "
            "checks the other files",
        )


def _on_hub(repository: "HubRepository") -> _Checked:
    """The same of a release on the hub."""
    from scion.artifacts.hub_tree import HubTree
    from scion.artifacts.manifest import MANIFEST
    from scion.artifacts.release_check import check_release
    from scion.common.errors import ScionError

    repository.require_model()
    tree = HubTree(repository)
    if MANIFEST not in tree.files:
        raise ScionError(
            "the repository holds no release that Scion has sealed",
            where=tree.name,
            expected=f"{MANIFEST} at its top",
            found=", ".join(sorted(tree.files)[:_NAMED]) or "no file",
            hint=f"scion lint {tree.name} judges any checkpoint",
        )
    return tree, *check_release(tree)


def _told(problems: Sequence[str]) -> list[str]:
    more = len(problems) - _SHOWN
    return [*problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
